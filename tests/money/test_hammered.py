"""Sixteen processes hammer one budget: not a micro-dollar over, no lock error."""

from __future__ import annotations

from pathlib import Path

from money.children import together
from money.support import Place, reserve
from pennyreel.money.caps import Scope

PROCESSES, ROUNDS = 16, 20
CAP = 50_000
"""Micro-dollars; about a third of what the processes ask for."""


def test_sixteen_processes_never_exceed_a_budget_and_never_fail(
    place: Place, tmp_path: Path
) -> None:
    secret = tmp_path / "url"
    secret.write_text(place.url)
    with place.open() as ledger:
        ledger.set_budget(Scope("all"), "total", CAP)
        ledger.set_budget(Scope("backend", "runpod"), "total", CAP + 1)
        told = together(
            "hammer.py", [(f"p{n}", str(secret), str(ROUNDS)) for n in range(PROCESSES)]
        )
        sums = {key: sum(one[key] for one in told) for key in told[0]}
        held = next(b.held for b in ledger.budgets() if b.cap.scope.kind == "all")
        print(  # noqa: T201 - the figure that is asked for
            f"\n{'Postgres' if place.postgres else 'SQLite'}: {sums['reserved']} reservations made "
            f"and {sums['refused']} refused by {PROCESSES} processes; {held.counted} of {CAP} "
            "micro-dollars counted"
        )
        assert sums["reserved"] + sums["refused"] == PROCESSES * ROUNDS
        assert sums["refused"] > 0
        assert sums["reserved"] > PROCESSES
        assert held.counted == sums["counted"] <= CAP
        # What is left is exactly what fits: one micro-dollar more does not.
        left = CAP - held.counted
        assert reserve(ledger, "last", left).reserved == left
        assert ledger.room(backend="runpod") == 0


def test_the_budget_was_never_exceeded_at_any_moment(place: Place, tmp_path: Path) -> None:
    """Replay the books in the order in which they were written."""
    secret = tmp_path / "url"
    secret.write_text(place.url)
    with place.open() as ledger:
        ledger.set_budget(Scope("all"), "total", 5000)
        together("hammer.py", [(f"p{n}", str(secret), "15") for n in range(4)])
        counted, most = 0, 0
        for (change,) in place.rows("SELECT reserved + spent FROM entries ORDER BY id"):
            counted += change
            most = max(most, counted)
        assert 4000 < most <= 5000
