"""The router's histories, with books that are kept in a ledger on a disk.

Beside the strict books of the router's own tests runs `LedgerBooks`: both must refuse the same,
count the same, and after each crash tell the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pennyreel.books import Allowed, LedgerBooks
from pennyreel.errors import PennyreelError
from pennyreel.money.caps import Cap, Scope
from pennyreel.money.database import Database
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Labels
from pennyreel.need import Need
from pennyreel.routing.machine import JobRecord, Option, Outcome, Stage, Trouble
from pennyreel.routing.machine import events as ev
from properties.router_books import ENDS, OverLimit
from properties.router_books import Books as Strict
from properties.router_world import Tally, World


class Clock:
    """The history's time; of all of them one after the other."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[Ledger]:
    with Ledger(Database.of_file(tmp_path / "ledger.db"), clock=clock) as opened:
        yield opened


class Both(Strict):
    """The strict books, and a ledger's beside them."""

    kept: LedgerBooks
    ledger: Ledger
    world: LedgerWorld

    @classmethod
    def of(cls, world: LedgerWorld, ledger: Ledger) -> Both:
        plain = world.books
        job_id = f"history-{world.seed}-{world.crash_at}"
        made = cls(job_id, plain.options, plain.limit, plain.rules)
        made.world, made.ledger, made.kept = world, ledger, LedgerBooks(ledger)
        ledger.record_job(job_id, request_sha256=job_id, need=Need(), labels=Labels(project=job_id))
        cap = Cap(Scope("project", job_id), "month", plain.limit)
        made.kept.begin(job_id, plain.options, Allowed(caps=(cap,)))
        return made

    def reserve(self, n: int, option: Option) -> None:
        self.world.clock.now = self.world.now
        refused = False
        try:
            super().reserve(n, option)
        except OverLimit:
            refused = True
        told = self._refusal(n, option)
        assert told == ("budget_exceeded" if refused else ""), "both refuse the same"
        if refused:
            raise OverLimit
        assert self.kept.attempt_id(self.job_id, n) == self._attempt(n)

    def _attempt(self, n: int) -> str:
        """Name it: what was set aside and is tried again has an attempt of its own."""
        return f"{self.job_id}-{self.returns}-{n}"

    def _refusal(self, n: int, option: Option) -> str:
        try:
            self.kept.reserve(self.job_id, n, option, self._attempt(n))
        except PennyreelError as problem:
            return problem.code
        return ""

    def write(self, n: int, stage: Stage, handle: str | None, at: float | None) -> None:
        self.world.clock.now = self.world.now
        super().write(n, stage, handle, at)
        self.kept.write(self.job_id, n, stage, handle, at)

    def settle(self, n: int, stage: Stage, microusd: int | None, trouble: Trouble | None) -> None:
        self.world.clock.now = self.world.now
        super().settle(n, stage, microusd, trouble)
        self.kept.settle(self.job_id, n, stage, microusd, trouble)

    def end(self, outcome: Outcome) -> None:
        super().end(outcome)
        troubles = tuple((a.n, a.trouble) for a in self.attempts.values() if a.trouble)
        self.kept.end(self.job_id, outcome, None, troubles)

    def record(self) -> JobRecord:
        """What a new process reads; it has books of its own."""
        self.kept = LedgerBooks(self.ledger)
        told, mine = self.kept.record(self.job_id), super().record()
        assert [_plain(a) for a in told.attempts] == [_plain(a) for a in mine.attempts]
        assert (told.options, told.cancel, told.outcome) == (
            mine.options,
            mine.cancel,
            mine.outcome,
        )
        return replace(told, rules=self.rules)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "cancel" and value:
            self.kept.mark_cancelled(self.job_id)
            assert self.kept.cancelled(self.job_id)

    def check(self) -> None:
        """The money, at the end."""
        every = self.ledger.job(self.job_id).attempts
        last = {int(a.attempt_id.rpartition("-")[2]): a for a in every}
        assert sum(a.spent + a.reserved for a in every) == self.counted
        for n, attempt in last.items():
            assert attempt.spent + attempt.reserved == self.costs[n]
            unknown = self.attempts[n].stage is Stage.UNKNOWN
            assert bool(attempt.reserved) <= unknown, "no money is held but for the unknown"


class LedgerWorld(World):
    """A history whose books are both."""

    def __init__(
        self, seed: int, clock: Clock, ledger: Ledger, crash_at: int | None = None
    ) -> None:
        super().__init__(seed, crash_at)
        self.clock = clock
        self.both = self.books = Both.of(self, ledger)

    def _answered(self, event: ev.Event) -> None:
        super()._answered(event)
        job = self.job
        if isinstance(event, ev.Consented) and job is not None and job.asking == event.call:
            self.both.kept.beside_unknown = True


def _plain(attempt: Any) -> tuple[Any, ...]:
    trouble = attempt.trouble if attempt.stage in ENDS else None
    return attempt.n, attempt.stage, attempt.handle, trouble


def play(seeds: range, clock: Clock, ledger: Ledger, crash_at: int | None = None) -> Tally:
    tally = Tally()
    for seed in seeds:
        world = LedgerWorld(seed, clock, ledger, crash_at)
        try:
            world.play()
            world.both.check()
            world.both.record()
        except Exception as problem:
            raise AssertionError(f"history {seed}, crash at {crash_at}: {problem}") from problem
        tally.add(world)
    return tally


def test_a_ledgers_books_tell_the_same_as_the_strict_ones(clock: Clock, ledger: Ledger) -> None:
    tally = play(range(100), clock, ledger)
    assert tally.crashes > 10
    assert tally.moved > 10


def test_they_do_so_after_a_crash_at_any_effect(clock: Clock, ledger: Ledger) -> None:
    for seed in range(3):
        probe = World(seed)
        probe.play()
        for crash_at in range(1, probe.effects + 1):
            play(range(seed, seed + 1), clock, ledger, crash_at)


@pytest.mark.long
def test_two_thousand_histories_in_a_ledger(clock: Clock, ledger: Ledger) -> None:
    tally = play(range(1000, 3000), clock, ledger)
    assert tally.had_to_succeed > 400
