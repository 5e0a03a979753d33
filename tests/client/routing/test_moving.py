"""A whole generate on two backends: the first fails in each way, the second makes it.

The first is the emulated Replicate. The second, dearer one is a server that is simulated, under a
name that is not: it is registered as another package's backend would be.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest
from typing_extensions import Self

from client.routing.conftest import TOKEN, Ran
from pennyreel.backends import registry
from pennyreel.backends._simulated_jobs import Folder
from pennyreel.backends.simulated import SimulatedBackend, Simulation
from pennyreel.client import Client
from pennyreel.config import Settings
from pennyreel.errors import PennyreelError
from pennyreel.money.ledger import Ledger
from pennyreel.need import Unit
from pennyreel.routing.machine import Ask
from pennyreel.types import Told
from pennyreel_emulators.replicate import (
    NSFW,
    OUT_OF_MEMORY,
    Behaviour,
    Fault,
    ReplicatePlatform,
)

ONE = {"max_cost": "1", "policy": "replicate,second"}
MANY = 1000


class Second(SimulatedBackend):
    """A backend of another package, which never fails."""

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        made = Simulation(sku="gemini/omni-1.2-flash/360p", unit=Unit.OUTPUT_SECOND)
        jobs = Folder(settings.home / "second")
        return cls(made, target=target or "there", jobs=jobs, name="second")


@pytest.fixture(autouse=True)
def second(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is installed."""
    point = EntryPoint("second", f"{__name__}:Second", registry.GROUP)

    def points(**wanted: str) -> Any:
        found = [point] if wanted.get("name", "second") == "second" else []
        return [*entry_points(**wanted), *found]

    monkeypatch.setattr(registry, "entry_points", points)


def _refused(platform: ReplicatePlatform) -> None:
    platform.fault("create", Fault(422, {"detail": "no such input", "status": 422}, times=MANY))


def _busy(platform: ReplicatePlatform) -> None:
    told = {"detail": "Request was throttled. Your rate limit resets in ~900s."}
    platform.fault("create", Fault(429, told, {"Retry-After": "900"}, times=MANY))


def _out_of_memory(platform: ReplicatePlatform) -> None:
    platform.configure(behaviour=Behaviour(error=OUT_OF_MEMORY))


def _filtered(platform: ReplicatePlatform) -> None:
    platform.configure(behaviour=Behaviour(error=NSFW))


def _unpaid(platform: ReplicatePlatform) -> None:
    platform.configure(credit=False)


@pytest.mark.parametrize(
    ("fail", "code", "paid"),
    [
        (_refused, "bad_request", False),
        (_busy, "rate_limited", False),
        (_unpaid, "not_configured", False),
        (_out_of_memory, "out_of_memory", True),
        (_filtered, "execution_failed", True),
    ],
)
def test_where_the_first_fails_the_second_makes_it(
    fail: Callable[[ReplicatePlatform], None],
    code: str,
    paid: bool,
    replicate: ReplicatePlatform,
    ledger: Ledger,
    cli: Callable[..., Ran],
) -> None:
    fail(replicate)
    ran = cli("generate", "a paper boat", "--policy", ONE["policy"], "--max-cost", "1", "--json")
    assert ran.code == 0, ran.err + cli("why", ledger.jobs()[0].job_id).out
    body = ran.json
    assert body["backend"] == "second"
    assert [(a["backend"], a["outcome"]) for a in body["attempts"]] == [
        ("replicate", code),
        ("second", "done"),
    ]
    assert len(body["artifacts"]) == 1
    (line,) = [text for text in ran.err.splitlines() if "; next: second:there" in text]
    assert line.startswith("replicate:lucataco/hotshot-xl: "), "it says what failed"
    (job,) = ledger.jobs()
    assert job.outcome == "done"
    assert body["cost_microusd"] == job.spent
    assert job.reserved == 0
    first, other = job.attempts
    assert bool(first.spent) == paid
    assert other.spent > 0
    entries = [e for a in job.attempts for e in ledger.entries(a.attempt_id)]
    assert sum(e.spent for e in entries) == job.spent
    assert sum(e.reserved for e in entries) == 0
    shown = cli("jobs", "show", job.job_id)
    assert f"replicate  ended  {code}" in " ".join(shown.out.split()).replace(" ", "  ")
    assert "replicate:lucataco/hotshot-xl: " in shown.out
    assert cli("why", job.job_id[:10]).code == 0


