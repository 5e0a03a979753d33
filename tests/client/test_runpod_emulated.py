"""The whole client against the emulated platform, with a worker made of plain HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from client.support import GRAPH, KEY, LOADING, Reply, Script, Scripted, Worker, artifact, until
from pennyreel import (
    BadRequest,
    Client,
    Detached,
    JobCancelled,
    JobFailed,
    JobTimeout,
    PennyreelError,
    RunResult,
    Submitted,
)
from pennyreel.config import load
from pennyreel.money.ledger import Ledger
from pennyreel_contract import Code, ErrorInfo, Progress
from pennyreel_emulators.runpod import JobFinished, RunPodPlatform

YES = {"allow_unknown_price": True}
"""Nobody knows what the emulated endpoint's GPU costs."""


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """The home's ledger, as another process sees it."""
    with Ledger.open(load()) as opened:
        yield opened


@pytest.fixture
def pool() -> Any:
    with ThreadPoolExecutor(4) as one:
        yield one


@pytest.fixture
def client(platform: RunPodPlatform) -> Any:
    with Client(backend="runpod") as one:
        yield one


def test_a_job_passes_the_platform_and_its_files_arrive(
    client: Client, worker: Worker, pool: ThreadPoolExecutor, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "in.png").write_bytes(b"input bytes")
    events: list[Any] = []
    running: Future[RunResult] = pool.submit(
        client.run,
        LOADING,
        inputs={"photo": tmp_path / "in.png"},
        seed=4,
        metadata={"shot": "7"},
        on_event=events.append,
        **YES,
    )
    job = worker.take()
    assert job["input"]["inputs"] == [{"name": "in.png", "data": "aW5wdXQgYnl0ZXM="}]
    assert job["input"]["workflow"]["1"]["inputs"]["image"] == "in.png"
    worker.progress(job, Progress(percent=40, stage="executing", node_class="KSampler").wire())
    until(lambda: any(getattr(e, "percent", None) == 40 for e in events))
    worker.succeed(
        job,
        artifact("clip.mp4", b"a film", kind="video", mime="video/mp4"),
        artifact("../../evil.png", b"a picture"),
        seed=4,
        metadata={"shot": "7"},
        warnings=["slow disk"],
    )
    result = running.result(20)
    assert {a.name: a.path.read_bytes() for a in result.artifacts} == {
        "clip.mp4": b"a film",
        "evil.png": b"a picture",
    }
    assert all(a.path.parent == out for a in result.artifacts)
    assert result.gpu is not None
    assert result.gpu["name"] == "RTX 4090"
    assert result.seed == 4
    assert result.metadata == {"shot": "7"}
    assert result.warnings == ("slow disk",)
    assert result.remote_timings["execute"] == 2.0
    assert "platform_execute" in result.remote_timings
    assert json.loads(json.dumps(result.to_json()))["handle"] == str(result.handle)


def test_artifacts_by_url_are_streamed_without_the_key(
    client: Client,
    worker: Worker,
    pool: ThreadPoolExecutor,
    scripted: Callable[[Script], Scripted],
) -> None:
    content = b"film" * 100_000
    store = scripted(lambda _: Reply(body=content))
    running = pool.submit(client.run, GRAPH, **YES)
    made = artifact("a.mp4", content, data=None, url=f"{store.url}/a.mp4?sig=1")
    worker.succeed(worker.take(), made)
    assert running.result(20).artifacts[0].path.read_bytes() == content
    assert "Authorization" not in store.requests[0].headers


def test_an_artifact_that_arrives_damaged_is_not_kept(
    client: Client, worker: Worker, pool: ThreadPoolExecutor, out: Path
) -> None:
    running = pool.submit(client.run, GRAPH, **YES)
    worker.succeed(worker.take(), artifact("a.png", b"data", sha256="0" * 64))
    with pytest.raises(JobFailed) as caught:
        running.result(20)
    assert caught.value.code == "storage_failed"
    assert not list(out.iterdir())


def test_a_worker_s_error_arrives_as_it_was_raised(
    client: Client, worker: Worker, pool: ThreadPoolExecutor, ledger: Ledger
) -> None:
    running = pool.submit(client.run, GRAPH, **YES)
    info = ErrorInfo.make(Code.MISSING_MODEL, "no model x", detail={"model": "x"})
    worker.fail(worker.take(), info.encode())
    with pytest.raises(BadRequest, match="no model x") as caught:
        running.result(20)
    (tried,) = caught.value.info.detail["attempts"]
    assert (tried["backend"], tried["code"]) == ("runpod", "missing_model")
    (job,) = ledger.jobs()
    assert (job.state, job.outcome) == ("failed", "missing_model")


