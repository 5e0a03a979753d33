"""Money is reserved before, settled after, and added up from entries that nobody can change."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from money.support import Clock, Place, job, reserve
from pennyreel.errors import BadRequest, Unavailable
from pennyreel.money.amounts import microusd
from pennyreel.money.caps import Cap, Scope
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Labels

ALL = Scope("all")


def held(ledger: Ledger, scope: Scope = ALL, period: str = "day") -> tuple[int, int]:
    """(spent, reserved) of a budget."""
    one = next(b for b in ledger.budgets() if (b.cap.scope, b.cap.period) == (scope, period))
    return one.held.spent, one.held.reserved


def test_a_reservation_counts_until_it_is_settled_and_the_rest_comes_back(ledger: Ledger) -> None:
    ledger.set_budget(ALL, "day", 1000)
    reserve(ledger, "a", 700)
    assert held(ledger) == (0, 700)
    ended = ledger.settle("a", 300)
    assert (ended.state, ended.code, ended.spent, ended.reserved) == ("ended", "done", 300, 0)
    assert held(ledger) == (300, 0)
    reserve(ledger, "b", 700)
    assert held(ledger) == (300, 700)


def test_a_refusal_names_scope_limit_spent_reserved_and_the_reset(ledger: Ledger) -> None:
    ledger.set_budget(Scope("project", "film"), "day", microusd("1"))
    reserve(ledger, "a", microusd("0.3"), project="film")
    ledger.settle("a", microusd("0.25"))
    reserve(ledger, "b", microusd("0.5"), project="film")
    with pytest.raises(Unavailable) as refused:
        reserve(ledger, "c", microusd("0.26"), project="film")
    info = refused.value.info
    assert info.code == "budget_exceeded"
    assert info.message == (
        "the day budget of project:film has $0.25 left, and this may cost $0.26: cap $1.00, "
        "spent $0.25, reserved for running jobs $0.50; resets at 2026-11-28T00:00:00.000Z"
    )
    assert "pennyreel budget set project:film --day" in info.hint
    assert info.detail == {
        "scope": "project:film",
        "period": "day",
        "cap_microusd": 1_000_000,
        "spent_microusd": 250_000,
        "reserved_microusd": 500_000,
        "left_microusd": 250_000,
        "wanted_microusd": 260_000,
        "resets": "2026-11-28T00:00:00.000Z",
    }
    assert ledger.attempt("c") is None
    assert reserve(ledger, "d", microusd("0.25"), project="film").reserved == 250_000


@pytest.mark.parametrize("scope", ["backend:runpod", "project:film", "user:ada", "all"])
@pytest.mark.parametrize("period", ["day", "month", "total"])
def test_every_scope_and_period_is_a_limit_of_its_own(
    ledger: Ledger, scope: str, period: str
) -> None:
    ledger.set_budget(Scope.parse(scope), period, 100)
    reserve(ledger, "a", 100, project="film", user="ada")
    with pytest.raises(Unavailable, match=f"the {period} budget of {scope} has \\$0.00 left"):
        reserve(ledger, "b", 1, project="film", user="ada")
    other = {"project": "else", "user": "bob", "backend": "gemini"}
    if scope == "all":
        with pytest.raises(Unavailable):
            reserve(ledger, "c", 1, **other)
    else:
        assert reserve(ledger, "c", 5000, **other).reserved == 5000


def test_the_strictest_cap_decides_and_a_refusal_leaves_nothing(ledger: Ledger) -> None:
    ledger.set_budget(ALL, "month", 10_000)
    ledger.set_budget(Scope("user", "ada"), "day", 50)
    with pytest.raises(Unavailable, match="user:ada"):
        reserve(ledger, "a", 51, user="ada")
    assert ledger.entries("a") == []
    assert held(ledger, ALL, "month") == (0, 0)


def test_a_call_may_bring_a_cap_of_its_own(ledger: Ledger) -> None:
    mine = Cap(ALL, "day", 60)
    reserve(ledger, "a", 60, caps=[mine])
    with pytest.raises(Unavailable, match="all has"):
        reserve(ledger, "b", 1, caps=[mine])
    reserve(ledger, "c", 1, caps=[Cap(Scope("project", "other"), "day", 0)])


def test_what_costs_nothing_is_never_refused(ledger: Ledger) -> None:
    ledger.set_budget(ALL, "day", 0)
    assert reserve(ledger, "a", 0, certainty="known").state == "intended"


def test_an_unknown_price_needs_consent_where_there_is_a_budget(ledger: Ledger) -> None:
    reserve(ledger, "free", 0, certainty="unknown")
    ledger.set_budget(ALL, "day", 100)
    with pytest.raises(Unavailable, match="the price is unknown"):
        reserve(ledger, "a", 0, certainty="unknown")
    reserve(ledger, "b", 0, certainty="unknown", unpriced=True)
    reserve(ledger, "c", 40, certainty="unknown")


def test_a_day_and_a_month_end_at_midnight_in_utc(ledger: Ledger, clock: Clock) -> None:
    ledger.set_budget(ALL, "day", 100)
    ledger.set_budget(ALL, "month", 250)
    clock.now = clock.now.replace(day=30, hour=23, minute=59, second=59, microsecond=999_000)
    reserve(ledger, "a", 100)
    with pytest.raises(Unavailable, match="resets at 2026-12-01T00:00:00"):
        reserve(ledger, "b", 1)
    clock.forward(milliseconds=1)
    assert held(ledger) == (0, 0)
    assert held(ledger, ALL, "month") == (0, 0)
    reserve(ledger, "c", 100)
    clock.forward(days=1)
    reserve(ledger, "d", 100)
    clock.forward(days=1)
    with pytest.raises(Unavailable, match=r"month budget.*2027-01-01"):
        reserve(ledger, "e", 51)


def test_money_counts_on_the_day_of_its_reservation(ledger: Ledger, clock: Clock) -> None:
    ledger.set_budget(ALL, "day", 100)
    clock.now = clock.now.replace(hour=23, minute=59)
    reserve(ledger, "a", 100)
    clock.forward(minutes=2)
    reserve(ledger, "b", 100)
    ledger.settle("a", 90)
    assert held(ledger) == (0, 100)
    assert [(s.group, s.spent) for s in ledger.spending("day")] == [
        ("2026-11-27", 90),
        ("2026-11-28", 0),
    ]


def test_settling_or_releasing_twice_counts_once(ledger: Ledger) -> None:
    ledger.set_budget(ALL, "day", 1000)
    reserve(ledger, "a", 100)
    reserve(ledger, "b", 100)
    assert ledger.settle("a", 60) == ledger.settle("a", 60) == ledger.settle("a", 99)
    assert ledger.release("b", code="rate_limited") == ledger.release("b", code="other")
    assert ledger.release("a", code="cancelled").spent == 60
    assert held(ledger) == (60, 0)


def test_a_reservation_may_be_repeated_but_not_changed(ledger: Ledger) -> None:
    first = reserve(ledger, "a", 100)
    assert reserve(ledger, "a", 100) == first
    for other in ({"amount": 101}, {"backend": "gemini"}, {"target": "x"}):
        with pytest.raises(BadRequest, match="another job, backend or amount"):
            reserve(ledger, "a", **{"amount": 100, **other})
    assert len(ledger.entries("a")) == 1


def test_an_unknown_outcome_counts_as_spent_until_it_is_known(ledger: Ledger) -> None:
    ledger.set_budget(ALL, "day", 1000)
    reserve(ledger, "a", 100)
    ledger.mark("a", "sent")
    ledger.mark("a", "unknown", code="unknown_outcome")
    assert held(ledger) == (100, 0)
    assert [(s.spent, s.reserved, s.unknown) for s in ledger.spending("day")] == [(100, 0, 1)]
    ledger.settle("a", 40)
    assert held(ledger) == (40, 0)


def test_a_cost_that_nobody_knows_is_all_that_was_reserved(ledger: Ledger) -> None:
    reserve(ledger, "a", 100)
    assert ledger.settle("a", None, code="execution_failed").spent == 100
    assert ledger.entries("a")[-1].certainty == "unknown"
    assert ledger.spending("backend")[0].unpriced == 1


def test_the_truth_is_written_even_beyond_a_cap_or_after_a_release(ledger: Ledger) -> None:
    ledger.set_budget(ALL, "day", 100)
    reserve(ledger, "a", 100)
    ledger.settle("a", 130)
    assert held(ledger) == (130, 0)
    assert ledger.budgets()[0].left == 0
    ledger.remove_budget(ALL, "day")
    reserve(ledger, "b", 50)
    ledger.release("b", code="backend_unavailable")
    assert ledger.settle("b", 20).spent == 20
    assert ledger.settle("b", 20).reserved == 0


def test_a_bill_corrects_what_was_spent_once(ledger: Ledger) -> None:
    reserve(ledger, "a", 100)
    ledger.settle("a", 60, certainty="estimated")
    for _ in range(2):
        assert ledger.adjust("a", -10, reference="invoice 7").spent == 50
    assert ledger.adjust("a", 25, reference="invoice 8").spent == 75
    with pytest.raises(BadRequest, match="less than nothing"):
        ledger.adjust("a", -76, reference="invoice 9")


def test_entries_say_what_they_were_made_from(ledger: Ledger, clock: Clock) -> None:
    reserve(ledger, "a", 100, catalogue="2026-11-20", certainty="estimated")
    clock.forward(seconds=90)
    ledger.settle("a", 70)
    told = [entry.to_json() for entry in ledger.entries("a")]
    assert told == [
        {
            "attempt_id": "a", "kind": "reserve", "reference": "", "reserved_microusd": 100,
            "spent_microusd": 0, "at": "2026-11-27T12:00:00.000Z",
            "booked": "2026-11-27T12:00:00.000Z", "catalogue": "2026-11-20",
            "certainty": "estimated",
        },
        {
            "attempt_id": "a", "kind": "settle", "reference": "", "reserved_microusd": -100,
            "spent_microusd": 70, "at": "2026-11-27T12:01:30.000Z",
            "booked": "2026-11-27T12:00:00.000Z", "catalogue": "2026-11-20", "certainty": "known",
        },
    ]  # fmt: skip


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET spent = 0",
        "DELETE FROM entries",
        "DELETE FROM entries WHERE attempt_id = 'a'",
        "TRUNCATE entries",
        "INSERT OR REPLACE INTO entries SELECT * FROM entries",
    ],
)
def test_the_database_itself_refuses_to_change_an_entry(
    ledger: Ledger, place: Place, statement: str
) -> None:
    reserve(ledger, "a", 100)
    ledger.settle("a", 70)
    with pytest.raises(sa.exc.DBAPIError):
        place.run(statement)
    assert [(e.reserved, e.spent) for e in ledger.entries("a")] == [(100, 0), (-100, 70)]


def test_a_job_has_one_living_attempt_at_a_time(ledger: Ledger) -> None:
    job(ledger)
    ledger.reserve("a", 10, job_id="j1", backend="runpod")
    with pytest.raises(BadRequest, match="has not ended"):
        ledger.reserve("b", 10, job_id="j1", backend="gemini")
    ledger.mark("a", "unknown")
    with pytest.raises(BadRequest, match="nobody knows whether it ran"):
        ledger.reserve("b", 10, job_id="j1", backend="gemini")
    ledger.reserve("b", 10, job_id="j1", backend="gemini", beside_unknown=True)
    ledger.settle("b", 10)
    ledger.end_job("j1", "done")
    with pytest.raises(BadRequest):
        ledger.reserve("c", 10, job_id="j1", backend="replicate", beside_unknown=True)


@pytest.mark.parametrize(
    ("amount", "certainty"),
    [(-1, "known"), (1.5, "known"), (True, "known"), (1, "sure"), (10**16, "known")],
)
def test_what_is_no_amount_is_refused(ledger: Ledger, amount: int, certainty: str) -> None:
    with pytest.raises(BadRequest):
        reserve(ledger, "a", amount, certainty=certainty)
    assert ledger.attempt("a") is None


def test_room_is_what_a_job_may_cost_now(ledger: Ledger) -> None:
    assert ledger.room(backend="runpod") is None
    ledger.set_budget(ALL, "day", 100)
    ledger.set_budget(Scope("backend", "gemini"), "day", 30)
    reserve(ledger, "a", 20)
    assert ledger.room(backend="runpod") == 80
    assert ledger.room(backend="gemini", labels=Labels(user="ada")) == 30
