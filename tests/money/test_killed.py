"""kill -9 leaves all of a reservation or nothing of it, and nobody waits for the dead."""

from __future__ import annotations

import signal
from pathlib import Path

from fakes.waits import eventually
from money.children import children, together
from money.support import Place, job, reserve
from pennyreel.money.caps import Scope

MORE_THAN_STEPS = 40


def test_a_kill_at_any_step_of_a_reservation_leaves_all_or_nothing(
    place: Place, tmp_path: Path
) -> None:
    secret = tmp_path / "url"
    secret.write_text(place.url)
    with place.open() as ledger:
        ledger.set_budget(Scope("all"), "day", 1000)
        for number in range(1, MORE_THAN_STEPS):
            job(ledger, f"job-k{number}")
        killed = together("killed.py", [(str(secret),)])[0]["killed"]
        assert 5 < killed < MORE_THAN_STEPS - 1
        # Whoever is killed before the commit has done nothing; the last one got through.
        assert place.rows("SELECT attempt_id FROM attempts") == [(f"k{killed + 1}",)]
        assert place.rows("SELECT attempt_id, reserved FROM entries") == [(f"k{killed + 1}", 10)]
        assert ledger.room(backend="runpod") == 990
        assert reserve(ledger, "k1", 990).reserved == 990


def test_killed_hammerers_leave_whole_reservations_and_a_budget_that_holds(
    place: Place, tmp_path: Path
) -> None:
    secret = tmp_path / "url"
    secret.write_text(place.url)
    with place.open() as ledger:
        ledger.set_budget(Scope("all"), "total", 50_000)
        names = [(f"p{n}", str(secret), "2000") for n in range(6)]
        with children("hammer.py", names) as started:
            for one in started:
                one.ready()
            for one in started:
                one.go()
            for number, one in enumerate(started, 1):
                eventually(lambda n=number: _count(place, "attempts") >= 8 * n, 60)  # type: ignore[misc]
                one.process.send_signal(signal.SIGKILL)
                one.process.wait(20)
        lost = (
            "SELECT count(*) FROM attempts WHERE attempt_id NOT IN (SELECT attempt_id FROM entries)"
        )
        assert place.rows(lost) == [(0,)]
        held = ledger.budgets()[0].held
        assert held.counted <= 50_000
        assert reserve(ledger, "next", 50_000 - held.counted).state == "intended"
        # Their processes are gone, so a resume gets what they followed, and does not wait.
        alive = [a for a in ledger.open_attempts() if a.attempt_id != "next"]
        assert alive
        with place.open() as other:
            assert other.claim_open(60) == alive


def test_a_child_that_was_forked_uses_the_ledger_with_connections_of_its_own(
    place: Place, tmp_path: Path
) -> None:
    secret = tmp_path / "url"
    secret.write_text(place.url)
    with place.open() as ledger:
        told = together("forked.py", [(str(secret),)])[0]
        assert told == {"parent": 3, "child": 0}
        assert [a.attempt_id for a in ledger.open_attempts()] == ["child", "parent"]


def _count(place: Place, table: str) -> int:
    return int(place.rows(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608
