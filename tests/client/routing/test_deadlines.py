"""A deadline ends the waiting, soon and whatever happens; it never ends what the books know."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from client.routing.conftest import Ran
from client.support import KEY, Reply, Request, Scripted, artifact
from pennyreel import routed
from pennyreel.money.ledger import Ledger

Cli = Callable[..., Ran]
TIMEOUT_S = 3.0
"""Long enough for the job to be sent by a busy machine."""
JOB = ("generate", "a boat", "--backend", "runpod", "--max-cost", "1", "--timeout", TIMEOUT_S)
NO_SUCH_KEY = b"<Error><Code>NoSuchKey</Code><Message>no</Message></Error>"


@dataclass
class World:
    """A RunPod whose submit has no answer worth the name, and the worker's bucket."""

    runs: list[str] = field(default_factory=list)
    submit: Callable[[], Reply | None] = lambda: Reply(500)
    cancel: Callable[[], Reply | None] = lambda: Reply(500)
    made: bool = False

    def runpod(self, request: Request) -> Reply | None:
        if request.path.endswith("/run"):
            self.runs.append(request.json["input"]["attempt_id"])
            return self.submit()
        if "/cancel/" in request.path:
            return self.cancel()
        if "/status/" in request.path:
            return Reply(200, {"id": "j1", "status": "IN_PROGRESS"})
        return Reply(200, {"jobs": {}, "workers": {"idle": 1}})

    def bucket(self, request: Request) -> Reply:
        if not self.made:
            return Reply(404, NO_SUCH_KEY)
        attempt = urlsplit(request.path).path.rpartition("/")[2].removesuffix(".json")
        files = [artifact("clip.png", b"\x89PNG made")]
        return Reply(200, {"result": {"attempt_id": attempt, "artifacts": files}})


@pytest.fixture
def world(scripted: Callable[..., Scripted], monkeypatch: pytest.MonkeyPatch) -> World:
    one = World()
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "ep")
    monkeypatch.setenv("PENNYREEL_RUNPOD_GPU", "AMPERE_24")
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", scripted(one.runpod).url)
    monkeypatch.setenv("PENNYREEL_S3_BUCKET", "bucket")
    monkeypatch.setenv("PENNYREEL_S3_ENDPOINT", scripted(one.bucket).url)
    monkeypatch.setenv("PENNYREEL_S3_KEY", "key")
    monkeypatch.setenv("PENNYREEL_S3_SECRET", "secret")
    monkeypatch.setattr(routed, "LEAVE_S", 1.0)
    monkeypatch.setattr(routed, "LAST_CALL_S", 1.5)
    return one


def late(cli: Cli) -> tuple[Ran, float]:
    began = time.monotonic()
    ran = cli(*JOB, "--json")
    return ran, time.monotonic() - began


def test_a_lost_job_is_not_looked_for_beyond_the_deadline_and_is_found_later(
    cli: Cli, world: World, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran, took = late(cli)
    assert ran.code == 6, ran.err
    assert took < TIMEOUT_S + routed.LEAVE_S + 3
    problem = ran.json["error"]
    (job,) = ledger.jobs()
    assert problem["code"] == "timeout"
    assert problem["retryable"] is False
    assert problem["detail"]["confirmed_stopped"] is False
    assert "may run" in problem["message"]
    assert "count as spent" in problem["message"]
    assert problem["hint"].endswith(f"pennyreel jobs resume {job.job_id}")
    assert job.outcome is None, "a deadline says nothing about the job"
    assert job.reserved > 0

    world.made = True
    monkeypatch.setattr(routed, "LOOK_S", 0.001)  # a cancel of before does not end the fetch
    found = cli("jobs", "resume", job.job_id, "--json")
    assert found.code == 0, found.err
    assert len(found.json["artifacts"]) == 1
    assert len(world.runs) == 1, "it was never sent again"
    assert ledger.job(job.job_id).outcome == "done"


def test_a_stop_that_nobody_confirms_is_left_and_tried_again_later(
    cli: Cli, world: World, ledger: Ledger
) -> None:
    world.submit = lambda: Reply(200, {"id": "j1", "status": "IN_QUEUE"})
    ran, took = late(cli)
    assert ran.code == 6, ran.err
    assert took < TIMEOUT_S + routed.LEAVE_S + routed.LAST_CALL_S + 3
    assert ran.json["error"]["detail"]["confirmed_stopped"] is False
    (job,) = ledger.jobs()
    assert (job.outcome, len(job.attempts)) == (None, 1)

    world.cancel = lambda: Reply(404)
    again = cli("jobs", "resume", job.job_id, "--json")
    assert again.json["error"]["code"] == "cancelled", again.err
    assert ledger.open_attempts(job.job_id) == []


def test_an_answer_to_a_submit_is_not_waited_for_much_beyond_the_deadline(
    cli: Cli, world: World, ledger: Ledger
) -> None:
    over = threading.Event()

    def silent() -> None:
        over.wait(60)

    world.submit = silent
    try:
        ran, took = late(cli)
    finally:
        over.set()
    assert ran.code == 6, ran.err
    assert took < 5 + routed.LEAVE_S + 4, "five seconds are given to each submit"
    assert ledger.jobs()[0].outcome is None
