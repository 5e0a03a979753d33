"""Whatever is done in whatever order, the balance is the model's, and no cap is exceeded."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from money.support import Clock, Place, job
from pennyreel.errors import PennyreelError, Unavailable
from pennyreel.money.caps import Scope
from pennyreel.money.ledger import Ledger
from properties.steady import STEADY

CAP = 100
_numbers = itertools.count()

_which = st.integers(0, 5)
_amount = st.integers(0, 60)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("reserve"), _which, _amount),
        st.tuples(st.just("settle"), _which, st.one_of(st.none(), _amount)),
        st.tuples(st.just("release"), _which, st.none()),
        st.tuples(st.just("lose"), _which, st.none()),
        st.tuples(st.just("correct"), _which, _amount),
        st.tuples(st.just("day"), st.none(), st.none()),
    ),
    max_size=25,
)


@dataclass
class Model:
    """What one attempt has cost, told by plain arithmetic."""

    day: int
    amount: int
    state: str = "open"
    spent: int = 0
    corrected: bool = False

    @property
    def counted(self) -> int:
        return self.spent + (self.amount if self.state in {"open", "lost"} else 0)


class Books:
    """The ledger and the model, doing the same."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock = ledger, clock
        self.run = next(_numbers)
        self.scope = Scope("project", f"example {self.run}")
        self.models: dict[int, Model] = {}
        self.day = 0
        ledger.set_budget(self.scope, "day", CAP)
        ledger.set_budget(self.scope, "total", 3 * CAP)

    def step(self, what: str, which: Any, amount: Any) -> None:
        model = self.models.get(which)
        name = f"example {self.run} attempt {which}"
        if what == "day":
            self.day += 1
            self.clock.forward(days=1)
        elif what == "reserve":
            self.reserve(which, name, amount)
        elif model is None:
            with pytest.raises(PennyreelError):
                self.ledger.release(name, code="none")
        elif what == "settle":
            self.settle(model, name, amount)
        elif what == "release":
            self.ledger.release(name, code="refused")
            if model.state in {"open", "lost"}:
                model.state = "released"
        elif what == "lose":
            self.ledger.mark(name, "unknown")
            model.state = "lost" if model.state == "open" else model.state
        elif what == "correct" and model.state == "settled":
            self.correct(model, name, amount)

    def reserve(self, which: int, name: str, amount: int) -> None:
        job(self.ledger, name, project=self.scope.name)
        model = self.models.get(which)
        if model is not None:
            before = self.ledger.attempt(name)
            again = self.ledger.reserve(name, model.amount, job_id=name, backend="runpod")
            assert again == before
            return
        fits = not amount or (
            self.counted(self.day) + amount <= CAP and self.counted() + amount <= 3 * CAP
        )
        try:
            self.ledger.reserve(name, amount, job_id=name, backend="runpod")
        except Unavailable:
            assert not fits
        else:
            assert fits
            self.models[which] = Model(self.day, amount)

    def settle(self, model: Model, name: str, amount: int | None) -> None:
        cost = None if amount is None else min(amount, model.amount)
        if model.state == "released":
            return  # a late cost may exceed a cap: tested elsewhere
        self.ledger.settle(name, cost)
        if model.state != "settled":
            model.state, model.spent = "settled", model.amount if cost is None else cost

    def correct(self, model: Model, name: str, amount: int) -> None:
        down = -min(amount, model.spent)
        self.ledger.adjust(name, down, reference="bill")
        if not model.corrected:
            model.spent, model.corrected = model.spent + down, True

    def counted(self, day: int | None = None) -> int:
        return sum(m.counted for m in self.models.values() if day in {None, m.day})

    def compare(self) -> None:
        told = {b.cap.period: b.held for b in self.ledger.budgets() if b.cap.scope == self.scope}
        for period, day in (("day", self.day), ("total", None)):
            models = [m for m in self.models.values() if day in {None, m.day}]
            reserved = sum(m.amount for m in models if m.state == "open")
            lost = sum(m.amount for m in models if m.state == "lost")
            assert told[period].reserved == reserved
            assert told[period].spent == lost + sum(m.spent for m in models)
        assert told["day"].counted <= CAP
        assert told["total"].counted <= 3 * CAP

    def end(self) -> None:
        for period in ("day", "total"):
            assert self.ledger.remove_budget(self.scope, period)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def books(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """One ledger for all examples: each has a project of its own. Entries cannot be removed."""
    clock = Clock()
    if request.param == "sqlite":
        with Place(f"sqlite:///{tmp_path_factory.mktemp('books')}/l.db").open(clock) as ledger:
            yield ledger, clock
        return
    with (
        request.getfixturevalue("servers").one(like="ledger") as url,
        Place(url).open(clock) as ledger,
    ):
        yield ledger, clock


@settings(STEADY, max_examples=60)
@given(steps=_steps)
def test_any_sequence_keeps_the_caps_and_the_model(books: Any, steps: list[Any]) -> None:
    both = Books(*books)
    for step in steps:
        both.step(*step)
        both.compare()
    both.end()
