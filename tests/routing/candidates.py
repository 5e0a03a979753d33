"""Candidates to choose among, by hand and by hypothesis."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from pennyreel.money.catalog import Certainty
from pennyreel.money.estimates import Seconds
from pennyreel.money.pricing import Meter, Price
from pennyreel.need import Abilities, Need, Span
from pennyreel.routing.decision import Decision
from pennyreel.routing.facts import Facts, Fit, Left, Place, Policy, Rules, Spent
from pennyreel.routing.policy import decide

NOW = 1_800_000_000.0
ALL = Abilities(
    kinds=frozenset({"video", "image"}), workflows=True, prompts=True, image_input=True,
    lora=True, negative_prompt=True, seed=True, private=True, quality=2,
)  # fmt: skip
HOSTED = Abilities(kinds=frozenset({"video"}), prompts=True, quality=3)
SHORT = Abilities(kinds=frozenset({"video"}), prompts=True, seconds=Span(most=1), quality=1)
CLIP = Need(template="animatediff-v3")


def cost(microusd: int | None, high: int | None = None) -> Price:
    if microusd is None:
        return Price("x", None, None, None, Certainty.UNKNOWN, "2026-11-22", "nobody", "by none")
    most = microusd if high is None else high
    return Price("x", microusd, microusd, most, Certainty.KNOWN, "2026-11-22", "list", "1 x it")


def takes(seconds: float) -> Seconds:
    return Seconds(seconds / 2, seconds, seconds * 2, 3, "3 runs")


def local(microusd: int | None = 0, **changes: Any) -> Facts:
    return Facts(
        "comfyui", **{"abilities": ALL, "price": cost(microusd), "place": Place.LOCAL,
                      "seconds": takes(40), "target": "here", **changes}
    )  # fmt: skip


def cpu(seconds: float = 300, **changes: Any) -> Facts:
    return local(**{"fit": Fit.CPU, "seconds": takes(seconds), "device": "2 CPU cores", **changes})


def runpod(microusd: int | None = 10_000, **changes: Any) -> Facts:
    return Facts(
        "runpod", **{"abilities": ALL, "price": cost(microusd), "place": Place.RENTED,
                     "seconds": takes(60), "target": "ep", **changes}
    )  # fmt: skip


def veo(microusd: int | None = 400_000, **changes: Any) -> Facts:
    return Facts(
        "gemini",
        **{"abilities": HOSTED, "price": cost(microusd), "seconds": takes(90), **changes},
    )


def hotshot(microusd: int | None = 18_000, **changes: Any) -> Facts:
    return Facts(
        "replicate",
        **{"abilities": SHORT, "price": cost(microusd), "seconds": takes(30), **changes},
    )


def chosen(*facts: Facts, need: Need = CLIP, spent: Spent = Spent(), **rules: Any) -> Decision:  # noqa: B008 - frozen
    return decide(facts, need, Rules(**rules), now=NOW, spent=spent)


amounts = st.one_of(st.none(), st.just(0), st.integers(1, 3_000_000))
times = st.one_of(st.none(), st.floats(0.1, 5000).map(takes))
abilities = st.builds(
    Abilities,
    kinds=st.sampled_from([frozenset({"video"}), frozenset({"image"}), frozenset()]),
    workflows=st.booleans(),
    prompts=st.booleans(),
    seconds=st.sampled_from([Span(), Span(most=1), Span(these=(4, 6, 8))]),
    image_input=st.booleans(),
    lora=st.booleans(),
    private=st.booleans(),
    quality=st.integers(0, 3),
)
lefts = st.builds(
    Left,
    scope=st.sampled_from(["all", "project:x"]),
    period=st.just("day"),
    microusd=st.integers(-5, 1_000_000),
    fix=st.just("pennyreel budget"),
)


@st.composite
def one_facts(draw: st.DrawFn) -> Facts:
    low = draw(amounts)
    return Facts(
        backend=draw(st.sampled_from(["comfyui", "runpod", "gemini", "replicate", "hf", "sim"])),
        target=draw(st.sampled_from(["", "a", "b"])),
        abilities=draw(st.one_of(st.just(ALL), abilities)),
        price=cost(low, None if low is None else low + draw(st.integers(0, 100_000))),
        place=draw(st.sampled_from(list(Place))),
        available=draw(st.sampled_from([True, True, True, False])),
        why=draw(st.sampled_from(["", "no key"])),
        fix=draw(st.sampled_from(["", "Set THE_KEY"])),
        seconds=draw(times),
        meter=draw(st.sampled_from([None, Meter(Fraction(190), 130.0), Meter(Fraction(1))])),
        fit=draw(st.sampled_from(list(Fit))),
        breaker_until=draw(st.sampled_from([None, None, NOW - 5, NOW + 5])),
        budgets=tuple(draw(st.lists(lefts, max_size=1))),
        success=draw(st.one_of(st.none(), st.floats(0, 1))),
        checked=draw(st.sampled_from([None, NOW - 30, NOW + 1])),
    )


many_facts = st.lists(one_facts(), max_size=8, unique_by=lambda f: f.key)
needs = st.builds(
    Need,
    kind=st.sampled_from(["video", "video", "image"]),
    workflow=st.booleans(),
    template=st.sampled_from([None, "animatediff-v3"]),
    seconds=st.sampled_from([None, 1, 2, 10]),
    image_input=st.sampled_from([False, False, True]),
)
some_rules = st.builds(
    Rules,
    policy=st.sampled_from(list(Policy)),
    order=st.sampled_from([(), ("runpod",), ("gemini", "comfyui:a")]),
    max_cost=st.sampled_from([None, None, 0, 20_000, 5_000_000]),
    job_limit=st.sampled_from([50_000, None]),
    day_limit=st.sampled_from([2_000_000, None]),
    deadline_s=st.sampled_from([None, None, 60.0]),
    kinds=st.sampled_from([None, None, frozenset({Place.LOCAL, Place.RENTED})]),
    forbidden=st.sampled_from([frozenset(), frozenset({"gemini"})]),
    forced=st.sampled_from([None, None, "sim", "comfyui"]),
    private=st.sampled_from([False, False, True]),
    allow_unknown_price=st.booleans(),
    allow_slow=st.booleans(),
)
some_spent = st.builds(
    Spent, job=st.integers(0, 100_000), day=st.sampled_from([0, 1_900_000, 3_000_000])
)
