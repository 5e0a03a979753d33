"""How a decision becomes the router's options, with what the user allows."""

from __future__ import annotations

import time
from fractions import Fraction
from typing import Any

import pytest

from pennyreel import routes
from pennyreel.errors import BadRequest
from pennyreel.money import catalog
from pennyreel.money.estimates import Seconds
from pennyreel.money.pricing import Certainty, Meter, Price
from pennyreel.need import Abilities, Need, Unit, Usage
from pennyreel.routing.facts import Facts, Place
from pennyreel.routing.policy import decide
from pennyreel.terms import Terms

ABLE = Abilities(kinds=frozenset({"video"}), prompts=True, cancels=True, looks_up=True)
NEED = Need()
TABLE = catalog.load()


def facts(name: str, high: int | None, **more: Any) -> Facts:
    certainty = Certainty.UNKNOWN if high is None else Certainty.KNOWN
    low = None if high is None else high // 2
    price = Price(
        sku=name, low=low, likely=high, high=high, certainty=certainty, version="2026-11-22"
    )
    return Facts(name, ABLE, price, checked=time.time(), **more)


def options(*found: Facts, asking: bool = False, **terms: Any) -> Any:
    rules = routes.rules_of(Terms(**terms))
    decision = decide(found, NEED, rules, now=time.time())
    return routes.options_of(decision, found, asking=asking)


def test_they_are_in_the_order_of_the_decision_with_their_worst_price() -> None:
    told, priced = options(facts("replicate", 18_000), facts("gemini", 12_000))
    assert [(o.key, o.reserve_microusd) for o in told] == [
        ("gemini", 12_000),
        ("replicate", 18_000),
    ]
    assert {p.certainty for p in priced.values()} == {"known"}
    assert {p.catalogue for p in priced.values()} == {"2026-11-22"}
    assert all(o.consented and o.cancels and o.looks_up for o in told)


def test_what_needs_a_yes_comes_last_and_only_where_somebody_can_be_asked() -> None:
    found = facts("replicate", 18_000), facts("veo", 400_000)
    assert [o.key for o in options(*found)[0]] == ["replicate"]
    told, priced = options(*found, asking=True)
    assert [(o.key, o.consented) for o in told] == [("replicate", True), ("veo", False)]
    assert set(priced) == {"replicate", "veo"}


def test_what_stands_in_for_one_that_is_down_is_told_from_a_first_choice() -> None:
    later = time.time() + 60
    paid = facts("replicate", 18_000)
    cases = [
        ((), False),
        ((facts("runpod", 9_000, breaker_until=later),), True),
        ((facts("veo", 40_000, breaker_until=later),), False),  # a dearer one
        ((facts("comfyui", 0, available=False, success=0.9),), True),
        ((facts("comfyui", 0, available=False),), False),  # it has never done anything
        ((facts("comfyui", 0, available=False, success=0.0),), False),
        ((facts("comfyui", 0, available=False, success=0.9, lacks=True),), False),
    ]
    for others, expected in cases:
        ((option,), _) = options(paid, *others)
        assert option.stands_in is expected, others


def test_of_an_unknown_price_the_users_limit_is_held() -> None:
    ((option,), priced) = options(
        facts("replicate", None), allow_unknown_price=True, max_cost="0.30"
    )
    assert option.reserve_microusd == 300_000
    assert priced["replicate"].certainty == "unknown"


METER = Meter(Fraction(100), besides_s=100.0)


@pytest.mark.parametrize(
    ("seconds", "max_cost", "deadline", "held"),
    [
        (None, "0.05", 400.0, 50_000),  # its time is not known: as long as the money lasts
        (Seconds(100, 200, 300, basis="x"), "1", 900.0, 100_000),
        (Seconds(100, 200, 300, basis="x"), "0.05", 400.0, 50_000),
        (Seconds(100, 200, 300, basis="x"), "0.04", 300.0, 40_000),
    ],
)
def test_a_job_that_hangs_costs_what_was_held_for_it_and_no_more_than_is_allowed(
    seconds: Seconds | None, max_cost: str, deadline: float, held: int
) -> None:
    high = None if seconds is None else 40_000
    found = facts("runpod", high, seconds=seconds, meter=METER)
    ((option,), priced) = options(found, max_cost=max_cost)
    assert (option.deadline_s, option.reserve_microusd) == (deadline, held)
    assert METER.microusd(option.deadline_s) <= held <= round(float(max_cost) * 1e6)
    assert priced["runpod"].certainty == ("estimated" if seconds is None else "known")


