"""Input files: every source, every guard, and no file whole in memory."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, ErrorInfo, InputFile
from pennyreel_worker import inputs
from worker.support import S3, Bench, Files, becomes, node, play, request

HELLO = base64.b64encode(b"hello").decode()
SHA = hashlib.sha256(b"hello").hexdigest()
MB = 1 << 20


@pytest.fixture
def open_bench(make_bench: Callable[..., Bench], files: Files, s3: S3) -> Bench:
    """A worker whose operator allows the loopback server, and that has a bucket."""
    return make_bench(**s3.env(PENNYREEL_ALLOW_HOSTS=files.host))


def load(**source: Any) -> dict[str, Any]:
    graph = {"1": node("LoadImage", image="in.png"), "2": node("SaveImage", filename_prefix="x")}
    return request(graph, inputs=[{"name": "in.png", **source}], outputs={"delivery": "inline"})


@pytest.mark.parametrize(
    "data",
    [
        HELLO,
        f"data:image/png;base64,{HELLO}",
        f"DATA:;BASE64,{HELLO}",
        "aGVs\nbG8",
        HELLO.rstrip("="),
    ],
)
def test_base64_and_data_uris(bench: Bench, data: str) -> None:
    assert bench.good(load(data=data, sha256=SHA)).artifacts
    sent = bench.prompts()[-1]["graph"]["1"]["inputs"]["image"]
    assert sent.endswith("/in.png")  # in the job's own folder


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("%%%", "not valid base64"),
        ("aGVsbG8é", "not valid base64"),
        ("a", "not valid base64"),
        ("", "is empty"),
        ("data:image/png,hello", "must be base64"),
        ("data:image/png;base64", "must be base64"),
    ],
)
def test_broken_base64_names_the_input(bench: Bench, data: str, why: str) -> None:
    problem = bench.bad(load(data=data))
    assert problem.code == "bad_input"
    assert "'in.png'" in problem.message
    assert why in problem.message


def test_a_wrong_sha256_is_told(open_bench: Bench, files: Files) -> None:
    for source in ({"data": HELLO}, {"url": f"{files.url}/x"}):
        problem = open_bench.bad(load(**source, sha256="0" * 64))
        assert (problem.code, problem.retryable) == ("bad_input", False)
        assert "sha256" in problem.message


def test_a_url_that_the_operator_allows(open_bench: Bench, files: Files) -> None:
    sha = hashlib.sha256(b"file").hexdigest()
    assert open_bench.good(load(url=f"{files.url}/x.png?sig=1", sha256=sha)).artifacts
    assert open_bench.good(load(url=f"{files.url}/redirect?to=/x.png", sha256=sha)).artifacts


def test_an_s3_object(open_bench: Bench, s3: S3) -> None:
    s3.client.put_object(Bucket=s3.bucket, Key="in/a.png", Body=b"hello")
    assert open_bench.good(load(s3=f"s3://{s3.bucket}/in/a.png", sha256=SHA)).artifacts


def test_only_inputs_of_the_workers_own_bucket_are_read(open_bench: Bench, s3: S3) -> None:
    s3.client.put_object(Bucket=s3.bucket, Key="results/other.json", Body=b"hello")
    for source in (f"s3://{s3.bucket}/results/other.json", "s3://another-bucket/in/a.png"):
        problem = open_bench.bad(load(s3=source))
        assert (problem.code, problem.retryable) == ("bad_input", False)
        assert source in problem.message


def test_an_s3_object_that_is_not_there(open_bench: Bench, s3: S3) -> None:
    problem = open_bench.bad(load(s3=f"s3://{s3.bucket}/none"))
    assert problem.code == "bad_input"
    assert "no such object" in problem.message


def test_s3_without_a_bucket_names_the_way_out(bench: Bench) -> None:
    assert "BUCKET_" in bench.bad(load(s3="s3://bucket/key")).hint


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/x",
        "http://localhost:{port}/x",
        "http://[::1]:{port}/x",
        "http://0.0.0.0:{port}/x",
        "http://2130706433:{port}/x",
        "http://[::ffff:127.0.0.1]:{port}/x",
        "http://169.254.169.254/latest/meta-data/",
        "http://10.1.2.3/x",
        "http://[fd00::1]/x",
        "http://user:pass@127.0.0.1:{port}/x",
    ],
)
def test_private_addresses_are_refused(bench: Bench, files: Files, url: str) -> None:
    problem = bench.bad(load(url=url.format(port=files.server_port)))
    assert (problem.code, problem.retryable) == ("address_refused", False)
    assert "pass" not in problem.message


def test_a_redirect_to_a_private_address_is_refused(open_bench: Bench, files: Files) -> None:
    for target in ("http://10.1.2.3/x", "http://127.0.0.1:1/x", "file:///etc/passwd"):
        problem = open_bench.bad(load(url=f"{files.url}/redirect?to={target}"))
        assert problem.code == "address_refused", target


@pytest.mark.parametrize(
    ("path", "retryable"), [("/missing", False), ("/short", True), ("/redirect?to=/redirect", True)]
)
def test_a_url_that_fails_is_unreachable(
    open_bench: Bench, files: Files, path: str, retryable: bool
) -> None:
    url = f"{files.url}{path}"
    if "redirect" in path:
        url = f"{files.url}/redirect?to={files.url}/redirect%3Fto%3D{files.url}/short"
    problem = open_bench.bad(load(url=url))
    assert (problem.code, problem.retryable) == ("input_unreachable", retryable)


def test_signatures_in_urls_are_never_repeated(open_bench: Bench, files: Files) -> None:
    problem = open_bench.bad(load(url=f"{files.url}/missing?X-Amz-Signature=SECRET"))
    assert "SECRET" not in problem.encode()


def test_inputs_over_the_limit_are_refused_from_every_source(
    make_bench: Callable[..., Bench], files: Files, s3: S3
) -> None:
    bench = make_bench(**s3.env(PENNYREEL_ALLOW_HOSTS=files.host, PENNYREEL_INPUT_MAX_BYTES="1000"))
    s3.client.put_object(Bucket=s3.bucket, Key="big", Body=bytes(1001))
    for source in (
        {"data": base64.b64encode(bytes(1001)).decode()},
        {"url": f"{files.url}/big?bytes={MB}"},
        {"s3": f"s3://{s3.bucket}/big"},
    ):
        problem = bench.bad(load(**source))
        assert problem.code == "input_too_large", source
        assert "1000" in problem.message


@pytest.mark.parametrize("path", ["/slow", "/slow?trickle=1"])
def test_a_slow_url_ends_with_its_own_limit(
    make_bench: Callable[..., Bench], files: Files, path: str
) -> None:
    bench = make_bench(
        PENNYREEL_ALLOW_HOSTS=files.host,
        PENNYREEL_INPUT_TIMEOUT_S="0.3",
        PENNYREEL_INPUT_MAX_BYTES=str(1 << 41),
    )
    problem = bench.bad(load(url=f"{files.url}{path}"))
    assert problem.code == "timeout"
    assert "/slow" in problem.message


def test_a_full_disk_is_told(bench: Bench) -> None:
    folder = bench.comfy.folders["input"] / "a-file-in-its-way"
    folder.write_bytes(b"")
    try:
        with pytest.raises(Exception, match="cannot be written") as caught:
            inputs.place(
                [InputFile(name="a", data=HELLO)],
                folder,
                settings=bench.settings,
                store=None,
                deadline=Deadline(5),
                cancel=CancelToken(),
            )
    finally:
        folder.unlink()
    assert getattr(caught.value, "code", "") == Code.STORAGE_FAILED.value


@pytest.mark.parametrize("source", ["data", "url", "s3"])
def test_inputs_leave_room_for_the_job_on_the_gpu(
    source: str, open_bench: Bench, files: Files, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of many large inputs is not to fill the disk under the one that runs."""
    content = b"x" * MB
    s3.client.put_object(Bucket=s3.bucket, Key="large", Body=content)
    where = {
        "data": base64.b64encode(content).decode(),
        "url": f"{files.url}/big?bytes={MB}",
        "s3": f"s3://{s3.bucket}/large",
    }
    real = shutil.disk_usage
    left = open_bench.settings.least_free_bytes + 2000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: real(path)._replace(free=left))
    problem = open_bench.bad(load(**{source: where[source]}))
    assert problem.code == "disk_full"
    assert problem.retryable
    assert "2000 bytes" in problem.message
    assert open_bench.good(load(data=HELLO)).artifacts
    assert open_bench.worker.broken is None
    assert open_bench.left() == []


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def test_200_mb_by_url_are_streamed(
    open_bench: Bench, files: Files, peak: Callable[[], int]
) -> None:
    assert open_bench.good(load(url=f"{files.url}/big?bytes={200 * MB}")).artifacts
    assert peak() < 24 * MB


