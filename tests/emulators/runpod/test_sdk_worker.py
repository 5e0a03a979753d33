"""RunPod's own worker loop (runpod.serverless.start), unchanged, served by the platform."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from emulators.runpod.support import VERSATILE, Client, gone, until
from pennyreel_emulators.runpod import (
    EndpointConfig,
    JobTaken,
    PlatformConfig,
    RunPodPlatform,
    WorkerInfo,
    WorkerReady,
    WorkerStopped,
)


def test_a_job_is_completed_with_the_handlers_output(work: Client) -> None:
    shown = work.runsync({"do": "echo", "value": {"a": [1, 2]}})
    assert shown["status"] == "COMPLETED"
    assert shown["output"]["echo"] == {"a": [1, 2]}


def test_an_empty_output_is_dropped(work: Client) -> None:
    shown = work.runsync({"do": "nothing"})
    assert shown["status"] == "COMPLETED"
    assert "output" not in shown


def test_extra_keys_of_the_request_reach_the_handler(work: Client) -> None:
    s3 = {"accessId": "a", "accessSecret": "b", "bucketName": "c", "endpointUrl": "https://d"}
    job = work.runsync({"do": "job"}, s3Config=s3)["output"]["job"]
    assert job["s3Config"] == s3
    assert job["id"].startswith("sync-")


def test_progress_updates_show_as_output_while_the_job_runs(work: Client, tmp_path: Path) -> None:
    go_on = tmp_path / "go"
    job_id = work.run({"do": "progress", "parts": [1, 2, 3], "until": str(go_on)})
    until(lambda: work.status(job_id).get("output") == 3)
    assert work.status(job_id)["status"] == "IN_PROGRESS"
    go_on.touch()
    assert work.ended(job_id)["output"] == {"done": 3}


def test_the_posts_of_a_job_are_on_record(sdk_platform: RunPodPlatform, work: Client) -> None:
    job_id = work.run({"do": "progress", "parts": ["a", "b"]})
    assert work.ended(job_id)["status"] == "COMPLETED"
    posts = sdk_platform.posts(job_id)
    assert [post.output for post in posts] == ["a", "b", {"done": 2}]
    assert [post.status for post in posts] == ["IN_PROGRESS", "IN_PROGRESS", "COMPLETED"]


def test_an_exception_becomes_an_error_of_json_text(work: Client) -> None:
    shown = work.runsync({"do": "raise", "value": "out of memory"})
    assert shown["status"] == "FAILED"
    error = json.loads(shown["error"])
    assert error["error_message"] == "out of memory"
    assert error["worker_id"] == shown["workerId"]
    assert {"error_type", "error_traceback", "hostname", "runpod_version"} < set(error)


def test_a_returned_error_fails_the_job_and_the_rest_is_its_output(work: Client) -> None:
    shown = work.runsync({"do": "fail", "value": "bad graph"})
    assert (shown["status"], shown["error"]) == ("FAILED", "bad graph")
    assert shown["output"] == {"details": [1, 2]}


def test_a_result_above_the_limit_is_lost_while_the_job_looks_completed(
    sdk_platform: RunPodPlatform, work: Client
) -> None:
    job_id = work.run({"do": "large", "bytes": 10_000_001})
    shown = work.ended(job_id)
    assert shown["status"] == "COMPLETED"
    assert "output" not in shown
    worker = shown["workerId"]
    until(lambda: any("400" in line and job_id in line for line in sdk_platform.logs(worker)))
    assert len(sdk_platform.posts(job_id)) == 1


def test_cancel_reaches_an_async_handler_which_posts_nothing(
    sdk_platform: RunPodPlatform, work: Client, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    job_id = work.run({"do": "wait", "until": str(tmp_path / "never"), "note": str(note)})
    until(note.exists)
    work.post(f"cancel/{job_id}")
    until(lambda: note.read_text() == "cancelled")
    assert work.runsync({"do": "echo"})["status"] == "COMPLETED"
    assert work.status(job_id)["status"] == "CANCELLED"
    assert sdk_platform.posts(job_id) == ()


def test_the_execution_timeout_stops_an_async_handler(work: Client, tmp_path: Path) -> None:
    note = tmp_path / "note"
    given = {"do": "wait", "until": str(tmp_path / "never"), "note": str(note)}
    job_id = work.run(given, policy={"executionTimeout": 5000})
    assert work.ended(job_id)["status"] == "TIMED_OUT"
    until(lambda: note.read_text() == "cancelled")


def test_pings_name_the_worker_and_keep_it_alive(
    sdk_platform: RunPodPlatform, work: Client
) -> None:
    worker = work.runsync({"do": "echo"})["workerId"]
    roster = sdk_platform._endpoints["work"].roster
    contact = roster.get(worker)
    assert contact
    before = contact.pings
    until(lambda: contact.pings > before)


def test_a_generators_parts_are_streamed_and_aggregated(stream: Client) -> None:
    job_id = stream.run({"parts": ["a", "b"]})
    assert stream.ended(job_id)["output"] == ["a", "b"]
    chunks = stream.get(f"stream/{job_id}").json()
    assert chunks["status"] == "COMPLETED"
    assert [chunk["output"] for chunk in chunks["stream"]] == ["a", "b"]


def test_a_generators_exception_fails_the_job_with_its_traceback(stream: Client) -> None:
    job_id = stream.run({"parts": ["a", "boom"]})
    shown = stream.ended(job_id)
    assert shown["status"] == "FAILED"
    assert shown["error"].startswith("handler: boom \ntraceback: Traceback")


def test_a_hundred_jobs_are_each_completed_exactly_once(
    sdk_platform: RunPodPlatform, work: Client
) -> None:
    ids = [work.run({"do": "echo", "value": n}) for n in range(100)]
    for n, job_id in enumerate(ids):
        assert work.ended(job_id, 60)["output"]["echo"] == n
    taken = [e.job_id for e in sdk_platform.events if isinstance(e, JobTaken)]
    assert sorted(job for job in taken if job in set(ids)) == sorted(ids)
    assert all(len(sdk_platform.posts(job_id)) == 1 for job_id in ids)


@pytest.fixture(scope="module")
def frail() -> Iterator[RunPodPlatform]:
    """A platform whose SDK worker the tests stop, crash and replace."""
    config = PlatformConfig(
        endpoints={
            "frail": EndpointConfig(
                command=VERSATILE,
                env={"SLOTS": "4"},
                workers_max=1,
                idle_timeout_s=600,
                crash_backoff_s=0.1,
                report_timeout_s=4,
                ping_interval_ms=1000,
            )
        },
        poll_hold_s=2.0,
    )
    with RunPodPlatform(config) as platform:
        yield platform


@pytest.fixture
def serving(frail: RunPodPlatform, session: requests.Session) -> tuple[Client, WorkerInfo]:
    """A client, and the worker that serves it now."""
    client = Client(frail, "frail", session)
    worker = client.runsync({"do": "echo"})["workerId"]
    return client, next(w for w in frail.workers("frail") if w.id == worker)


def replaced(platform: RunPodPlatform, old: WorkerInfo) -> WorkerInfo:
    """The next worker, once it is ready; the old one has ended then."""

    def fresh() -> WorkerInfo | None:
        workers = [w for w in platform.workers("frail") if w.state in {"idle", "running"}]
        return next((w for w in workers if w.id != old.id), None)

    found = until(fresh, 30)
    assert found
    return found


def ended(platform: RunPodPlatform, worker: WorkerInfo) -> WorkerStopped:
    def stopped() -> WorkerStopped | None:
        events = [e for e in platform.events if isinstance(e, WorkerStopped)]
        return next((e for e in events if e.worker_id == worker.id), None)

    found = until(stopped)
    assert found
    return found


def test_refresh_worker_stops_the_pod_and_starts_another(
    frail: RunPodPlatform, serving: tuple[Client, WorkerInfo]
) -> None:
    client, worker = serving
    shown = client.runsync({"do": "refresh"})
    assert (shown["status"], shown["workerId"]) == ("COMPLETED", worker.id)
    assert "refresh_worker" not in shown["output"]
    assert frail.posts(shown["id"])[-1].stop_pod
    assert ended(frail, worker).reason == "stopPod"
    assert gone(worker.pid)
    replaced(frail, worker)


def test_a_crashed_worker_is_restarted_and_its_job_times_out(
    frail: RunPodPlatform, serving: tuple[Client, WorkerInfo]
) -> None:
    client, worker = serving
    job_id = client.run({"do": "crash", "code": 3})
    stopped = ended(frail, worker)
    assert (stopped.exit_code, stopped.reason) == (3, "crashed")
    assert client.status(job_id)["status"] == "IN_PROGRESS"
    replaced(frail, worker)
    shown = client.ended(job_id)
    assert (shown["status"], shown["error"]) == ("TIMED_OUT", "worker stopped reporting")


def test_a_worker_sent_sigterm_finishes_its_job_and_exits_with_0(
    frail: RunPodPlatform, serving: tuple[Client, WorkerInfo], tmp_path: Path
) -> None:
    client, worker = serving
    go_on = tmp_path / "go"
    given = {"do": "wait", "until": str(go_on), "note": str(tmp_path / "note")}
    job_id = client.run(given)
    until(lambda: client.status(job_id)["status"] == "IN_PROGRESS")
    frail.stop_worker("frail", worker.id)
    assert client.status(job_id)["status"] == "IN_PROGRESS"
    go_on.touch()
    assert client.ended(job_id)["output"]["waited"] is True
    stopped = ended(frail, worker)
    assert (stopped.exit_code, stopped.reason) == (0, "scale-down")


def test_a_worker_killed_with_its_polls_open_swallows_no_job(
    frail: RunPodPlatform, serving: tuple[Client, WorkerInfo]
) -> None:
    client, worker = serving
    os.kill(worker.pid, signal.SIGKILL)
    shown = client.runsync({"do": "echo", "value": 1})
    assert shown["status"] == "COMPLETED"
    assert shown["workerId"] != worker.id
    assert ended(frail, worker).exit_code == -signal.SIGKILL


def test_the_cold_start_of_every_worker_is_measured(
    frail: RunPodPlatform, serving: tuple[Client, WorkerInfo]
) -> None:
    _, worker = serving
    assert worker.cold_start_s
    assert 0.2 < worker.cold_start_s < 30
    events = [e for e in frail.events if isinstance(e, WorkerReady)]
    assert worker.cold_start_s in {e.cold_start_s for e in events}


def test_a_worker_with_four_slots_takes_four_jobs_in_batches(
    serving: tuple[Client, WorkerInfo], tmp_path: Path
) -> None:
    client, worker = serving
    go_on = tmp_path / "go"
    given = {"do": "wait", "until": str(go_on), "note": str(tmp_path / "note")}
    ids = [client.run(given) for _ in range(5)]
    until(
        lambda: client.health()["jobs"] | {"inProgress": 4, "inQueue": 1} == client.health()["jobs"]
    )
    assert client.health()["workers"]["running"] == 1
    go_on.touch()
    assert {client.ended(job)["workerId"] for job in ids} == {worker.id}
