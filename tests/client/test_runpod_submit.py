"""A submit is one POST: never sent twice unless it was certainly not accepted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.support import GRAPH, KEY, LOADING, Reply, Request, Script, Scripted
from fakes.ports import dead_port
from pennyreel import BadRequest, OutcomeUnknown, PennyreelError, SetupNeeded, Unavailable
from pennyreel.backends.base import Work
from pennyreel.backends.runpod import RunPodBackend
from pennyreel.config import S3, Secret
from pennyreel.sources import source

Servers = Callable[[Script], Scripted]
Backends = Callable[..., RunPodBackend]
OK = Reply(body={"id": "job-1", "status": "IN_QUEUE"})


def work(**changes: Any) -> Work:
    return Work("a" * 32, GRAPH, **changes)


def test_a_job_is_one_post_with_the_key_in_its_header(scripted: Servers, runpod: Backends) -> None:
    server = scripted(lambda _: OK)
    handle = runpod(server).submit(work(seed=3, timeout_s=60.0))
    assert str(handle) == f"runpod:ep/job-1@{'a' * 32}"
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("POST", "/v2/ep/run")
    assert sent.headers["Authorization"] == f"Bearer {KEY}"
    assert sent.json["policy"] == {"executionTimeout": 60_000, "ttl": 5_460_000}
    assert sent.json["input"]["seed"] == 3
    assert sent.json["input"]["workflow"] == GRAPH


def test_without_a_deadline_there_is_no_policy(scripted: Servers, runpod: Backends) -> None:
    server = scripted(lambda _: OK)
    runpod(server).submit(work())
    assert "policy" not in server.requests[0].json


@pytest.mark.parametrize("timeout_s", [0.5, 604_800.0])
def test_a_policy_keeps_within_what_runpod_takes(
    timeout_s: float, scripted: Servers, runpod: Backends
) -> None:
    server = scripted(lambda _: OK)
    runpod(server).submit(work(timeout_s=timeout_s))
    policy = server.requests[0].json["policy"]
    assert 5_000 <= policy["executionTimeout"] <= 604_800_000
    assert 10_000 <= policy["ttl"] <= 604_800_000


@pytest.mark.parametrize(
    "answer",
    [None, Reply(500), Reply(502, b"bad gateway"), Reply(body=b"not json"), Reply(body={"id": ""})],
)
def test_an_answer_that_does_not_come_or_says_nothing_is_an_unknown_outcome_and_not_sent_again(
    answer: Reply | None, scripted: Servers, runpod: Backends
) -> None:
    server = scripted(lambda _: answer)
    with pytest.raises(OutcomeUnknown) as caught:
        runpod(server).submit(work())
    assert len(server.requests) == 1
    assert "billed" in str(caught.value)
    assert "before you run it again" in caught.value.hint


def test_a_refused_connection_is_tried_again_and_then_nothing_was_accepted() -> None:
    pauses: list[float] = []
    backend = RunPodBackend(
        "ep", Secret(KEY), base_url=f"http://127.0.0.1:{dead_port()}/v2", pause=pauses.append
    )
    with pytest.raises(Unavailable, match="nothing was sent"):
        backend.submit(work())
    assert 2 <= len(pauses) <= 6
    assert sum(pauses) < 60


def test_a_429_is_tried_again_after_the_time_it_asks_for(
    scripted: Servers, runpod: Backends
) -> None:
    answers = [Reply(429, headers={"Retry-After": "7"}), Reply(429), OK]
    server = scripted(lambda _: answers.pop(0))
    backend = runpod(server)
    assert backend.submit(work()).remote_id == "job-1"
    pauses = backend.pauses  # type: ignore[attr-defined]
    assert len(server.requests) == 3
    assert 7 <= pauses[0] <= 9
    assert {r.body for r in server.requests} == {server.requests[0].body}


def test_a_429_that_does_not_end_is_rate_limited_in_bounded_tries(
    scripted: Servers, runpod: Backends
) -> None:
    server = scripted(lambda _: Reply(429, {"error": "too many jobs"}))
    with pytest.raises(Unavailable, match="too many jobs") as caught:
        runpod(server).submit(work())
    assert caught.value.code == "rate_limited"
    assert len(server.requests) <= 6


@pytest.mark.parametrize(
    ("status", "kind", "code", "hint"),
    [
        (400, BadRequest, "bad_request", ""),
        (401, SetupNeeded, "unauthorized", "RUNPOD_API_KEY"),
        (402, SetupNeeded, "not_configured", "credit"),
        (403, SetupNeeded, "unauthorized", "RUNPOD_API_KEY"),
        (404, SetupNeeded, "not_configured", "RUNPOD_ENDPOINT_ID"),
        (413, BadRequest, "request_too_large", ""),
    ],
)
def test_a_refusal_says_what_to_do_and_is_not_repeated(
    status: int,
    kind: type[PennyreelError],
    code: str,
    hint: str,
    scripted: Servers,
    runpod: Backends,
) -> None:
    for body in ({"error": "some words"}, b"some words", b""):
        server = scripted(lambda _, body=body: Reply(status, body))
        with pytest.raises(kind) as caught:
            runpod(server).submit(work())
        assert caught.value.code == code
        assert hint in caught.value.hint
        assert KEY not in str(caught.value) + caught.value.hint
        assert len(server.requests) == 1


def test_a_redirect_is_refused_and_the_key_stays(scripted: Servers, runpod: Backends) -> None:
    thief = scripted(lambda _: OK)
    server = scripted(lambda _: Reply(307, headers={"Location": f"{thief.url}/v2/ep/run"}))
    with pytest.raises(Unavailable, match="redirect"):
        runpod(server).submit(work())
    assert not thief.requests


def test_a_netrc_file_does_not_replace_the_key(
    scripted: Servers, runpod: Backends, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login thief password thief\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    server = scripted(lambda _: OK)
    runpod(server).submit(work())
    assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url", ["http://api.runpod.ai/v2", "ftp://x/v2", "https://user:pw@api.runpod.ai/v2"]
)
def test_a_key_is_not_sent_over_an_open_line(url: str) -> None:
    with pytest.raises(SetupNeeded) as caught:
        RunPodBackend("ep", Secret(KEY), base_url=url)
    assert "pw" not in str(caught.value)


def test_a_request_that_is_too_large_is_refused_before_it_is_sent_naming_the_large_input(
    scripted: Servers, runpod: Backends, tmp_path: Path
) -> None:
    server = scripted(lambda _: OK)
    (tmp_path / "small.png").write_bytes(b"x" * 100)
    with (tmp_path / "huge.mp4").open("wb") as file:
        file.truncate(50 << 30)  # sparse: it must not be read to be measured
    sources = tuple(source(tmp_path / n, fallback="") for n in ("small.png", "huge.mp4"))
    with pytest.raises(BadRequest) as caught:
        runpod(server).submit(work(sources=sources))
    assert caught.value.code == "request_too_large"
    assert "huge.mp4" in str(caught.value)
    assert "PENNYREEL_S3_BUCKET" in caught.value.hint
    assert not server.requests


def test_a_request_at_the_limit_is_sent_and_one_byte_more_is_not(
    scripted: Servers, runpod: Backends
) -> None:
    server = scripted(lambda _: OK)
    sources = (source(("a.bin", b"x" * 999), fallback=""),)
    runpod(server).submit(work(sources=sources))
    size = len(server.requests[0].body)
    runpod(server, max_request_bytes=size).submit(work(sources=sources))
    with pytest.raises(BadRequest):
        runpod(server, max_request_bytes=size - 1).submit(work(sources=sources))
    assert len(server.requests) == 2


def test_large_inputs_go_through_the_bucket_largest_first(
    scripted: Servers, runpod: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def s3(request: Request) -> Reply:
        return Reply(headers={"ETag": '"x"'})

    store, server = scripted(s3), scripted(lambda _: OK)
    bucket = S3(store.url, "mine", Secret("AKID"), Secret("S3SECRET"), "us-east-1")
    sources = tuple(
        source((name, b"x" * size), fallback="")
        for name, size in (("a.png", 2_000), ("b.mp4", 40_000), ("c.png", 1_000))
    )
    graph = {
        str(n): {"class_type": "LoadImage", "inputs": {"image": s.name}}
        for n, s in enumerate(sources)
    }
    backend = runpod(server, s3=bucket, max_request_bytes=8_000)
    backend.submit(Work("b" * 32, graph, sources=sources))
    inputs = {i["name"]: i for i in server.requests[0].json["input"]["inputs"]}
    assert "data" in inputs["a.png"]
    assert "data" in inputs["c.png"]
    url = inputs["b.mp4"]["url"]
    assert url.startswith(f"{store.url}/mine/pennyreel/inputs/{'b' * 32}/b.mp4?")
    assert "X-Amz-Signature" in url
    assert "S3SECRET" not in url
    assert [r.method for r in store.requests] == ["PUT"]


@pytest.mark.parametrize("status", [403, 404, 503])
def test_a_bucket_that_refuses_means_that_nothing_was_sent(
    status: int, scripted: Servers, runpod: Backends, tmp_path: Path
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(b"x" * 20_000)
    store, server = scripted(lambda _: Reply(status)), scripted(lambda _: OK)
    bucket = S3(store.url, "mine", Secret("AKID"), Secret("S3SECRET"), "us-east-1")
    backend = runpod(server, s3=bucket, max_request_bytes=8_000)
    with pytest.raises(Unavailable, match=r"cannot be uploaded.*nothing was sent") as caught:
        backend.submit(Work("b" * 32, {}, sources=(source(large, fallback=""),)))
    assert "S3SECRET" not in f"{caught.value} {caught.value.info}"
    assert server.requests == []


def test_an_input_that_is_gone_means_that_nothing_was_sent(
    scripted: Servers, runpod: Backends, tmp_path: Path
) -> None:
    gone = tmp_path / "gone.bin"
    gone.write_bytes(b"x")
    given = source(gone, fallback="")
    gone.unlink()
    server = scripted(lambda _: OK)
    with pytest.raises(BadRequest, match="cannot be read"):
        runpod(server).submit(Work("b" * 32, {}, sources=(given,)))
    assert server.requests == []


def test_who_is_told_to_come_back_in_an_hour_is_not_kept_waiting(
    scripted: Servers, runpod: Backends
) -> None:
    server = scripted(lambda _: Reply(429, headers={"Retry-After": "3600"}))
    backend = runpod(server)
    with pytest.raises(Unavailable) as caught:
        backend.submit(work())
    assert caught.value.info.detail["retry_after_s"] == 3600
    assert len(server.requests) == 1


def test_urls_and_s3_addresses_are_passed_on(scripted: Servers, runpod: Backends) -> None:
    server = scripted(lambda _: OK)
    sources = (
        source("https://example.com/a.png", fallback=""),
        source("s3://bucket/b.png", fallback=""),
    )
    runpod(server).submit(Work("c" * 32, LOADING, sources=sources))
    assert server.requests[0].json["input"]["inputs"] == [
        {"name": "a.png", "url": "https://example.com/a.png"},
        {"name": "b.png", "s3": "s3://bucket/b.png"},
    ]


def test_what_is_sent_is_small_json(scripted: Servers, runpod: Backends) -> None:
    server = scripted(lambda _: OK)
    graph = {"1": {"class_type": "Text", "inputs": {"text": "ฝนตก 🎬"}}}
    runpod(server).submit(Work("d" * 32, graph))
    assert "ฝนตก 🎬".encode() in server.requests[0].body
    assert json.loads(server.requests[0].body)["input"]["workflow"] == graph
