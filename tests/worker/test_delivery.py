"""Delivery to S3: keys, types, parts, URLs, and what is said where it fails."""

from __future__ import annotations

import asyncio
import base64
import errno
import hashlib
import os
import socket
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import requests

from fakes.comfyui import PNG
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import ErrorInfo, JobFailed, JobRequest
from pennyreel_worker import delivery
from pennyreel_worker.delivery import Made
from pennyreel_worker.storage import Store
from worker.support import S3, SECRET, Bench, node, play, request, settings_of, until

MB = 1 << 20
BIG = {"1": node("FakeBig", bytes=40 * MB, filename_prefix="big")}


def get(url: str | None) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url or "", timeout=10)


def test_where_there_is_a_bucket_the_result_is_a_url(s3_bench: Bench, s3: S3) -> None:
    body = request(outputs={"url_ttl_s": 600})
    before = datetime.now(timezone.utc)
    (image,) = s3_bench.good(body).artifacts
    key = f"pennyreel/{body['attempt_id']}/shot_00001_.png"
    assert image.s3 == f"s3://{s3.bucket}/{key}"
    assert image.data is None
    assert get(image.url).content == PNG
    assert s3.head(key)["ContentType"] == "image/png"
    assert image.sha256 == hashlib.sha256(PNG).hexdigest()
    assert image.url_expires is not None
    assert 590 <= (image.url_expires - before).total_seconds() <= 602
    assert "X-Amz-Expires=600" in (image.url or "")


def test_the_key_template_is_the_operators(make_bench: Callable[..., Bench], s3: S3) -> None:
    template = "out/{date}/{kind}/{job_id}/{attempt_id}-{name}"
    bench = make_bench(**s3.env(PENNYREEL_S3_KEY_TEMPLATE=template))
    body = request()
    (image,) = bench.good(body, "job-k").artifacts
    day = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    wanted = f"out/{day}/image/job-k/{body['attempt_id']}-shot_00001_.png"
    assert image.s3 == f"s3://{s3.bucket}/{wanted}"


def test_texts_go_to_the_bucket_too_with_their_type(s3_bench: Bench, s3: S3) -> None:
    (text,) = s3_bench.good(request({"1": node("FakeText", text="grüße")})).artifacts
    assert get(text.url).content.decode() == "grüße"
    assert s3.head((text.s3 or "").split("/", 3)[3])["ContentType"] == "text/plain"


def test_a_large_file_is_streamed_in_parts(s3_bench: Bench, s3: S3) -> None:
    tracemalloc.start()
    try:
        (made,) = s3_bench.good(request(BIG)).artifacts
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    head = s3.head((made.s3 or "").split("/", 3)[3])
    assert head["ContentLength"] == made.bytes == 40 * MB
    assert head["ETag"].strip('"').endswith("-3")  # three parts
    assert head["ContentType"] == "application/octet-stream"
    assert peak < 16 * MB
    assert made.sha256 == hashlib.sha256(get(made.url).content).hexdigest()


def test_how_much_of_the_delivery_has_gone_is_told(s3: S3, tmp_path: Path) -> None:
    shares: list[float] = []
    made = [Made("1", "text", "text", "text/plain", content=b"x" * MB)]
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(b"\0" * (20 * MB))
        made.append(Made("1", name, "file", "application/octet-stream", path=tmp_path / name))
    with closing(Store(settings_of(**s3.env()).bucket)) as store, ThreadPoolExecutor(2) as pool:  # type: ignore[arg-type]
        artifacts = delivery.to_store(
            made,
            store,
            request=JobRequest(**request()),
            job_id="job",
            template="{name}",
            pool=pool,
            deadline=Deadline(60),
            cancel=CancelToken(),
            progress=shares.append,
        )
    assert [a.bytes for a in artifacts] == [MB, 20 * MB, 20 * MB]
    assert len(set(shares)) == len(shares) > 2
    assert min(shares) > 0
    assert max(shares) == 1


