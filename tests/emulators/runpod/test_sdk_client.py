"""RunPod's own client (runpod.Endpoint), unchanged, against the platform and real workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulators.runpod.support import Client, SdkClient, until


def test_run_status_and_output_work(sdk: SdkClient) -> None:
    job_id = sdk.call("run", "work", {"input": {"do": "echo", "value": 5}})
    assert sdk.call("output", "work", job_id, 20)["echo"] == 5
    assert sdk.call("status", "work", job_id) == "COMPLETED"


def test_run_wraps_a_request_without_input(sdk: SdkClient) -> None:
    job_id = sdk.call("run", "work", {"do": "echo", "value": [1]})
    assert sdk.call("output", "work", job_id, 20)["echo"] == [1]


def test_run_sync_returns_the_output(sdk: SdkClient) -> None:
    assert sdk.call("run_sync", "work", {"do": "echo", "value": "x"}, 30)["echo"] == "x"


def test_run_sync_loses_the_error_of_a_failed_job(sdk: SdkClient) -> None:
    given = {"do": "fail", "value": "no such model"}
    assert sdk.call("run_sync", "work", given, 30) == {"details": [1, 2]}


def test_cancel_ends_a_running_job(sdk: SdkClient, work: Client, tmp_path: Path) -> None:
    note = tmp_path / "note"
    job_id = sdk.call(
        "run", "work", {"do": "wait", "until": str(tmp_path / "never"), "note": str(note)}
    )
    # Not a moment earlier: the SDK drops a stop for a job it has read but not yet begun.
    until(note.exists)
    assert sdk.call("cancel", "work", job_id) == {"id": job_id, "status": "CANCELLED"}
    assert sdk.call("status", "work", job_id) == "CANCELLED"
    until(lambda: note.read_text() == "cancelled")


def test_stream_yields_every_chunk(sdk: SdkClient) -> None:
    job_id = sdk.call("run", "stream", {"parts": ["a", {"b": 1}, 3]})
    assert sdk.call("stream", "stream", job_id) == ["a", {"b": 1}, 3]


def test_health_has_jobs_and_workers(sdk: SdkClient) -> None:
    health = sdk.call("health", "work")
    assert set(health) == {"jobs", "workers"}


def test_purge_queue_answers_with_what_was_removed(sdk: SdkClient) -> None:
    assert sdk.call("purge_queue", "stream") == {"removed": 0, "status": "completed"}


def test_an_unknown_job_raises_the_clients_error(sdk: SdkClient) -> None:
    with pytest.raises(RuntimeError, match="404"):
        sdk.call("status", "work", "nothing")


def test_a_wrong_key_raises_the_clients_own_error(sdk: SdkClient) -> None:
    with pytest.raises(RuntimeError, match="401 Unauthorized"):
        sdk.call("health_with_key", "work", "wrong")