@pytest.mark.parametrize(
    ("seconds", "deadline"),
    [
        (None, 3 * 300.0),
        (Seconds(1, 2, 3, basis="x"), 60.0),
        (Seconds(100, 200, 300, basis="x"), 900.0),
        (Seconds(1e4, 2e4, 3e4, basis="x"), 6 * 3600.0),
    ],
)
def test_a_job_that_hangs_is_stopped_after_three_times_what_was_expected(
    seconds: Seconds | None, deadline: float
) -> None:
    ((option,), _) = options(facts("replicate", 1000, seconds=seconds))
    assert option.deadline_s == deadline
    assert option.queue_s >= 60


@pytest.mark.parametrize(
    ("policy", "second", "waits"),
    [
        ("cheapest", 1000, 20.0),  # no dearer: as soon as it would be done there first
        ("cheapest", 1001, 60.0),  # dearer: a wait is cheaper
        ("fastest", 50_000, 20.0),
    ],
)
def test_a_retry_after_is_waited_for_until_the_next_would_be_better(
    policy: str, second: int, waits: float
) -> None:
    found = [
        facts("replicate", 1000, seconds=Seconds(1, 10, 20, basis="x")),
        facts("runpod", second, seconds=Seconds(1, 30, 40, basis="x")),
    ]
    told, _ = options(*found, policy=policy)
    assert [(o.backend, o.retry_s) for o in told] == [("replicate", waits), ("runpod", 60.0)]


def test_the_same_graph_fails_the_same_way_on_each_comfyui() -> None:
    found = [facts(name, 10, place=Place.RENTED) for name in ("comfyui", "runpod", "replicate")]
    told, _ = options(*found)
    assert {o.backend: o.engine for o in told} == {
        "comfyui": "comfyui", "runpod": "comfyui", "replicate": "replicate"
    }  # fmt: skip


def test_the_days_limit_is_the_ledgers_too_unless_the_user_has_one() -> None:
    (cap,) = routes.caps_of(routes.rules_of(Terms()))
    assert (str(cap.scope), cap.period, cap.limit) == ("all", "day", 2_000_000)
    (own,) = routes.caps_of(routes.rules_of(Terms(day_limit="5")))
    assert own.limit == 5_000_000
    assert routes.caps_of(routes.rules_of(Terms(), budgeted=True)) == ()
    assert routes.caps_of(routes.rules_of(Terms(day_limit="none"))) == ()


@pytest.mark.parametrize(
    "terms",
    [
        {"policy": "nonsense"},
        {"max_cost": "nonsense"},
        {"backend": "nonsense"},
        {"forbid": ["nonsense"]},
    ],
)
def test_a_term_that_makes_no_sense_is_named(terms: Any) -> None:
    with pytest.raises(BadRequest, match="nonsense"):
        routes.rules_of(Terms(**terms))


def test_the_settings_backend_counts_where_the_caller_says_nothing() -> None:
    assert routes.rules_of(Terms(), default_backend="runpod").forced == "runpod"
    assert routes.rules_of(Terms(backend="veo"), default_backend="runpod").forced == "veo"


def test_a_bill_of_an_unknown_sku_or_amount_is_unknown_and_not_nothing() -> None:
    price = routes.pricer(TABLE)
    option = options(facts("replicate", 10))[0][0]
    assert price(option, Usage("replicate/hotshot-xl", Unit.GPU_SECOND, 10.0)) == 9750
    assert price(option, Usage("replicate/hotshot-xl", Unit.GPU_SECOND, None)) is None
    assert price(option, Usage("nobody/nothing", Unit.RUN, 1.0)) is None