def test_of_many_jobs_that_move_each_waits_for_its_turn(
    replicate: ReplicatePlatform,
    ledger: Ledger,
    cli: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENNYREEL_MOVES_PER_MINUTE", "1")
    _refused(replicate)
    send = ("generate", "a boat", "--policy", ONE["policy"], "--max-cost", "1")
    assert cli(*send).code == 0
    late = cli(*send, "--timeout", "5")  # in which its first attempt ends, and its turn comes not
    assert late.code != 0
    assert "second:there: many jobs move there; asking again in" in late.err
    waited = ledger.jobs()[0]
    assert [a.backend for a in waited.attempts] == ["replicate"]
    assert (waited.reserved, waited.state) == (0, "cancelled")
    first_choice = cli("generate", "a boat", "--backend", "second", "--max-cost", "1")
    assert first_choice.code == 0, "who did not move waits for nobody"


def test_a_job_that_is_left_has_moved_on_before_its_handle_is_printed(
    replicate: ReplicatePlatform, ledger: Ledger, cli: Callable[..., Ran]
) -> None:
    _refused(replicate)
    terms = ("--policy", ONE["policy"], "--max-cost", "1")
    left = cli("generate", "a paper boat", *terms, "--no-wait", "--json")
    assert left.code == 0, left.err
    assert "; next: second:there" in left.err
    assert left.json["handle"].startswith("second:there/")
    (job,) = ledger.jobs()
    assert left.json["job_id"] == job.job_id
    assert [(a.backend, a.state) for a in job.attempts] == [
        ("replicate", "ended"),
        ("second", "accepted"),
    ]
    assert job.reserved > 0
    made = cli("result", left.json["handle"], "--json")
    assert made.code == 0, made.err
    again = cli("result", job.job_id, "--json")
    assert again.json["cost_microusd"] == made.json["cost_microusd"] > 0
    assert [(a["backend"], a["outcome"]) for a in again.json["attempts"]] == [
        ("replicate", "bad_request"),
        ("second", "done"),
    ]
    done = ledger.job(job.job_id)
    assert (done.outcome, done.reserved) == ("done", 0)


def test_a_job_that_fails_everywhere_is_no_job_that_is_left(
    replicate: ReplicatePlatform, ledger: Ledger, cli: Callable[..., Ran]
) -> None:
    _refused(replicate)
    ran = cli(
        "generate", "a boat", "--backend", "replicate", "--max-cost", "1", "--no-wait", "--json"
    )
    assert ran.code == 2, ran.err
    assert ran.json["error"]["code"] == "bad_request"
    assert [job.outcome for job in ledger.jobs()] == ["bad_request"]
    assert ledger.open_attempts() == []


def test_a_lost_answer_moves_only_with_a_yes(
    replicate: ReplicatePlatform, ledger: Ledger, cli: Callable[..., Ran]
) -> None:
    replicate.configure(behaviour=Behaviour(answer="lost"))
    told = ("generate", "a boat", "--policy", ONE["policy"], "--max-cost", "1", "--json")
    ran = cli(*told)
    assert ran.code == 7
    assert ran.json["error"]["code"] == "unknown_outcome"
    (job,) = ledger.jobs()
    assert job.state == "unknown"
    assert job.reserved > 0, "it counts as spent"
    refused = cli("jobs", "retry", job.job_id)
    assert refused.code == 2
    assert "may still run" in refused.err
    for command in (("jobs", "cancel"), ("cancel",), ("result",), ("jobs", "show")):
        blind = cli(*command, job.job_id)
        assert blind.code == {"cancel": 5, "result": 2, "show": 0}[command[-1]]
        assert "look at its backend's own list of jobs" in blind.out + blind.err
    ran = cli(*told, "--yes")
    assert ran.code == 0, ran.err + cli("why", ledger.jobs()[0].job_id).out
    assert [a["outcome"] for a in ran.json["attempts"]] == ["unknown_outcome", "done"]
    assert ran.json["cost_microusd"] > ledger.job(ran.json["job_id"]).spent, "what may be billed"


def test_a_no_leaves_it_unknown(replicate: ReplicatePlatform) -> None:
    replicate.configure(behaviour=Behaviour(answer="lost"))
    asked: list[Ask] = []

    def no(question: Ask) -> bool:
        asked.append(question)
        return False

    with Client() as client, pytest.raises(PennyreelError) as told:
        client.generate("a boat", ask=no, **ONE)  # type: ignore[arg-type]
    assert told.value.code == "unknown_outcome"
    assert [a.unknown for a in asked] == [True]
    assert asked[0].option.backend == "second"


def test_a_lost_answer_that_can_be_looked_up_is_one_job(
    home: Any, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "lose=1")
    seen: list[Any] = []
    with Client() as client:
        made = client.generate("a boat", backend="simulated", on_event=seen.append)
    assert len(made.attempts) == 1
    assert any("looking it up" in e.text for e in seen if isinstance(e, Told))
    assert len(list((home / "simulated").glob("*.json"))) == 1


def test_a_job_that_hangs_is_stopped_at_its_deadline_and_moves(
    replicate: ReplicatePlatform, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    replicate.configure(behaviour=Behaviour(hangs=True))
    monkeypatch.setattr("pennyreel.routes.LEAST_S", 0.5)
    monkeypatch.setattr("pennyreel.routes.SLACK", 0.001)
    with Client() as client:
        made = client.generate("a boat", **ONE)  # type: ignore[arg-type]
    assert made.backend == "second"
    assert [a.outcome for a in made.attempts] == ["timeout", "done"]
    assert replicate.billed, "it ran"
    (job,) = ledger.jobs()
    assert job.attempts[0].spent > 0


def test_if_all_fail_all_is_told(
    replicate: ReplicatePlatform, cli: Callable[..., Ran], ledger: Ledger
) -> None:
    _out_of_memory(replicate)
    ran = cli("generate", "a boat", "--backend", "replicate", "--max-cost", "1", "--json")
    assert ran.code == 3
    (attempt,) = ran.json["error"]["detail"]["attempts"]
    assert attempt["backend"] == "replicate"
    assert attempt["hint"]
    (job,) = ledger.jobs()
    replicate.configure(behaviour=Behaviour())
    again = cli("jobs", "retry", job.job_id, "--json")
    assert again.code == 0, again.err
    assert again.json["backend"] == "replicate", "by the terms of the first"
    assert again.json["job_id"] != job.job_id
    done = cli("jobs", "retry", again.json["job_id"])
    assert done.code == 2
    assert "is not kept" in done.err


def test_no_key_is_told_to_anybody(replicate: ReplicatePlatform, home: Any) -> None:
    with Client() as client:
        client.generate("a boat", **ONE)  # type: ignore[arg-type]
    for file in home.rglob("*"):
        if file.is_file():
            assert TOKEN.encode() not in file.read_bytes(), file