def test_a_result_that_runpod_lost_for_its_size_is_explained(
    client: Client, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    running = pool.submit(client.run, GRAPH, **YES)
    job = worker.take()
    assert worker.done(job, {"big": "x" * 300_000}).status_code == 400
    with pytest.raises(JobFailed) as caught:
        running.result(20)
    assert caught.value.code == "result_too_large"


def test_a_deadline_cancels_at_the_platform(
    client: Client, platform: RunPodPlatform, ledger: Ledger
) -> None:
    client.quote_workflow(GRAPH, **YES)  # all that has to be asked before is known then
    with pytest.raises(JobTimeout) as caught:
        client.run(GRAPH, **YES, timeout_s=3.0)
    assert caught.value.info.detail["confirmed_stopped"] is True
    assert [e.status for e in platform.events if isinstance(e, JobFinished)] == ["CANCELLED"]
    (job,) = ledger.jobs()
    assert (job.outcome, job.reserved, job.spent) == ("cancelled", 0, 0), "it was queued"


def test_a_cancel_reaches_the_platform_and_is_booked(
    client: Client, platform: RunPodPlatform, ledger: Ledger
) -> None:
    silent, followed = client.submit(GRAPH, **YES), client.submit(GRAPH, **YES)
    next(followed.events())
    assert silent.cancel()
    followed.accepted(20)
    assert followed.cancel()
    for job in (silent, followed):
        with pytest.raises(JobCancelled):
            job.result()
    ends = [e.status for e in platform.events if isinstance(e, JobFinished)]
    assert set(ends) == {"CANCELLED"}
    assert {job.outcome for job in ledger.jobs()} == {"cancelled"}
    assert ledger.open_attempts() == []


def test_an_exception_out_of_on_event_cancels_the_job(
    client: Client, platform: RunPodPlatform
) -> None:
    class Mine(Exception):
        pass

    def on_event(event: object) -> None:
        if isinstance(event, Submitted):
            raise Mine

    with pytest.raises(Mine):
        client.run(GRAPH, **YES, on_event=on_event)
    assert [e.status for e in platform.events if isinstance(e, JobFinished)] == ["CANCELLED"]


def test_waiting_with_a_limit_ends_the_waiting_and_not_the_job(
    client: Client, platform: RunPodPlatform, worker: Worker
) -> None:
    job = client.submit(GRAPH, **YES)
    with pytest.raises(TimeoutError):
        job.result(timeout_s=0.05)
    worker.succeed(worker.take(), artifact("a.png", b"x"))
    assert len(job.result(20).artifacts) == 1
    assert job.done
    assert job.cancel()
    assert len(job.result().artifacts) == 1


def test_a_job_that_is_let_go_is_ended_by_another_client_and_booked_there(
    client: Client, worker: Worker, ledger: Ledger
) -> None:
    job = client.submit(GRAPH, **YES)
    job.detach()
    handle = str(job.accepted(20))
    with pytest.raises(PennyreelError, match="was let go"):
        job.result()
    told = [type(e) for e in job.events()]
    assert Submitted in told
    assert told[-1] is Detached
    (attempt,) = ledger.open_attempts()
    assert (attempt.state, attempt.handle, attempt.claimed_by) == ("accepted", handle, None)
    assert attempt.reserved > 0, "its money stays held"
    worker.succeed(worker.take(), artifact("a.png", b"x"))
    with Client() as another:
        result = another.handle(handle).result(20)
    assert result.paths[0].read_bytes() == b"x"
    (kept,) = ledger.jobs()
    assert (kept.outcome, kept.job_id, kept.reserved) == ("done", job.id, 0)
    assert [a.handle for a in kept.attempts] == [handle]


def test_what_another_process_drives_is_followed_beside_it_and_booked_once(
    client: Client, worker: Worker, ledger: Ledger
) -> None:
    job = client.submit(GRAPH, **YES)
    handle = job.accepted(20)
    assert client.handle(handle) is job, "this client drives it itself"
    with Client() as another:
        beside = another.handle(handle)
        worker.succeed(worker.take(), artifact("a.png", b"x"))
        assert beside.result(20).warnings[0].startswith("another process drives this job")
    assert job.result(20).cost_microusd is not None
    assert [j.outcome for j in ledger.jobs()] == ["done"]


def test_many_threads_may_share_a_client(
    client: Client, worker: Worker, pool: ThreadPoolExecutor
) -> None:
    def serve() -> None:
        for _ in range(12):
            job = worker.take()
            worker.succeed(job, artifact("a.png", job["input"]["attempt_id"].encode()))

    thread = threading.Thread(target=serve)
    thread.start()
    results = list(pool.map(lambda _: client.run(GRAPH, **YES), range(12)))
    thread.join(20)
    for result in results:
        assert result.paths[0].read_text() == result.handle.attempt_id
    assert len({r.paths[0] for r in results}) == 12


def test_a_dev_stack_is_a_backend_of_its_own(
    platform: RunPodPlatform, worker: Worker, home: Path, pool: ThreadPoolExecutor
) -> None:
    home.mkdir()
    stack = {"base_url": platform.base_url, "endpoint": "ep", "api_key": KEY, "pid": 1, "s3": None}
    (home / "dev.json").write_text(json.dumps(stack))
    with Client(backend="dev") as client:
        assert client.health("dev").reachable
        running = pool.submit(client.run, GRAPH)
        worker.succeed(worker.take(), artifact("a.png", b"x"))
        result = running.result(20)
    assert str(result.handle).startswith("dev:ep/")
    assert result.cost_microusd == 0


def test_the_key_is_in_no_file_and_no_event(
    client: Client, worker: Worker, pool: ThreadPoolExecutor, home: Path
) -> None:
    events: list[Any] = []
    running = pool.submit(client.run, GRAPH, **YES, on_event=events.append)
    worker.succeed(worker.take(), artifact("a.png", b"x"))
    result = running.result(20)
    written = "".join(p.read_bytes().decode("latin-1") for p in home.rglob("*") if p.is_file())
    assert result.job_id in written, "the ledger was looked at"
    for text in (written, repr(events), repr(result), repr(client.settings), str(result.to_json())):
        assert KEY not in text
    assert "filename_prefix" not in written  # nothing of the graph, either
