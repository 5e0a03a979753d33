"""A job survives its client: killed at any moment, `jobs resume` ends it, once, and pays once."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from client.routing.conftest import Ran, ended, spooled, started, was_killed
from client.support import until
from pennyreel.client import Client
from pennyreel.money.ledger import Ledger
from pennyreel.routed import RoutedJob
from pennyreel_emulators.replicate import Behaviour, ReplicatePlatform

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

HOSTED = ("generate", "a paper boat", "--backend", "replicate", "--max-cost", "0.10", "--json")
SIMULATED = ("generate", "a paper boat", "--backend", "simulated", "--json", "--max-cost", "1")
LEAVING = "--no-wait"


Command = Callable[..., Ran]


def in_a_process(*args: object) -> Ran:
    return ended(started(*args))


def killed_and_resumed(
    home: Path, ledger: Ledger, kill_at: int, *command: str, call: Command = in_a_process
) -> str:
    """Kill a client, resume in another process; return how its job ended ("" = none was kept)."""
    before = {job.job_id for job in ledger.jobs(limit=1000)}
    first = ended(started(*command, kill_at=kill_at))
    assert was_killed(first) or first.code == 0, first.err
    new = [job for job in ledger.jobs(limit=1000) if job.job_id not in before]
    if was_killed(first) or LEAVING in command:
        again = call("jobs", "resume", "--json")
        assert "Traceback" not in again.err
    if not new:
        return ""
    (job,) = new
    job = ledger.job(job.job_id)
    assert job.outcome is not None, again.err
    for attempt in job.attempts:
        assert attempt.state == "ended" or (attempt.state == "unknown" and attempt.reserved)
    assert call("jobs", "resume").err == "no job is open\n"
    assert ".lock" not in spooled(home)
    return "" if not was_killed(first) else job.outcome


def swept(home: Path, ledger: Ledger, billed: Callable[[], int], *command: str) -> list[str]:
    """Kill at each moment, until a client ends before it comes; return how the jobs ended."""
    in_a_process("quote", *[word for word in command[1:] if word != LEAVING])
    outcomes = []
    for kill_at in range(1, 200):
        paid, known = billed(), len(ledger.jobs(limit=1000))
        outcome = killed_and_resumed(home, ledger, kill_at, *command)
        assert billed() - paid <= 1, "paid once"
        if not outcome and len(ledger.jobs(limit=1000)) > known:
            return outcomes
        outcomes.append(outcome)
    raise AssertionError("the client never comes to its end")


@pytest.mark.long
def test_a_hosted_job_ends_once_wherever_its_client_is_killed(
    home: Path, replicate: ReplicatePlatform, ledger: Ledger
) -> None:
    outcomes = swept(home, ledger, lambda: len(replicate.billed), *HOSTED)
    assert len(outcomes) >= 18
    assert set(outcomes) == {"", "done", "unknown_outcome"}, outcomes
    assert outcomes.count("done") > outcomes.count("unknown_outcome")


@pytest.mark.long
def test_a_job_that_can_be_looked_up_is_always_done(home: Path, ledger: Ledger) -> None:
    jobs = home / "simulated"
    outcomes = swept(home, ledger, lambda: len(list(jobs.glob("*.json"))), *SIMULATED)
    assert len(outcomes) >= 18
    assert set(outcomes) == {"", "done"}
    assert spooled(home) == []


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_hosted_job_that_is_left_ends_once_wherever_its_client_is_killed(
    home: Path, replicate: ReplicatePlatform, ledger: Ledger
) -> None:
    outcomes = swept(home, ledger, lambda: len(replicate.billed), *HOSTED, LEAVING)
    assert len(outcomes) >= 14
    assert set(outcomes) == {"", "done", "unknown_outcome"}, outcomes


@pytest.mark.long
@pytest.mark.timeout(300)
def test_a_job_that_is_left_and_can_be_looked_up_is_always_done(home: Path, ledger: Ledger) -> None:
    jobs = home / "simulated"
    outcomes = swept(home, ledger, lambda: len(list(jobs.glob("*.json"))), *SIMULATED, LEAVING)
    assert set(outcomes) == {"", "done"}
    assert spooled(home) == []


@pytest.mark.parametrize("kill_at", [11, 15, 17, 1000])
def test_a_client_that_is_killed_or_ends_while_it_leaves_a_job_has_it_resumed_and_done(
    home: Path, ledger: Ledger, kill_at: int, cli: Command
) -> None:
    cli("quote", "a paper boat", "--backend", "simulated")
    killed_and_resumed(home, ledger, kill_at, *SIMULATED, LEAVING, call=cli)
    assert [job.outcome for job in ledger.jobs()] == ["done"]
    assert len(list((home / "simulated").glob("*.json"))) == 1
    assert spooled(home) == []


@pytest.mark.parametrize("kill_at", [5, 11])
def test_a_client_that_is_killed_leaves_a_job_that_is_resumed_and_done(
    home: Path, ledger: Ledger, kill_at: int, cli: Command
) -> None:
    cli("quote", "a paper boat", "--backend", "simulated")  # health is known then
    assert killed_and_resumed(home, ledger, kill_at, *SIMULATED, call=cli) == "done"
    assert len(list((home / "simulated").glob("*.json"))) == 1
    assert spooled(home) == []


def test_of_two_that_resume_a_job_one_drives_it(
    home: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=4")
    first = started(*SIMULATED)
    until(lambda: [a for a in ledger.open_attempts() if a.state == "accepted"])
    first.kill()
    ended(first)
    (job,) = ledger.jobs()
    both = [started("jobs", "resume", job.job_id, "--json") for _ in range(2)]
    codes = sorted((ran.code, ran.out != "") for ran in map(ended, both))
    assert [code for code, _ in codes] == [0, 2]
    assert ledger.job(job.job_id).outcome == "done"
    assert len(ledger.job(job.job_id).attempts) == 1


def test_all_open_jobs_are_gone_on_with_at_once_and_ctrl_c_stops_those_that_run(
    replicate: ReplicatePlatform, ledger: Ledger, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=1")
    left = [cli(*SIMULATED, LEAVING).json["job_id"] for _ in range(2)]
    replicate.configure(behaviour=Behaviour(hangs=True))
    hangs = cli(*HOSTED, LEAVING).json["job_id"]
    client = started("jobs", "resume", "--json")
    until(lambda: all(ledger.job(job).outcome == "done" for job in left))
    assert ledger.job(hangs).outcome is None
    client.send_signal(signal.SIGINT)
    ran = ended(client)
    assert ran.code == 130, ran.err
    *made, last = map(json.loads, ran.out.splitlines())
    assert {one["job_id"] for one in made} == set(left)
    assert last["error"]["detail"] == {"stopped": 1, "confirmed_stopped": True}
    assert "cancelling; press" in ran.err
    assert f"{hangs[:12]}: " in ran.err, "it says which"
    assert (ledger.job(hangs).outcome, ledger.job(hangs).reserved) == ("cancelled", 0)


@pytest.mark.parametrize("others", [0, 2])
def test_jobs_that_began_elsewhere_are_passed_over_and_told(
    others: int, home: Path, ledger: Ledger, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=1")
    away = cli(*SIMULATED, LEAVING).json["job_id"]
    (home / "spool" / f"{away}.json").unlink()
    left = [cli(*SIMULATED, LEAVING).json["job_id"] for _ in range(others)]
    ran = cli("jobs", "resume", "--json-lines")
    assert ran.code == 0, ran.err
    assert f"{away[:12]}: what job {away} asked for is not on this machine" in ran.err
    assert ledger.job(away).outcome is None
    assert {ledger.job(job).outcome for job in left} <= {"done"}
    told = [json.loads(line) for line in ran.out.splitlines()]
    assert {one["job_id"] for one in told} == set(left)
    assert len([one for one in told if one["event"] == "result"]) == others
    assert cli("jobs", "resume", away, *left).code == 2, "who names it is told that it is not done"


def test_a_job_whose_client_lives_is_left_to_it(
    home: Path, ledger: Ledger, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "hang=1")
    client = started(*SIMULATED)
    until(lambda: [a for a in ledger.open_attempts() if a.state == "accepted"])
    (job,) = ledger.jobs()
    other = cli("jobs", "resume")
    assert other.code == 0, "nothing is wrong with it"
    assert "another process is driving" in other.err
    told = cli("jobs", "cancel", job.job_id[:8], "--json")
    assert told.json["confirmed_stopped"] is True
    assert ended(client).code == 130, "its client is told"
    assert ledger.job(job.job_id).outcome == "cancelled"


def test_a_job_that_its_driver_ends_while_another_cancels_it_is_cancelled(
    home: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "hang=1")
    client = started(*SIMULATED)
    until(lambda: [a for a in ledger.open_attempts() if a.state == "accepted"])
    (job,) = ledger.jobs()
    with Client() as other:
        hold = other.dispatch._spool.hold

        def late(job_id: str) -> object:
            assert ended(client).code == 130
            return hold(job_id)

        monkeypatch.setattr(other.dispatch._spool, "hold", late)
        assert other.dispatch.cancel(job.job_id)
    assert ledger.job(job.job_id).outcome == "cancelled"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_end_stops_the_job_and_its_bill(
    number: signal.Signals, home: Path, replicate: ReplicatePlatform, ledger: Ledger
) -> None:
    replicate.configure(behaviour=Behaviour(hangs=True))
    client = started(*HOSTED)
    until(lambda: [a for a in ledger.open_attempts() if a.state == "accepted"])
    client.send_signal(number)
    ran = ended(client)
    assert ran.code == 130, ran.err
    assert ran.json["error"]["detail"]["confirmed_stopped"] is True
    (job,) = ledger.jobs()
    assert job.outcome == "cancelled"
    assert job.reserved == 0
    assert not ledger.open_attempts()


def test_a_job_that_was_never_sent_is_cancelled_without_being_sent(
    home: Path, ledger: Ledger, cli: Command
) -> None:
    cli("quote", "a paper boat", "--backend", "simulated")
    first = ended(started(*SIMULATED, kill_at=9))  # its money is held
    assert was_killed(first)
    (job,) = ledger.jobs()
    assert [a.state for a in job.attempts] == ["intended"]
    ran = cli("jobs", "cancel", job.job_id)
    assert ran.code == 0, ran.err
    assert ledger.job(job.job_id).outcome == "cancelled"
    assert ledger.job(job.job_id).reserved == 0
    assert not list((home / "simulated").glob("*.json"))


def test_ctrl_c_before_anybody_waits_stops_what_was_sent(
    home: Path, ledger: Ledger, cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "hang=1")

    def interrupted(self: Client, job: RoutedJob, *_: object) -> None:
        until(lambda: [a for a in ledger.open_attempts() if a.state == "accepted"])
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "_watched", interrupted)
    ran = cli(*SIMULATED)
    assert ran.code == 130
    (job,) = ledger.jobs()
    assert job.outcome == "cancelled"
    assert not ledger.open_attempts()
