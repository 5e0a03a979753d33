"""The circuit breaker: when it opens, for how long, and that one probe finds out."""

from __future__ import annotations

import json
import threading

from hypothesis import given
from hypothesis import strategies as st

from pennyreel.routing.breaker import (
    Breaker,
    Limits,
    admit,
    counts,
    failed,
    from_json,
    released,
    succeeded,
    to_json,
)
from pennyreel.routing.breakers import Breakers
from routing.support import Cell

DOWN = "backend_unavailable"
NOW = 1_800_000_000.0


def opened(jitter: float = 0.0) -> Breaker:
    breaker = Breaker()
    for _ in range(3):
        breaker = failed(breaker, "t", DOWN, NOW, jitter=jitter)
    return breaker


def test_it_opens_at_the_third_failure_in_a_row() -> None:
    breaker = failed(failed(Breaker(), "t", DOWN, NOW), "t", "timeout", NOW)
    assert breaker.state == "closed"
    assert failed(breaker, "t", "rate_limited", NOW).state == "open"
    assert failed(succeeded(breaker, "t", NOW), "t", DOWN, NOW).state == "closed"


def test_the_users_own_errors_never_open_it() -> None:
    breaker = Breaker()
    for code in ("bad_request", "execution_failed", "unknown_node", "cancelled", "missing_model"):
        assert not counts(code)
        for _ in range(9):
            breaker = failed(breaker, "t", code, NOW)
    assert breaker == Breaker()


def test_old_failures_are_forgotten() -> None:
    breaker = failed(failed(Breaker(), "t", DOWN, NOW), "t", DOWN, NOW)
    assert failed(breaker, "t", DOWN, NOW + 601).state == "closed"


def test_a_refused_key_opens_it_at_once_and_so_does_retry_after() -> None:
    assert failed(Breaker(), "t", "unauthorized", NOW).state == "open"
    breaker = failed(Breaker(), "t", "rate_limited", NOW, retry_after_s=40.0, jitter=0.0)
    assert breaker.open_until == NOW + 40


def test_it_is_open_twice_as_long_each_time_at_random_and_bounded() -> None:
    breaker, limits, now = opened(), Limits(), NOW
    lengths = []
    for _ in range(9):
        assert breaker.open_until is not None
        now = breaker.open_until
        breaker, admission = admit(breaker, "p", now)
        assert admission.probe
        breaker = failed(breaker, "p", DOWN, now, jitter=0.0)
        lengths.append((breaker.open_until or 0) - now)
    assert lengths[:3] == [15.0, 30.0, 60.0]
    assert lengths[-1] == limits.most_s / 2
    assert (opened(1.0).open_until or 0) - NOW == limits.base_s


def test_half_open_lets_one_probe_pass_whose_lease_ends() -> None:
    breaker = opened()
    assert breaker.open_until is not None
    assert not admit(breaker, "p1", breaker.open_until - 1)[1].allowed
    probing, first = admit(breaker, "p1", breaker.open_until)
    assert first.probe
    assert probing.state == "half-open"
    assert not admit(probing, "p2", breaker.open_until + 1)[1].allowed
    assert admit(probing, "p1", breaker.open_until + 1)[1].probe, "the same may ask again"
    assert admit(probing, "p2", breaker.open_until + 1000)[1].probe, "the first one died"
    assert admit(released(probing, "p1"), "p2", breaker.open_until + 1)[1].probe


def test_a_job_whose_user_names_the_backend_is_the_one_probe_before_its_time() -> None:
    probing, first = admit(opened(), "p1", NOW, named=True)
    assert first.probe
    assert not admit(probing, "p2", NOW, named=True)[1].allowed, "one at a time"
    assert succeeded(probing, "p1", NOW) == Breaker()
    worse = failed(probing, "p1", DOWN, NOW, jitter=0.0)
    assert worse.open_until == NOW + 15.0
    assert admit(released(probing, "p1"), "p2", NOW)[1].until == opened().open_until


