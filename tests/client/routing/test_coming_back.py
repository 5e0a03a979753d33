"""A job that somebody comes back to, by handle or id: it is gone on with, and booked once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import Self

from client.routing.conftest import Ran, spooled
from client.support import GRAPH
from pennyreel import Client, JobCancelled, JobFailed, PennyreelError
from pennyreel.backends import registry
from pennyreel.backends._simulated_jobs import Folder
from pennyreel.backends.simulated import SimulatedBackend, Simulation
from pennyreel.config import Settings
from pennyreel.handles import NOT_BOOKED
from pennyreel.money.ledger import Ledger
from pennyreel.need import Abilities, Unit

Cli = Callable[..., Ran]
TERMS: Any = {"backend": "stubborn", "max_cost": "1"}


class Stubborn(SimulatedBackend):
    """A dear backend without a cancel: what it has accepted runs, and is billed."""

    told = Simulation(
        sku="gemini/omni-1.2-flash/360p", unit=Unit.OUTPUT_SECOND, run_s=0.5, deaf=True
    )

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        folder = Folder(settings.home / "stubborn")
        return cls(cls.told, target=target or "there", jobs=folder, name="stubborn")

    def abilities(self) -> Abilities:
        return replace(super().abilities(), cancels=False)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("stubborn", f"{__name__}:Stubborn", registry.GROUP)

    def points(**wanted: str) -> Any:
        found = [point] if wanted.get("name", "stubborn") == "stubborn" else []
        return [*entry_points(**wanted), *found]

    monkeypatch.setattr(registry, "entry_points", points)


@pytest.fixture
def client() -> Iterator[Client]:
    with Client() as one:
        yield one


def given_up(client: Client, ledger: Ledger) -> str:
    """The handle of a job that was cancelled, and may run on."""
    job = client.start("a boat", **TERMS)
    handle = str(job.accepted(20))
    assert job.cancel() is False
    with pytest.raises(JobCancelled):
        job.result()
    (attempt,) = ledger.open_attempts()
    assert (attempt.state, attempt.spent) == ("unknown", 0)
    assert attempt.reserved > 0, "it counts as spent"
    return handle


@pytest.mark.parametrize("by", ["handle", "id"])
def test_what_was_given_up_and_made_all_the_same_is_fetched_and_its_bill_booked(
    by: str, client: Client, ledger: Ledger
) -> None:
    handle = given_up(client, ledger)
    (job,) = ledger.jobs()
    result = client.handle(handle if by == "handle" else job.job_id).result(20)
    assert result.paths
    done = ledger.job(job.job_id)
    assert (done.outcome, done.reserved) == ("done", 0)
    assert done.spent == result.cost_microusd > 0
    assert ledger.open_attempts() == []
    assert client.handle(handle).result(20).cost_microusd == done.spent, "twice is booked once"
    kinds = [e.kind for e in ledger.entries(done.attempts[0].attempt_id)]
    assert kinds == ["reserve", "settle"]


def test_what_was_given_up_and_failed_is_settled_too(
    client: Client, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stubborn, "told", replace(Stubborn.told, fail=1.0))
    handle = given_up(client, ledger)
    with pytest.raises(JobFailed):
        client.handle(handle).result(20)
    assert ledger.open_attempts() == []
    (job,) = ledger.jobs()
    assert (job.outcome, job.reserved) == ("cancelled", 0)
    assert job.spent > 0, "nobody told the bill: what was reserved counts"


def test_what_was_given_up_can_be_stopped_later_where_its_backend_can(
    client: Client, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stubborn, "told", replace(Stubborn.told, run_s=600.0))
    handle = given_up(client, ledger)
    assert client.cancel(handle) is False
    monkeypatch.setattr(Stubborn, "told", replace(Stubborn.told, deaf=False))
    with Client() as another:
        assert another.cancel(handle)
    assert ledger.open_attempts() == []
    (job,) = ledger.jobs()
    assert (job.outcome, job.reserved) == ("cancelled", 0)


def test_jobs_cancel_asks_the_backend_of_what_was_given_up_and_says_if_it_stopped(
    client: Client, cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Stubborn, "told", replace(Stubborn.told, run_s=600.0))
    given_up(client, ledger)
    (job,) = ledger.jobs()
    ledger.end_job(job.job_id, "unknown_outcome", {"outcome": "unknown"})
    short = job.job_id[:12]
    deaf = cli("jobs", "cancel", short, "--json")
    assert deaf.code == 5
    assert deaf.json["error"]["detail"]["confirmed_stopped"] is False
    assert deaf.json["error"]["hint"] == "Try again in a moment."
    next_ = f"Look again: pennyreel result {short}; or stop it: pennyreel cancel {short}"
    for word in ("show", "resume", "fetch", "retry"):
        ran = cli("jobs", word, short)
        assert next_ in ran.out + ran.err, word
        assert (ran.code == 0) == (word == "show")
    monkeypatch.setattr(Stubborn, "told", replace(Stubborn.told, deaf=False))
    stopped = cli("jobs", "cancel", short, "--json")
    assert stopped.code == 0, stopped.err
    told = {"job_id": job.job_id, "confirmed_stopped": True, "outcome": "cancelled"}
    assert stopped.json == told
    assert ledger.open_attempts() == []


def test_another_beside_one_that_may_run_is_paid_for_with_a_flag_only(
    client: Client, cli: Cli, ledger: Ledger
) -> None:
    given_up(client, ledger)
    (job,) = ledger.jobs()
    assert job.state == "cancelled", "by the user; the bill may come all the same"
    refused = cli("jobs", "retry", job.job_id)
    assert refused.code == 2
    flag = f"pennyreel jobs retry {job.job_id[:12]} --beside-unknown"
    assert flag in refused.err
    assert len(ledger.jobs()) == 1
    ran = cli(*flag.split()[1:], "--json")
    assert ran.code == 0, ran.err
    assert ledger.job(ran.json["job_id"]).outcome == "done"


def test_of_a_job_whose_request_is_elsewhere_the_files_come_and_a_warning(
    ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=3")  # it is let go before it is made
    with Client() as client:
        job = client.submit(GRAPH, backend="simulated")
        job.detach()
        handle = job.accepted(20)
        (request,) = (home / "spool").glob("*.json")
        request.unlink()
        result = client.handle(handle).result(20)
    assert result.paths
    assert "is not on this machine" in result.warnings[0]
    assert ledger.job(job.id).outcome is None, "it is booked where it began"


def test_of_a_handle_of_another_ledger_the_files_come_unbooked(
    client: Client, cli: Cli, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = client.submit(GRAPH, backend="simulated")
    job.detach()
    handle = job.accepted(20)
    monkeypatch.setenv("PENNYREEL_LEDGER_URL", f"sqlite:///{tmp_path / 'other.db'}")
    ran = cli("result", handle, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["warnings"][0] == NOT_BOOKED
    assert ran.json["cost_microusd"] is None
    assert NOT_BOOKED in ran.err
    assert cli("jobs", "list", "--json").json == {"jobs": []}


@pytest.mark.parametrize("named", [True, False])
def test_another_ledger_leaves_the_requests_of_open_jobs_to_theirs(
    named: bool, cli: Cli, ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=1")
    assert cli("generate", "a boat", "--backend", "simulated", "--no-wait").code == 0
    (job,) = ledger.jobs()
    request = home / "spool" / f"{job.job_id}.json"
    told = json.loads(request.read_text("utf-8"))
    assert told["ledger"] == ledger.identity == str((home / "ledger.db").resolve())
    if not named:  # as an older version left it
        del told["ledger"]
        request.write_text(json.dumps(told), "utf-8")
    with monkeypatch.context() as there:
        there.setenv("PENNYREEL_LEDGER_URL", f"sqlite:///{home / 'other.db'}")
        assert cli("jobs", "resume").code == 0
    assert request.exists()
    assert cli("jobs", "resume").code == 0
    assert ledger.job(job.job_id).outcome == "done"
    assert spooled(home) == []


def test_a_job_that_is_left_is_cancelled_by_its_id_and_booked(
    client: Client, cli: Cli, ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "hang=1")
    left = cli("generate", "a boat", "--backend", "simulated", "--no-wait", "--json").json
    assert cli("cancel", left["job_id"][:12], "--json").json["stopped"] is True
    assert [job.outcome for job in ledger.jobs()] == ["cancelled"]
    assert ledger.open_attempts() == []
    told = cli("result", left["job_id"])
    assert told.code == 2
    assert "has made nothing: cancelled" in told.err
    assert ".lock" not in spooled(home)


def test_a_job_that_is_resumed_teaches_its_seconds_like_any_other(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=0.5")
    with Client() as first:
        made = first.run(GRAPH, backend="simulated")
        chosen = first.dispatch.decision(made.job_id).chosen
    assert chosen is not None
    profile = str(ledger.job(made.job_id).need["profile"])
    once = ledger.learned(profile, chosen.gpu)
    assert len(once) == 1
    with Client() as second:
        job = second.submit(GRAPH, backend="simulated")
        job.detach()
        job.accepted(20)
    with Client() as third:
        third.resume(job.id).result(20)
    assert ledger.learned(profile, chosen.gpu) == once * 2


def test_a_job_that_is_resumed_says_where_it_is_and_is_let_go_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=600")
    with Client() as first:
        job = first.start("a boat", backend="simulated")
        job.detach()
        handle = job.accepted(20)
    with Client() as second:
        again = second.resume(job.id[:12])
        assert again.accepted() == handle
        with Client() as third, pytest.raises(PennyreelError, match="is driving"):
            third.resume(job.id)
        again.detach()
        assert again.accepted(20) == handle
    with Client() as last:
        assert last.resume(job.id).cancel()
    assert [j.outcome for j in ledger.jobs()] == ["cancelled"]
    assert len(ledger.jobs()[0].attempts) == 1
