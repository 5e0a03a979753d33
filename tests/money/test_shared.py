"""What processes tell one another: breakers, leases, probes, learned seconds."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from money.support import Clock, Place
from pennyreel.errors import Code, Unavailable, error
from pennyreel.money.ledger import Ledger


def test_a_breaker_is_stored_only_over_the_version_that_was_read(ledger: Ledger) -> None:
    assert ledger.breaker("runpod") == (None, 0)
    assert ledger.put_breaker("runpod", {"state": "open", "until": 12.5}, version=0)
    assert not ledger.put_breaker("runpod", {"state": "closed"}, version=0)
    state, version = ledger.breaker("runpod")
    assert state == {"state": "open", "until": 12.5}
    assert ledger.put_breaker("runpod", {"state": "half-open"}, version=version)
    assert not ledger.put_breaker("runpod", {"state": "closed"}, version=version)
    assert ledger.breaker("runpod") == ({"state": "half-open"}, version + 1)
    assert ledger.breaker("gemini") == (None, 0)


def test_of_many_who_change_a_breaker_at_once_one_does(place: Place) -> None:
    ledgers = [place.open() for _ in range(6)]
    barrier, won = threading.Barrier(6), []

    def change(one: Ledger, number: int) -> None:
        barrier.wait(30)
        if one.put_breaker("runpod", {"by": number}, version=0):
            won.append(number)

    _all_at_once([lambda o=o, n=n: change(o, n) for n, o in enumerate(ledgers)])  # type: ignore[misc]
    assert len(won) == 1
    assert ledgers[0].breaker("runpod") == ({"by": won[0]}, 1)
    for one in ledgers:
        one.close()


def test_a_lease_has_one_holder_until_it_ends(ledger: Ledger, place: Place, clock: Clock) -> None:
    token = ledger.try_lease("probe", 10)
    assert token is not None
    with place.open(clock) as other:
        assert other.try_lease("probe", 10) is None
        assert other.try_lease("another", 10) is not None
        clock.forward(seconds=9)
        assert ledger.keep_lease("probe", token, 10)
        clock.forward(seconds=9)
        assert other.try_lease("probe", 10) is None
        clock.forward(seconds=1)
        taken = other.try_lease("probe", 10)
        assert taken is not None
        assert not ledger.keep_lease("probe", token, 10)
        ledger.end_lease("probe", token)  # not its own any more
        assert ledger.try_lease("probe", 10) is None
        other.end_lease("probe", taken)
        assert ledger.try_lease("probe", 10) is not None


def test_a_probe_is_asked_for_once_by_all_who_need_it(place: Place) -> None:
    ledgers = [place.open() for _ in range(6)]
    barrier, asked, answers = threading.Barrier(6), [], []
    all_looked = threading.Event()

    def ask() -> Mapping[str, Any]:
        asked.append(1)
        all_looked.wait(0.3)
        return {"reachable": True}

    def probe(one: Ledger) -> None:
        barrier.wait(30)
        answers.append(one.probed("runpod", ask, fresh_s=60, limit_s=20).answer)

    _all_at_once([lambda o=o: probe(o) for o in ledgers])  # type: ignore[misc]
    assert len(asked) == 1
    assert answers == [{"reachable": True}] * 6
    for one in ledgers:
        one.close()


def test_a_probe_is_asked_again_when_it_is_old_or_has_failed(ledger: Ledger, clock: Clock) -> None:
    def fail() -> Mapping[str, Any]:
        raise error(Code.BACKEND_UNAVAILABLE, "down")

    with pytest.raises(Unavailable):
        ledger.probed("x", fail, fresh_s=5)
    assert ledger.probe("x") is None
    assert ledger.probed("x", lambda: {"n": 1}, fresh_s=5).answer == {"n": 1}
    clock.forward(seconds=5)
    old = ledger.probed("x", fail, fresh_s=5)
    assert (old.answer, old.age_s) == ({"n": 1}, 5.0)
    clock.forward(seconds=1)
    assert ledger.probed("x", lambda: {"n": 2}, fresh_s=5).answer == {"n": 2}


def test_seconds_are_learned_by_profile_and_gpu_and_the_newest_stay(ledger: Ledger) -> None:
    assert ledger.learned("flux", "RTX 4090") == ()
    for number in range(60):
        ledger.learn("flux", "RTX 4090", number + 0.5)
    ledger.learn("flux", "RTX 3090", 7.25)
    found = ledger.learned("flux", "RTX 4090")
    assert found == tuple(n + 0.5 for n in reversed(range(10, 60)))
    assert ledger.learned("flux", "RTX 3090") == (7.25,)


def _all_at_once(calls: list[Any]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(t.is_alive() for t in threads)