def test_inline_is_inline_where_it_is_asked_for(s3_bench: Bench, s3: S3) -> None:
    body = request(outputs={"delivery": "inline"})
    (image,) = s3_bench.good(body).artifacts
    assert image.data is not None
    assert s3.listed() == [f"results/{body['attempt_id']}.json"]


def test_what_is_too_large_inline_goes_to_the_bucket_with_a_word(
    make_bench: Callable[..., Bench], s3: S3
) -> None:
    bench = make_bench(**s3.env(PENNYREEL_INLINE_MAX_BYTES="1000000"))
    graph = {"1": node("FakeBig", bytes=MB)}
    result = bench.good(request(graph, outputs={"delivery": "inline"}))
    assert result.artifacts[0].url
    assert any("too large to return inline" in w for w in result.warnings)


def test_what_fits_by_its_files_but_not_by_its_labels_goes_there_too(
    make_bench: Callable[..., Bench], s3: S3
) -> None:
    limit = 4 * ((MB + 2) // 3) + 5000
    bench = make_bench(**s3.env(PENNYREEL_INLINE_MAX_BYTES=str(limit)))
    graph = {"1": node("FakeBig", bytes=MB)}
    outputs = {"delivery": "inline"}
    assert bench.good(request(graph, outputs=outputs)).artifacts[0].data
    large = request(graph, outputs=outputs, metadata={"note": "x" * 9000})
    assert bench.good(large).artifacts[0].url


def test_a_bucket_at_a_private_address_is_refused_unless_the_operator_allows_it(
    bench: Bench, s3: S3
) -> None:
    given = {"endpointUrl": s3.url, "accessId": "a", "accessSecret": "b", "bucketName": "c"}
    assert bench.bad(request(), s3Config=given).code == "address_refused"


def test_a_job_may_bring_its_own_bucket(
    make_bench: Callable[..., Bench],
    s3: S3,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO")
    bench = make_bench(PENNYREEL_ALLOW_HOSTS=s3.url.removeprefix("http://"))
    given = {
        "endpointUrl": s3.url, "accessId": "AKIATEST", "accessSecret": SECRET,
        "bucketName": s3.bucket,
    }  # fmt: skip
    body = request()
    (image,) = bench.good(body, s3Config=given).artifacts
    assert (image.s3 or "").startswith(f"s3://{s3.bucket}/"), "there, and not inline"
    quiet("", caplog, capfd)
    assert get(image.url).content == PNG
    assert f"results/{body['attempt_id']}.json" in s3.listed()
    problem = bench.bad(request(), s3Config={**given, "endpointUrl": "ftp://x"})
    assert (problem.code, "s3Config.endpointUrl" in problem.message) == ("bad_request", True)


# Attempts.


def test_a_repeated_attempt_costs_nothing(s3_bench: Bench, s3: S3) -> None:
    body = request(metadata={"try": 1})
    first = s3_bench.good(body, "job-1")
    stored = s3.json(f"results/{body['attempt_id']}.json")
    assert stored["result"]["artifacts"][0]["s3"] == first.artifacts[0].s3
    before = len(s3_bench.prompts())
    again = s3_bench.good(
        {**body, "metadata": {"try": 2}, "outputs": {"url_ttl_s": 60}, "timeout_s": 5}, "job-2"
    )
    assert len(s3_bench.prompts()) == before
    assert again.replayed
    assert not first.replayed
    assert again.metadata == {"try": 2}
    assert [a.sha256 for a in again.artifacts] == [a.sha256 for a in first.artifacts]
    assert "X-Amz-Expires=60&" in (again.artifacts[0].url or "")
    assert get(again.artifacts[0].url).content == PNG


def test_another_request_under_a_used_attempt_is_a_conflict(s3_bench: Bench) -> None:
    body = request()
    s3_bench.good(body)
    problem = s3_bench.bad({**body, "seed": 5})
    assert (problem.code, problem.retryable) == ("attempt_conflict", False)


def test_a_stored_result_whose_files_are_gone_is_rendered_anew(s3_bench: Bench, s3: S3) -> None:
    body = request()
    (image,) = s3_bench.good(body).artifacts
    s3.client.delete_object(Bucket=s3.bucket, Key=(image.s3 or "").split("/", 3)[3])
    again = s3_bench.good(body)
    assert not again.replayed
    assert get(again.artifacts[0].url).content == PNG


def test_a_stored_result_that_cannot_be_read_is_rendered_anew(s3_bench: Bench, s3: S3) -> None:
    body = request()
    s3_bench.good(body)
    key = f"results/{body['attempt_id']}.json"
    s3.client.put_object(Bucket=s3.bucket, Key=key, Body=b"{broken")
    assert not s3_bench.good(body).replayed


def test_a_repeat_over_another_routes_limit_is_never_lost(
    make_bench: Callable[..., Bench], s3: S3
) -> None:
    body = request({"1": node("FakeBig", bytes=9 * MB)}, outputs={"delivery": "inline"})
    bench = make_bench(**s3.env())
    assert bench.good(body, "sync-1").artifacts[0].data
    assert bench.bad(body, "abc-u1").code == "result_too_large"


def test_the_same_attempt_twice_at_once_renders_once(bench: Bench) -> None:
    body = request({"1": node("FakeSleep", seconds=0.3), "9": node("SaveImage")})

    async def both() -> list[dict[str, Any]]:
        return list(await asyncio.gather(bench.job(body), bench.job(body)))

    before = len(bench.prompts())
    replies = play(both())
    assert len(bench.prompts()) == before + 1
    assert [reply["replayed"] for reply in replies] == [False, True]
    assert replies[0]["artifacts"] == replies[1]["artifacts"]


def test_another_request_under_an_attempt_under_way_is_a_conflict(bench: Bench) -> None:
    body = request({"1": node("FakeSleep", seconds=0.3), "9": node("SaveImage")})

    async def both() -> list[dict[str, Any]]:
        return list(await asyncio.gather(bench.job(body), bench.job({**body, "seed": 1})))

    replies = play(both())
    assert "artifacts" in replies[0]
    assert ErrorInfo.decode(replies[1]["error"]).code == "attempt_conflict"


def test_when_the_first_of_two_is_cancelled_the_other_does_the_work(bench: Bench) -> None:
    body = request({"1": node("FakeSleep", seconds=0.3), "9": node("SaveImage")})

    async def story() -> dict[str, Any]:
        first = asyncio.create_task(bench.job(body))
        await asyncio.sleep(0)
        second = asyncio.create_task(bench.job(body))
        await asyncio.to_thread(until, lambda: bench.fake()["running"])
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return await second

    assert play(story())["artifacts"]


# Failures.


class Denying(ThreadingHTTPServer):
    """An S3 that refuses everything, and repeats what it was told, as some do."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Denying)
        self.code = "AccessDenied"


class _Denying(BaseHTTPRequestHandler):
    server: Denying

    def do_GET(self) -> None:
        told = f"{self.headers.get('Authorization')} {SECRET}"
        code = self.server.code
        body = f"<Error><Code>{code}</Code><Message>{told}</Message></Error>".encode()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_HEAD = do_POST = do_GET  # noqa: N815 - the base class's names

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def denying() -> Iterator[Denying]:
    with Denying() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def quiet(
    reply: object, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    out, err = capfd.readouterr()
    told = repr(reply) + caplog.text + out + err
    assert SECRET not in told
    assert "AKIATEST" not in told
    assert "X-Amz-Signature" not in told


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("AccessDenied", "rights"),
        ("InvalidAccessKeyId", "BUCKET_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", "BUCKET_SECRET_ACCESS_KEY"),
    ],
)
def test_a_store_that_refuses_is_an_error_with_a_hint_and_no_secret(
    make_bench: Callable[..., Bench],
    s3: S3,
    denying: Denying,
    code: str,
    hint: str,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    denying.code = code
    caplog.set_level("INFO")
    url = f"http://127.0.0.1:{denying.server_port}"
    bench = make_bench(**s3.env(BUCKET_ENDPOINT_URL=url))
    problem = bench.bad(request(outputs={"delivery": "s3"}))
    assert (problem.code, problem.retryable) == ("storage_failed", False)
    assert code in problem.message
    assert hint in problem.hint
    quiet((problem, bench.settings), caplog, capfd)
    assert bench.left() == []


def test_a_bucket_that_is_not_there_is_told_before_the_gpu_is_used(
    make_bench: Callable[..., Bench], s3: S3
) -> None:
    bench = make_bench(**s3.env(BUCKET_NAME="no-such-bucket"))
    before = len(bench.prompts())
    problem = bench.bad(request())
    assert (problem.code, problem.retryable) == ("storage_failed", False)
    assert "BUCKET_NAME" in problem.hint
    assert len(bench.prompts()) == before


def test_a_store_that_does_not_answer(
    make_bench: Callable[..., Bench],
    s3: S3,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        problem = make_bench(**s3.env(BUCKET_ENDPOINT_URL=url)).bad(request())
    assert (problem.code, problem.retryable) == ("storage_failed", True)
    assert "BUCKET_ENDPOINT_URL" in problem.hint
    quiet(problem, caplog, capfd)


def test_a_successful_job_logs_neither_url_nor_secret(
    make_bench: Callable[..., Bench],
    s3: S3,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level("INFO")
    make_bench(**s3.env()).good(request())  # made here, so that its own start is heard, too
    quiet("", caplog, capfd)


def test_what_the_bucket_does_not_take_comes_inline_where_it_fits(
    make_bench: Callable[..., Bench], s3: S3, denying: Denying
) -> None:
    denying.code = "AccessDenied"
    url = f"http://127.0.0.1:{denying.server_port}"
    result = make_bench(**s3.env(BUCKET_ENDPOINT_URL=url)).good(request())
    (image,) = result.artifacts
    assert base64.b64decode(image.data or "") == PNG
    assert "returned inline, since the bucket failed" in " ".join(result.warnings)


# What is read from the disk.


def ways() -> list[Callable[[Made], object]]:
    def to_store(made: Made) -> object:
        with ThreadPoolExecutor(1) as pool:
            return delivery.to_store(
                [made],
                Mock(),
                request=JobRequest.model_validate(request()),
                job_id="job",
                template="{name}",
                pool=pool,
                deadline=Deadline(5),
                cancel=CancelToken(),
            )

    return [Made.sha256, Made.base64, to_store]


def of(path: Path) -> Made:
    return Made("1", path.name, "image", "image/png", path=path)


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such files")
@pytest.mark.parametrize("kind", ["gone", "link", "pipe", "folder"])
def test_an_output_that_is_no_plain_file_is_not_delivered(kind: str, tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "out.png"
    secret.write_bytes(b"secret")
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    for way in ways():
        with pytest.raises(JobFailed, match=r"out\.png") as caught:
            way(of(path))
        assert caught.value.code == "output_missing"


@pytest.mark.parametrize(
    ("number", "code"),
    [(errno.ENOSPC, "disk_full"), (errno.EDQUOT, "disk_full"), (errno.EIO, "output_missing")],
)
def test_what_a_disk_says_of_an_output_is_an_error_of_ours(
    number: int, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out.png"
    path.write_bytes(b"x")
    assert of(path).sha256() == hashlib.sha256(b"x").hexdigest()

    real = os.open

    def broken(file: Any, *rest: Any, **more: Any) -> int:
        if file == path:
            raise OSError(number, "broken")
        return real(file, *rest, **more)

    monkeypatch.setattr(os, "open", broken)
    for way in ways():
        with pytest.raises(JobFailed) as caught:
            way(of(path))
        assert caught.value.code == code


def test_a_file_that_goes_before_it_is_measured_is_missing(tmp_path: Path) -> None:
    with pytest.raises(JobFailed) as caught:
        delivery.inline([of(tmp_path / "gone.png")], limit=10**6)
    assert caught.value.code == "output_missing"