def test_200_mb_by_s3_are_streamed(
    open_bench: Bench, s3: S3, peak: Callable[[], int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("big") / "in.bin"
    with path.open("wb") as file:
        file.truncate(200 * MB)
    with path.open("rb") as file:
        s3.client.put_object(Bucket=s3.bucket, Key="big", Body=file)
    tracemalloc.reset_peak()
    assert open_bench.good(load(s3=f"s3://{s3.bucket}/big")).artifacts
    assert peak() < 48 * MB


def test_two_jobs_with_an_input_of_one_name_do_not_meet(bench: Bench) -> None:
    async def both() -> None:
        first = load(data=HELLO)
        other = load(data=base64.b64encode(b"other").decode())
        replies = await asyncio.gather(bench.job(first), bench.job(other))
        assert all("error" not in reply for reply in replies)

    play(both())
    names = {p["graph"]["1"]["inputs"]["image"] for p in bench.prompts()[-2:]}
    assert len(names) == 2


@pytest.mark.parametrize("way", ["{}/in.png", "./x/../{}/in.png"])
def test_a_node_that_names_another_jobs_file_neither_delivers_nor_removes_it(
    way: str, open_bench: Bench, files: Files
) -> None:
    async def story() -> None:
        victim = load(data=HELLO)
        victim["inputs"] += [{"name": "slow.png", "url": f"{files.url}/slow"}]
        preparing = asyncio.create_task(open_bench.job(victim))
        await becomes(files.slow.is_set)
        secret = open_bench.comfy.folders["input"] / victim["attempt_id"] / "in.png"
        assert secret.read_bytes() == b"hello"
        says = way.format(victim["attempt_id"])
        thief = node("FakeOutput", filename="x", type="input", written=False, says=says)
        reply = await open_bench.job(request({"1": thief}))
        assert ErrorInfo.decode(reply["error"]).code == "output_missing"
        assert secret.read_bytes() == b"hello"
        preparing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await preparing

    play(story())


@pytest.mark.parametrize("path", ["/slow", "/slow?trickle=1"])
def test_a_cancelled_fetch_ends_at_once(
    make_bench: Callable[..., Bench], files: Files, path: str
) -> None:
    open_bench = make_bench(
        PENNYREEL_ALLOW_HOSTS=files.host, PENNYREEL_INPUT_MAX_BYTES=str(1 << 41)
    )

    async def story() -> None:
        task = asyncio.create_task(open_bench.job(load(url=f"{files.url}{path}")))
        await becomes(files.slow.is_set)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)

    before = len(open_bench.prompts())
    play(story())
    assert open_bench.left() == []
    assert len(open_bench.prompts()) == before


def test_the_error_of_an_input_is_one_of_ours(bench: Bench) -> None:
    reply = bench.run(load(url="http://10.0.0.1/x"))
    assert ErrorInfo.decode(reply["error"]).code in {c.value for c in Code}
