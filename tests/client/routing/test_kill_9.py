"""A job survives its client: killed at any moment, `jobs resume` ends it, once, and pays once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from client.routing.conftest import ended, spooled, started, was_killed
from pennyreel.money.ledger import Ledger
from pennyreel_emulators.replicate import ReplicatePlatform

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

HOSTED = ("generate", "a paper boat", "--backend", "replicate", "--max-cost", "0.10", "--json")
SIMULATED = ("generate", "a paper boat", "--backend", "simulated", "--json", "--max-cost", "1")


def killed_and_resumed(home: Path, ledger: Ledger, kill_at: int, *command: str) -> str:
    """Kill a client, resume in another process; return how its job ended ("" = none was kept)."""
    before = {job.job_id for job in ledger.jobs(limit=1000)}
    first = ended(started(*command, kill_at=kill_at))
    assert was_killed(first) or first.code == 0, first.err
    new = [job for job in ledger.jobs(limit=1000) if job.job_id not in before]
    if was_killed(first):
        again = ended(started("jobs", "resume", "--json"))
        assert "Traceback" not in again.err
    if not new:
        return ""
    (job,) = new
    job = ledger.job(job.job_id)
    assert job.outcome is not None, "it has ended"
    for attempt in job.attempts:
        assert attempt.state == "ended" or (attempt.state == "unknown" and attempt.reserved)
    assert ended(started("jobs", "resume")).err == "no job is open\n"
    assert ".lock" not in spooled(home)
    return "" if not was_killed(first) else job.outcome


def swept(home: Path, ledger: Ledger, billed: Callable[[], int], *command: str) -> list[str]:
    """Kill at each moment, until a client ends before it comes; return how the jobs ended."""
    outcomes = []
    for kill_at in range(1, 200):
        paid, known = billed(), len(ledger.jobs(limit=1000))
        outcome = killed_and_resumed(home, ledger, kill_at, *command)
        if not outcome and len(ledger.jobs(limit=1000)) > known:
            return outcomes
        assert billed() - paid <= 1, "paid once"
        outcomes.append(outcome)
    raise AssertionError("the client never comes to its end")


@pytest.mark.long
def test_a_hosted_job_ends_once_wherever_its_client_is_killed(
    home: Path, replicate: ReplicatePlatform, ledger: Ledger
) -> None:
    outcomes = swept(home, ledger, lambda: len(replicate.billed), *HOSTED)
    assert len(outcomes) > 20
    assert set(outcomes) == {"", "done", "unknown_outcome"}, "it has no look-up"
    assert outcomes.count("done") > outcomes.count("unknown_outcome")


@pytest.mark.long
def test_a_job_that_can_be_looked_up_is_always_done(home: Path, ledger: Ledger) -> None:
    jobs = home / "simulated"
    outcomes = swept(home, ledger, lambda: len(list(jobs.glob("*.json"))), *SIMULATED)
    assert len(outcomes) > 20
    assert set(outcomes) == {"", "done"}
    assert spooled(home) == []
