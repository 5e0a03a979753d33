"""The secrets that a job brings stay where they are needed: its bucket's keys, its ComfyUI key."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from client.support import Reply, Request, Scripted
from e2e.canaries import Canaries, argv_watched
from worker.support import S3, SAVE, SECRET, Bench, comfy_of, node, request, settings_of


@pytest.fixture
def make_own() -> Iterator[Callable[..., Bench]]:
    """A worker with a ComfyUI of its own: what lies in its folders is of one test."""
    made: list[tuple[Bench, object]] = []

    def make(**env: str) -> Bench:
        settings = settings_of(**env)
        context = comfy_of(settings)
        comfy = context.__enter__()
        comfy.start()
        comfy.first_ready()
        bench = Bench(comfy, settings)
        made.append((bench, context))
        return bench

    yield make
    for bench, context in made:
        bench.worker.close()
        context.__exit__(None, None, None)  # type: ignore[attr-defined]


def assert_clean(
    bench: Bench,
    canaries: Canaries,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nothing that the worker answered, logged or left on its disk has a canary."""
    bench.worker.settle()
    out, err = capfd.readouterr()
    told = json.dumps(bench.posts) + out + err + caplog.text
    assert canaries.found(told.encode()) == set()
    assert canaries.in_files(*map(Path, bench.comfy.folders.values())) == {}


def bucket(url: str, canaries: Canaries) -> dict[str, str]:
    return {
        "endpointUrl": url,
        "accessId": canaries.plant("access_id"),
        "accessSecret": canaries.plant("access_secret"),
        "bucketName": "theirs",
    }


def quoting(request: Request) -> Reply:
    """A store that refuses, and quotes the request in XML, as stores do."""
    told = f"{request.method} {request.path} {request.headers}"
    return Reply(403, f"<Error><Code>X</Code><Message>{told}</Message></Error>".encode())


@pytest.mark.parametrize("script", [quoting, lambda _: None], ids=["quotes", "cuts"])
def test_a_store_that_refuses_a_jobs_own_keys_does_not_get_them_told(
    script: Callable[[Request], Reply | None],
    make_own: Callable[..., Bench],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    canaries = Canaries()
    caplog.set_level("DEBUG", "pennyreel_worker")
    with Scripted(script) as store, argv_watched(canaries) as lines:
        bench = make_own(
            PENNYREEL_ALLOW_HOSTS=store.url.removeprefix("http://"), PENNYREEL_S3_ATTEMPTS="1"
        )
        given = bucket(store.url, canaries)
        reply = bench.run(request(), s3Config=given)
        assert "error" in reply
        assert store.requests, "it was asked"
        odd = {**given, "endpointUrl": f"ftp://u:{quote(given['accessSecret'], safe='')}@h/x"}
        assert "error" in bench.run(request(), s3Config=odd)
        assert_clean(bench, canaries, capfd, caplog)
    assert lines == {}


def test_a_jobs_own_bucket_keeps_no_key_of_it(
    make_own: Callable[..., Bench],
    s3: S3,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    canaries = Canaries()
    canaries.adopt("access_secret", SECRET)
    caplog.set_level("DEBUG", "pennyreel_worker")
    bench = make_own(PENNYREEL_ALLOW_HOSTS=s3.url.removeprefix("http://"))
    given = {
        "endpointUrl": s3.url,
        "accessId": "AKIATEST",
        "accessSecret": SECRET,
        "bucketName": s3.bucket,
    }
    with argv_watched(canaries) as lines:
        bench.good(request(), s3Config=given)
    stored = [s3.client.get_object(Bucket=s3.bucket, Key=key)["Body"].read() for key in s3.listed()]
    assert len(stored) >= 2, "the file, and the result"
    assert canaries.found(b"".join(stored)) == set()
    assert_clean(bench, canaries, capfd, caplog)
    assert lines == {}


def test_a_comfy_org_key_goes_to_comfyui_and_nowhere_else(
    make_own: Callable[..., Bench],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    canaries = Canaries()
    caplog.set_level("DEBUG", "pennyreel_worker")
    keys = {name: canaries.plant(name) for name in ("operators", "jobs")}
    with argv_watched(canaries) as lines:
        bench = make_own(COMFY_ORG_API_KEY=keys["operators"])
        for graph in (SAVE, {"1": node("FakeError", tell=True)}, {"1": node("FakeEcho"), **SAVE}):
            bench.run(request(graph))
            bench.run({"workflow": graph, "comfy_org_api_key": keys["jobs"]})
        given = {prompt["extra"]["api_key_comfy_org"] for prompt in bench.prompts()}
        assert given == set(keys.values())
        crash = {"1": node("FakeEcho"), "2": node("FakePaid")}
        bench.run({"workflow": crash, "comfy_org_api_key": keys["jobs"]})
        assert_clean(bench, canaries, capfd, caplog)
    assert lines == {}