def test_one_that_asked_to_be_left_alone_is_left_alone_though_it_is_named() -> None:
    asked = failed(Breaker(), "t", "rate_limited", NOW, retry_after_s=40.0, jitter=0.0)
    told = admit(asked, "p", NOW, named=True)[1]
    assert (told.allowed, told.until, told.code) == (False, NOW + 40, "rate_limited")


def test_only_a_job_that_names_it_passes_among_all_that_share_it() -> None:
    cell = Cell()
    for key in ("a:1", "b"):
        cell.put_breaker(key, to_json(opened()), version=0)
    for named, key, passes in (
        ("a", "a:1", True), ("a:1", "a:1", True), ("a:2", "a:1", False), ("a", "b", False),
        (None, "b", False),
    ):  # fmt: skip
        shared = Breakers(cell, named=named)
        assert shared.admit(key, "t", NOW).probe is passes
        shared.released(key, "t")


def test_a_probe_that_nobody_waits_for_any_longer_is_given_back() -> None:
    cell = Cell()
    cell.put_breaker("a", to_json(opened()), version=0)
    shared, other = Breakers(cell), Breakers(cell)
    assert shared.admit("a", "t", NOW + 100).probe
    assert not other.admit("a", "u", NOW + 100).allowed
    shared.let_go()
    assert other.admit("a", "u", NOW + 100).probe
    shared.let_go()
    assert other.state("a").probe == "u", "what is another's stays its own"


def test_only_the_probe_closes_it_and_stragglers_change_nothing() -> None:
    breaker = opened()
    assert breaker.open_until is not None
    assert succeeded(breaker, "straggler", NOW) == breaker
    assert failed(breaker, "straggler", DOWN, NOW) == breaker
    probing, _ = admit(breaker, "p", breaker.open_until)
    assert failed(probing, "straggler", DOWN, breaker.open_until) == probing
    assert succeeded(probing, "p", breaker.open_until) == Breaker()
    unsaying = failed(probing, "p", "bad_request", breaker.open_until)
    assert unsaying.state == "open"
    assert unsaying.probe is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["admit", "fail", "good", "user", "release"]),
            st.sampled_from("abc"),
            st.floats(0, 400),
            st.floats(0, 1),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_whatever_happens_it_survives_the_database_and_has_one_probe(
    moves: list[tuple[str, str, float, float, bool]],
) -> None:
    breaker, now, holder, ends = Breaker(), NOW, None, 0.0
    for what, token, seconds, jitter, named in moves:
        now += seconds
        before = breaker
        if what == "admit":
            breaker, told = admit(breaker, token, now, named=named)
            if told.probe:
                assert holder in {None, token} or now >= ends, "two probes at once"
                holder, ends = token, breaker.probe_until
            else:
                assert told.allowed == (before.open_until is None)
                assert told.allowed or told.until > now
        elif what == "release":
            breaker = released(breaker, token)
        elif what == "good":
            breaker = succeeded(breaker, token, now)
        else:
            code = DOWN if what == "fail" else "bad_request"
            breaker = failed(breaker, token, code, now, jitter=jitter)
        if breaker.probe is None:
            holder = None
        assert from_json(json.loads(json.dumps(to_json(breaker)))) == breaker
        assert breaker.open_until is None or breaker.open_until <= now + 600


def test_what_another_version_wrote_is_read() -> None:
    assert from_json({"failures": 2.0, "colour": "red"}).failures == 2.0
    assert from_json(None) == Breaker()


def test_of_many_threads_one_is_the_probe() -> None:
    cell = Cell()
    cell.put_breaker("a", to_json(opened()), version=0)
    probes: list[str] = []
    start = threading.Barrier(8)

    def ask(token: str) -> None:
        start.wait(10)
        if Breakers(cell).admit("a", token, NOW + 100).probe:
            probes.append(token)

    threads = [threading.Thread(target=ask, args=(f"t{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(probes) == 1


def test_no_failure_is_lost_among_threads() -> None:
    cell = Cell()
    breakers = Breakers(cell, Limits(failures=1000))
    threads = [
        threading.Thread(
            target=lambda: [breakers.failed("a", "t", DOWN, NOW, 0.0, None) for _ in range(20)]
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert from_json(cell.breaker("a")[0]).failures == 160
