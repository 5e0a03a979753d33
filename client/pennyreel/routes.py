"""What the user allows, and how a decision becomes the router's options. Decides nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pennyreel.backends import registry
from pennyreel.books import Priced
from pennyreel.money.caps import Cap, Scope
from pennyreel.money.catalog import Catalog
from pennyreel.money.pricing import settled
from pennyreel.need import Abilities, Usage
from pennyreel.routing.decision import Decision, Verdict
from pennyreel.routing.facts import LEAST_S, USUAL_S, Facts, Policy, Rules
from pennyreel.routing.machine import Option
from pennyreel.routing.rules import read_rules
from pennyreel.terms import Terms

SLACK = 3.0
"""The server-side deadline is so many times what is expected, so that a hung job costs little."""

MOST_S = 6 * 3600.0
GRAPHS = frozenset({"comfyui", "dev", "runpod"})
"""Backends on which the same ComfyUI graph fails in the same way."""


def rules_of(terms: Terms, *, default_backend: str | None = None, budgeted: bool = False) -> Rules:
    """Return the policy's rules.

    Args:
        terms: the caller's.
        default_backend: what the settings say, where the caller says nothing.
        budgeted: the user has a day's budget of his own, which the ledger holds him to.

    Raises:
        BadRequest: naming the term that makes no sense.

    """
    day = terms.get("day_limit")
    if day is None and budgeted:
        day = "none"
    return read_rules(
        terms.get("policy"),
        max_cost=terms.get("max_cost"),
        day_limit=day,
        deadline_s=terms.get("deadline_s"),
        on=terms.get("places") or (),
        forbid=terms.get("forbid") or (),
        backend=terms.get("backend") or default_backend,
        private=terms.get("private", False),
        allow_unknown_price=terms.get("allow_unknown_price", False),
        allow_slow=terms.get("allow_slow", False),
        known=(*registry.names(), *registry.NAMED_ONLY),
    )


def options_of(
    decision: Decision, facts: Sequence[Facts], *, asking: bool = False
) -> tuple[list[Option], dict[str, Priced]]:
    """Return the router's options in their order, and how sure each price is.

    Args:
        decision: what the policy says.
        facts: what it was made from.
        asking: somebody can be asked, so those that need a yes come last.

    """
    known = {one.key: one for one in facts}
    prices = {c.key: c.price for c in decision.candidates}
    keys = [(key, True) for key in decision.order]
    if asking:
        keys += [(c.key, False) for c in decision.candidates if c.verdict is Verdict.CONSENT]
    options = [
        _option(replace(known[key], price=prices[key]), decision, consented=agreed)
        for key, agreed in keys
    ]
    quick = decision.policy == Policy.FASTEST.value
    options = [replace(o, stands_in=_stands_in(o, decision, known)) for o in options]
    options = [
        replace(option, retry_s=_retry_s(option, options[n + 1 :], quick=quick))
        for n, option in enumerate(options)
    ]
    priced = {key: Priced(prices[key].certainty.value, prices[key].version) for key, _ in keys}
    return options, priced


def caps_of(rules: Rules) -> tuple[Cap, ...]:
    """Return the limits of this job's own that the ledger holds it to, whatever runs beside it."""
    if rules.day_limit is None:
        return ()
    return (Cap(Scope("all"), "day", rules.day_limit),)


def pricer(catalog: Catalog) -> Callable[[Option, Usage], int | None]:
    """Return what turns a bill's units into micro-dollars.

    What was billed is never estimated: of an unknown amount all that was reserved counts.
    """
    return lambda _option, usage: None if usage.amount is None else settled(usage, catalog).likely


def decided(decision: Decision) -> dict[str, Any]:
    """Return the record of a decision, as the ledger keeps it."""
    return {"record": "decision", **decision.to_json()}


def decision_in(kept: Sequence[Mapping[str, Any]]) -> Decision | None:
    """Return the last decision among a job's records."""
    found = [r for r in kept if r.get("record") == "decision"]
    return Decision.from_json(found[-1]) if found else None


def _option(facts: Facts, decision: Decision, *, consented: bool) -> Option:
    able: Abilities = facts.abilities
    deadline_s = _deadline_s(facts, decision)
    expected = USUAL_S if facts.seconds is None else facts.seconds.likely
    return Option(
        backend=facts.backend,
        target=facts.target,
        reserve_microusd=_reserve(facts, decision, deadline_s),
        start_microusd=0 if facts.meter is None else facts.meter.microusd(0.0),
        expect_s=expected,
        deadline_s=deadline_s,
        queue_s=max(LEAST_S, expected),
        cancels=able.cancels,
        looks_up=able.looks_up,
        replays=able.replays,
        consented=consented,
        engine="comfyui" if facts.backend in GRAPHS else facts.backend,
    )


def _reserve(facts: Facts, decision: Decision, deadline_s: float) -> int:
    """Return what is held for a job: what it costs if it hangs until the server ends it."""
    most, limit = facts.price.high, decision.limit_microusd
    if most is None:  # the user agreed to a price that nobody knows: his limit is held for it
        return limit or 0
    late = 0 if facts.meter is None else facts.meter.microusd(deadline_s)
    return most if limit is not None and late > limit else max(most, late)


def _stands_in(option: Option, decision: Decision, known: Mapping[str, Facts]) -> bool:
    """Whether one that costs no more has done jobs, and is down: its jobs come here."""
    down = (
        c
        for c in decision.candidates
        if c.verdict is Verdict.BREAKER_OPEN
        or (c.verdict is Verdict.UNAVAILABLE and known[c.key].success and not known[c.key].lacks)
    )
    return any((c.price.high or 0) <= option.reserve_microusd for c in down if c.key != option.key)


def _retry_s(option: Option, later: Sequence[Option], *, quick: bool) -> float:
    """Return how long it may ask to be left alone before the next is better.

    A dearer one is never better than a wait, but where time counts most.
    """
    other = next((o for o in later if o.consented), None)
    if other is None or not (quick or other.reserve_microusd <= option.reserve_microusd):
        return option.retry_s
    return min(option.retry_s, max(0.0, other.expect_s - option.expect_s))


def _deadline_s(facts: Facts, decision: Decision) -> float:
    """Return how long it may run: no longer than what may be spent pays for, if so billed."""
    meter, most = facts.meter, facts.price.high
    slowest = USUAL_S if facts.seconds is None else max(facts.seconds.likely, facts.seconds.high)
    usual = min(MOST_S, max(LEAST_S, SLACK * slowest))
    if meter is None or most is None:
        return usual
    if facts.seconds is None:  # the price is the bound's
        return min(MOST_S, meter.seconds(most))
    allowed = decision.limit_microusd
    return usual if allowed is None else max(slowest, min(usual, meter.seconds(allowed)))


def labels_of(terms: Terms, template: str | None) -> dict[str, str | None]:
    """Return by what the job's spending is added up."""
    return {"project": terms.get("project"), "user": terms.get("user"), "template": template}
