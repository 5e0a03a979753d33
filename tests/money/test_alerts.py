"""Half, four fifths and all of a cap are told once; a webhook never holds a job up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

import pytest

from client.support import Reply, Request, Script, Scripted
from fakes.waits import eventually
from money.support import Clock, Place, reserve
from pennyreel.config import Secret, load
from pennyreel.money import alerts
from pennyreel.money.alerts import Alerts
from pennyreel.money.caps import Scope
from pennyreel.money.ledger import Ledger

Serve = Callable[[Script], Scripted]
Open = Callable[[str], Ledger]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(Scripted(script))


@pytest.fixture
def telling(place: Place, clock: Clock) -> Iterator[Open]:
    """`telling(url)`: a ledger with this webhook, whose host may be private."""
    with ExitStack() as stack:
        yield lambda url: stack.enter_context(
            place.open(clock, Alerts(Secret(url), frozenset({urlsplit(url).netloc})))
        )


def spend(ledger: Ledger, name: str, amount: int, **labels: str) -> None:
    reserve(ledger, name, amount, **labels)
    ledger.settle(name, amount)


def levels(ledger: Ledger) -> list[tuple[str, str, int]]:
    return [(str(a.cap.scope), a.cap.period, a.level) for a in ledger.alerts()]


def test_each_level_is_told_once_in_a_period(
    ledger: Ledger, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ledger.set_budget(Scope("all"), "day", 1_000_000)
    steps = [(499_999, 0), (1, 1), (299_999, 1), (1, 2), (100_000, 2), (100_000, 3)]
    for number, (amount, told) in enumerate(steps):
        spend(ledger, f"a{number}", amount)
        assert len(ledger.alerts()) == told
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "50 % of the day budget of all is spent: $0.50 of $1.00",
        "80 % of the day budget of all is spent: $0.80 of $1.00",
        "100 % of the day budget of all is spent: $1.00 of $1.00",
    ]
    clock.forward(days=1)
    spend(ledger, "next", 600_000)
    assert levels(ledger)[3:] == [("all", "day", 50)]


def test_one_job_may_reach_several_levels_of_several_budgets(ledger: Ledger) -> None:
    ledger.set_budget(Scope("project", "film"), "month", 100)
    ledger.set_budget(Scope("user", "ada"), "total", 190)
    ledger.set_budget(Scope("user", "bob"), "total", 1)
    spend(ledger, "a", 100, project="film", user="ada")
    assert sorted(levels(ledger)) == [
        ("project:film", "month", 50),
        ("project:film", "month", 80),
        ("project:film", "month", 100),
        ("user:ada", "total", 50),
    ]


def test_reserved_money_is_not_spent_but_an_unknown_outcome_is(ledger: Ledger) -> None:
    ledger.set_budget(Scope("all"), "day", 100)
    reserve(ledger, "a", 60)
    assert ledger.alerts() == []
    ledger.mark("a", "unknown")
    assert levels(ledger) == [("all", "day", 50)]


def test_a_level_reached_after_midnight_is_told_for_the_day_of_the_job(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.set_budget(Scope("all"), "day", 100)
    reserve(ledger, "a", 60)
    clock.forward(days=1)
    ledger.settle("a", 60)
    assert [a.to_json()["since"] for a in ledger.alerts()] == ["2026-11-27T00:00:00.000Z"]


def test_a_raised_cap_has_levels_of_its_own(ledger: Ledger) -> None:
    ledger.set_budget(Scope("all"), "day", 100)
    spend(ledger, "a", 60)
    ledger.set_budget(Scope("all"), "day", 200)
    spend(ledger, "b", 50)
    assert [(a.cap.limit, a.level) for a in ledger.alerts()] == [(100, 50), (200, 50)]


def test_the_webhook_is_told_in_json(telling: Open, serve: Serve) -> None:
    server = serve(lambda _: Reply(204))
    ledger = telling(f"{server.url}/hook?token=t0ken")
    ledger.set_budget(Scope("backend", "runpod"), "day", 2_000_000)
    spend(ledger, "a", 1_700_000)
    eventually(lambda: len(server.requests) == 2)
    one, other = server.requests
    assert (one.method, one.path) == ("POST", "/hook?token=t0ken")
    assert one.headers["Content-Type"] == "application/json"
    assert [one.json["level"], other.json["level"]] == [50, 80]
    assert other.json == {
        "event": "pennyreel.budget",
        "text": "pennyreel: 80 % of the day budget of backend:runpod is spent: $1.70 of $2.00",
        "scope": "backend:runpod",
        "period": "day",
        "level": 80,
        "cap_microusd": 2_000_000,
        "spent_microusd": 1_700_000,
        "since": "2026-11-27T00:00:00.000Z",
        "at": "2026-11-27T12:00:00.000Z",
    }


def test_a_webhook_that_hangs_holds_nobody_up(
    telling: Open, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = threading.Event()

    def hang(_: Request) -> None:
        done.wait(30)

    server = serve(hang)
    monkeypatch.setattr(alerts, "LEAVE_S", 0.2)
    monkeypatch.setattr(alerts, "POST_S", 1.0)
    ledger = telling(server.url)
    ledger.set_budget(Scope("all"), "day", 100)
    begun = time.monotonic()
    spend(ledger, "a", 100)
    eventually(lambda: len(server.requests) > 0)
    ledger.close()
    assert time.monotonic() - begun < 20
    done.set()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "pennyreel-alerts"])


@pytest.mark.parametrize("status", [302, 404, 500, None])
def test_a_webhook_that_fails_is_logged_and_not_tried_again(
    telling: Open, serve: Serve, caplog: pytest.LogCaptureFixture, status: int | None
) -> None:
    server = serve(
        lambda _: None if status is None else Reply(status, headers={"Location": "/other"})
    )
    ledger = telling(f"{server.url}/hook/s3cret")
    ledger.set_budget(Scope("all"), "day", 100)
    spend(ledger, "a", 60)
    eventually(lambda: "was not told" in caplog.text)
    assert len(server.requests) == 1
    assert "s3cret" not in caplog.text
    assert ledger.attempt("a").spent == 60  # type: ignore[union-attr]


def test_a_private_webhook_is_refused_unless_it_is_allowed(
    place: Place, clock: Clock, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(lambda _: Reply(204))
    urls = [server.url, server.url.replace("http:", "https:"), "http://pennyreel.example/x"]
    for number, url in enumerate(urls):
        caplog.clear()
        with place.open(clock, Alerts(Secret(url))) as ledger:
            ledger.set_budget(Scope("backend", f"b{number}"), "total", 100)
            spend(ledger, f"a{number}", 60, backend=f"b{number}")
        assert "was not told: address_refused" in caplog.text
    assert server.requests == []


def test_the_settings_name_the_webhook_and_what_may_be_private(
    place: Place, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: Reply(204))
    monkeypatch.setenv("PENNYREEL_LEDGER_URL", place.url)
    monkeypatch.setenv("PENNYREEL_ALERT_WEBHOOK", f"{server.url}/hook")
    monkeypatch.setenv("PENNYREEL_ALERT_HOSTS", f"other.example:1, {urlsplit(server.url).netloc}")
    with Ledger.open(load()) as ledger:
        ledger.set_budget(Scope("all"), "total", 100)
        spend(ledger, "a", 50)
    assert len(server.requests) == 1  # closing waited for it


def test_of_many_who_settle_at_once_one_tells_each_level(place: Place, clock: Clock) -> None:
    with place.open(clock) as ledger:
        ledger.set_budget(Scope("all"), "total", 1000)
        for number in range(10):
            reserve(ledger, f"a{number}", 100)
        barrier = threading.Barrier(10)

        def settle(name: str) -> None:
            with place.open(clock) as one:
                barrier.wait(30)
                one.settle(name, 100)

        threads = [threading.Thread(target=settle, args=(f"a{n}",)) for n in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert [(a.level, a.spent) for a in ledger.alerts()] == [(50, 500), (80, 800), (100, 1000)]
