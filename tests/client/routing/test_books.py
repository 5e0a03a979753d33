"""Books in a ledger: what the histories see too seldom."""

from __future__ import annotations

import pytest

from pennyreel.books import Allowed, LedgerBooks, Priced
from pennyreel.errors import BadRequest, Unavailable
from pennyreel.money.caps import Cap, Scope
from pennyreel.money.ledger import Ledger
from pennyreel.need import Need
from pennyreel.routing.machine import Option, Outcome, Stage, Trouble

JOB = "j" * 32
A = Option("a", "t", reserve_microusd=1000)
B = Option("b", reserve_microusd=2000)
WHY = Trouble("comfy_crashed", "it crashed", "Try again.", retryable=True, retry_after_s=2.0)


@pytest.fixture
def books(ledger: Ledger) -> LedgerBooks:
    ledger.record_job(JOB, request_sha256="x", need=Need())
    made = LedgerBooks(ledger)
    made.begin(JOB, [A, B], Allowed({A.key: Priced("known", "2026")}))
    made.reserve(JOB, 0, A, "a0")
    made.write(JOB, 0, Stage.SENDING, None, None)
    return made


@pytest.mark.parametrize(
    ("first", "before", "late", "cost"),
    [
        (Stage.FAILED, 300, 700, 700),
        (Stage.FAILED, 300, 300, 300),
        (Stage.FAILED, 300, None, 1000),
        (Stage.REFUSED, 0, 700, 700),
        (Stage.REFUSED, 0, None, 1000),
        (Stage.STOPPED, None, 400, 400),
        (Stage.UNKNOWN, None, 400, 400),
        (Stage.UNKNOWN, None, None, 1000),
    ],
)
def test_a_late_success_is_one_and_its_bill_is_the_last(
    first: Stage,
    before: int | None,
    late: int | None,
    cost: int,
    books: LedgerBooks,
    ledger: Ledger,
) -> None:
    books.settle(JOB, 0, first, before, WHY)
    (told,) = LedgerBooks(ledger).record(JOB).attempts
    assert (told.stage, told.trouble) == (first, WHY)
    for _ in range(2):  # said twice, it counts once
        books.settle(JOB, 0, Stage.DONE, late, None)
        (told,) = LedgerBooks(ledger).record(JOB).attempts
        assert (told.stage, told.trouble) == (Stage.DONE, None)
        attempt = ledger.attempt("a0")
        assert attempt is not None
        assert (attempt.spent, attempt.reserved) == (cost, 0)


def test_a_driver_that_was_away_sends_nothing_for_an_attempt_that_another_has_ended(
    books: LedgerBooks, ledger: Ledger
) -> None:
    LedgerBooks(ledger).settle(JOB, 0, Stage.REFUSED, 0, WHY)
    with pytest.raises(BadRequest) as told:
        books.write(JOB, 0, Stage.SENDING, None, None)
    assert told.value.code == "attempt_conflict"
    assert "nothing is sent" in str(told.value)


def test_the_jobs_limit_and_what_it_has_cost_are_known_to_the_next_process(
    ledger: Ledger,
) -> None:
    ledger.record_job(JOB, request_sha256="x", need=Need())
    books = LedgerBooks(ledger)
    books.begin(JOB, [A, B], Allowed(limit=2500))
    books.reserve(JOB, 0, A, "a0")
    books.settle(JOB, 0, Stage.FAILED, 600, WHY)
    told = LedgerBooks(ledger).record(JOB)
    assert (told.limit, [a.cost for a in told.attempts]) == (2500, [600])


def test_an_end_is_not_believed_before_its_money_says_the_same(
    books: LedgerBooks, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.write(JOB, 0, Stage.ACCEPTED, "a:t/j1@a0", 1.0)

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ledger, "settle", killed)
    with pytest.raises(KeyboardInterrupt):
        books.settle(JOB, 0, Stage.FAILED, 300, WHY)
    (told,) = LedgerBooks(ledger).record(JOB).attempts
    assert (told.stage, told.handle, told.trouble) == (Stage.ACCEPTED, "a:t/j1@a0", None)


def test_what_was_allowed_is_known_to_the_next_process(ledger: Ledger) -> None:
    ledger.record_job(JOB, request_sha256="x", need=Need())
    cap = Cap(Scope("all"), "day", 2500)
    LedgerBooks(ledger).begin(JOB, [A, B], Allowed({A.key: Priced("known", "2026")}, (cap,)))
    other = LedgerBooks(ledger)
    other.reserve(JOB, 0, A, "a0")
    assert [(e.certainty, e.catalogue) for e in ledger.entries("a0")] == [("known", "2026")]
    other.settle(JOB, 0, Stage.FAILED, None, WHY)
    with pytest.raises(Unavailable) as told:
        other.reserve(JOB, 1, B, "b0")
    assert told.value.code == "budget_exceeded"
    assert told.value.info.detail["scope"] == "all"
    assert told.value.info.detail["resets"]


def test_after_an_unknown_attempt_only_a_yes_reserves_another(
    books: LedgerBooks, ledger: Ledger
) -> None:
    books.settle(JOB, 0, Stage.UNKNOWN, None, WHY)
    with pytest.raises(Exception, match="nobody knows whether it ran"):
        books.reserve(JOB, 1, B, "b0")
    books.beside_unknown = True
    books.reserve(JOB, 1, B, "b0")
    assert LedgerBooks(ledger).attempt_id(JOB, 1) == "b0"


def test_who_accepted_is_told_and_what_was_made_is_found(
    books: LedgerBooks, ledger: Ledger
) -> None:
    heard: list[str] = []
    books.on_accepted = heard.append
    books.write(JOB, 0, Stage.ACCEPTED, "a:t/j1@a0", 1.0)
    assert heard == ["a:t/j1@a0"]
    assert books.made(JOB) is None
    books.settle(JOB, 0, Stage.DONE, 10, None)
    books.end(JOB, Outcome.UNFETCHED, 0, ((0, Trouble("disk_full", "no room")),))
    assert books.made(JOB) == "a:t/j1@a0"
    job = ledger.job(JOB)
    assert (job.outcome, (job.summary or {})["outcome"]) == ("storage_failed", "unfetched")
    assert LedgerBooks(ledger).record(JOB).outcome is Outcome.UNFETCHED
