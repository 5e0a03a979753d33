"""Which backend a job goes to: a pure function of facts, the job's need and the user's rules.

    judge each candidate      what it lacks, what it may not cost, what needs a yes
    set the weak aside        a CPU, or a GPU below the minimum, wins only if forced, local-only
                              or alone
    sort the rest             by the policy; ties by price, time, success, quality, name

No I/O and no clock: the same code runs in the simulation. The limits stand in `facts.Rules`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal
from typing import Any, NamedTuple

from pennyreel.money.amounts import USD, dollars
from pennyreel.money.rows import Certainty
from pennyreel.need import Need, misfits
from pennyreel.routing import cooling
from pennyreel.routing.decision import Candidate, Consent, Decision, Outcome, Verdict
from pennyreel.routing.facts import (
    LEAST_S,
    NOTHING,
    SLOW_S,
    USUAL_S,
    Case,
    Facts,
    Fit,
    Place,
    Policy,
    Rules,
    Spent,
    names,
)

_MOST = 300
"""Characters of a reason: backends tell some of them."""

_WEAK = {
    True: "it has no GPU, and others can do it: it is used alone, by policy local-only, or forced",
    False: "its GPU is below the workflow's minimum: it is used alone, local-only, or forced",
}


class Judged(NamedTuple):
    """A candidate, and what was found."""

    facts: Facts
    blocks: list[tuple[Verdict, str, str]]
    """Verdict, reason, fix."""
    consents: list[Consent]

    @property
    def free(self) -> bool:
        """Whether it may have the job as things are."""
        return not self.blocks and not self.consents

    @property
    def within_reach(self) -> bool:
        """Whether a yes is all that it may lack."""
        return all(verdict is Verdict.TOO_DEAR for verdict, *_ in self.blocks)


def decide(
    candidates: Iterable[Facts],
    need: Need,
    rules: Rules,
    *,
    now: float,
    spent: Spent = NOTHING,
    tried: frozenset[str] = frozenset(),
) -> Decision:
    """Choose.

    Args:
        candidates: what is known of each backend; their order does not matter, and of two with
            the same key one counts.
        need: what the job requires.
        rules: what the user wants and allows.
        now: epoch seconds.
        spent: what this job and this day have cost already, reservations included.
        tried: keys of the candidates that the job was on: each is tried once.

    """
    case = Case(need, rules, now, spent, tried)
    judged = [judge(_bounded(facts, case), case) for facts in _distinct(candidates)]
    ranked = sorted(judged, key=lambda j: _rank(j.facts, case))
    ranked = _set_weak_aside(ranked, case)
    ready = [j for j in ranked if j.free]
    asking = [j for j in ranked if not j.blocks and j.consents]
    rest = [j for j in ranked if j.blocks]
    dear = any(j.blocks[0][0] is Verdict.TOO_DEAR for j in rest)
    outcome = Outcome.CONSENT_REQUIRED if asking or dear else Outcome.NONE
    outcome = Outcome.GO if ready else outcome
    told = [_candidate(j, case, first=i == 0) for i, j in enumerate([*ready, *asking, *rest])]
    return Decision(
        at=now,
        policy=rules.policy.value,
        outcome=outcome,
        candidates=tuple(told),
        order=tuple(j.facts.key for j in ready),
        notes=tuple(_notes(ready)),
        retry_after_s=_retry_after(rest, now) if outcome is Outcome.NONE else None,
        limit_microusd=rules.cost_limit,
        catalog=told[0].price.version if told else "",
        wanted=wanted(need),
    )


def judge(facts: Facts, case: Case) -> Judged:
    """Return what speaks against a candidate, all of it, and what needs a yes."""
    blocks = [*_unwanted(facts, case), *_unable(facts, case), *_over_budget(facts)]
    dear = _too_dear(facts, case)
    # Last, so that a candidate whose verdict it is lacks nothing but the money.
    blocks += [(Verdict.TOO_DEAR, c.why, c.flag) for c in dear]
    return Judged(facts, blocks, [*dear, *consents(facts, case)])


def consents(facts: Facts, case: Case) -> Iterator[Consent]:
    """Yield what needs a yes: the router asks again before it moves to another backend."""
    rules, cost = case.rules, facts.price.high
    if cost is None:
        if not rules.allow_unknown_price and _limited(facts, rules):
            why = f"its price is not known ({facts.price.formula or 'no row'})"
            yield Consent("unknown_price", why, "--allow-unknown-price")
    else:
        yield from _cost_consents(cost, case)
    time = facts.seconds
    if facts.fit.weak and time and time.likely > SLOW_S and not rules.allow_slow:
        why = f"it takes about {time.likely / 60:.0f} minutes on {facts.device or facts.fit.value}"
        yield Consent("slow", why, "--allow-slow")


def wanted(need: Need) -> str:
    """Return what a job requires, in words; no file is named."""
    size = f"{need.width}x{need.height}" if need.width and need.height else ""
    told = [
        need.kind,
        "by a workflow" if need.workflow else f"by template {need.template}" * bool(need.template),
        size,
        "" if need.seconds is None else f"{need.seconds:g} s",
        "" if need.frames is None else f"{need.frames} frames",
        need.format or "",
        "with an image" * need.image_input,
        "with LoRA" * need.lora,
        "with a fixed seed" * need.seed,
        "" if not need.vram_min_bytes else f"{need.vram_min_bytes / 1e9:.3g} GB of GPU memory",
    ]
    return ", ".join(part for part in told if part)


def _bounded(facts: Facts, case: Case) -> Facts:
    """Return a price where none is known, but a limit on the time is one on the bill.

    A job whose time nobody knows may run as long as `max_cost`, and what the day and the budgets
    have left, pay for; without a `max_cost` for USUAL_S. There the backend itself stops it.
    """
    rules, meter, spent = case.rules, facts.meter, case.spent
    if facts.price.known or meter is None or not _limited(facts, rules):
        return facts
    if rules.max_cost is None and rules.allow_unknown_price:
        return facts
    lefts = [(rules.max_cost or 0) - spent.job, *(left.microusd for left in facts.budgets)]
    lefts += [] if rules.day_limit is None else [rules.day_limit - spent.day]
    most = min(lefts)
    if meter.seconds(most) < LEAST_S:
        most = meter.microusd(USUAL_S)
    told = f"its time is not known: stopped after {meter.seconds(most):.0f} s, by its own clock"
    low, certainty = meter.microusd(0.0), Certainty.ESTIMATED
    price = replace(facts.price, low=low, likely=most, high=most, certainty=certainty, formula=told)
    return replace(facts, price=price)


def _cost_consents(cost: int, case: Case) -> Iterator[Consent]:
    rules, spent = case.rules, case.spent
    if cost == 0:
        return
    if rules.max_cost is None and rules.job_limit is not None:
        total = spent.job + cost
        if total > rules.job_limit:
            why = f"it may cost {dollars(total)}, above {dollars(rules.job_limit)} a job"
            yield Consent("cost", why, f"--max-cost {_up(total)}")
    if rules.day_limit is not None and spent.day + cost > rules.day_limit:
        total = spent.day + cost
        why = f"this day may come to {dollars(total)}, above {dollars(rules.day_limit)}"
        yield Consent("day", why, f"--day-limit {_up(total)}")


def _unwanted(facts: Facts, case: Case) -> Iterator[tuple[Verdict, str, str]]:
    """Yield what the user's rules say against it."""
    rules = case.rules
    forced = _forced(facts, rules)
    if rules.forced is not None and not forced:
        yield Verdict.FORBIDDEN, f"only {rules.forced} is allowed", f"--backend {facts.backend}"
    if any(names(word, facts) for word in rules.forbidden):
        yield Verdict.FORBIDDEN, "it is forbidden", f"Leave out --forbid {facts.backend}"
    if facts.place is Place.SIMULATED and not forced:
        yield Verdict.FORBIDDEN, "it makes nothing real", f"--backend {facts.backend}"
    if rules.kinds is not None and facts.place not in rules.kinds:
        allowed = ", ".join(sorted(k.value for k in rules.kinds))
        yield Verdict.FORBIDDEN, f"it is {facts.place.value}; allowed: {allowed}", ""
    if rules.policy is Policy.LOCAL_ONLY and facts.place is not Place.LOCAL and not forced:
        yield Verdict.FORBIDDEN, "it is not on this machine (policy local-only)", ""
    if rules.policy is Policy.ORDER and not forced and _place_in(rules.order, facts) is None:
        yield Verdict.FORBIDDEN, f"your order leaves it out: {', '.join(rules.order)}", ""
    if rules.private and not facts.abilities.private:
        yield Verdict.NOT_PRIVATE, "the job would leave your own machines and accounts", ""
    if facts.key in case.tried:
        yield Verdict.TRIED, "this job was there already", ""


def _unable(facts: Facts, case: Case) -> Iterator[tuple[Verdict, str, str]]:
    """Yield why it cannot do the job, or not now, or not in time."""
    for reason in misfits(case.need, facts.abilities):
        yield Verdict.MISFIT, reason, ""
    if not facts.available:
        yield Verdict.UNAVAILABLE, facts.why or "it is not available", facts.fix
    if _cools_down(facts, case) and not _forced(facts, case.rules):
        left = math.ceil((facts.breaker_until or 0.0) - case.now)
        told = f"{cooling.why(facts.breaker_code)}: not tried again for {left} s"
        yield Verdict.BREAKER_OPEN, told, cooling.advice(facts.breaker_code, facts.backend)
    deadline, time = case.rules.deadline_s, facts.seconds
    if deadline is not None and time is not None and time.likely > deadline:
        told = f"it takes about {time.likely:.0f} s; the deadline is {deadline:g} s"
        yield Verdict.TOO_SLOW, told, f"--deadline {math.ceil(time.likely)}"


def _cools_down(facts: Facts, case: Case) -> bool:
    return facts.breaker_until is not None and facts.breaker_until > case.now


def _forced(facts: Facts, rules: Rules) -> bool:
    return rules.forced is not None and names(rules.forced, facts)


def _too_dear(facts: Facts, case: Case) -> list[Consent]:
    """Return what would lift the user's own limit, where the candidate is above it."""
    cost, limit = facts.price.high, case.rules.max_cost
    if not cost or limit is None or case.spent.job + cost <= limit:
        return []
    total = case.spent.job + cost
    why = f"the job may cost {dollars(total)} there, above {_sum(limit)}"
    return [Consent("cost", why, f"--max-cost {_up(total)}")]


def _over_budget(facts: Facts) -> Iterator[tuple[Verdict, str, str]]:
    cost = facts.price.high
    for left in facts.budgets:
        short = left.microusd <= 0 if cost is None else cost > max(0, left.microusd)
        if short:
            told = f"the {left.period} budget of {left.scope} has {_sum(left.microusd)} left"
            told += f", until {left.resets}" if left.resets else ""
            yield Verdict.OVER_BUDGET, told, left.fix


def _set_weak_aside(ranked: Sequence[Judged], case: Case) -> list[Judged]:
    """Have the weak ask for a yes where a stronger one could have the job with one."""
    strong = [j for j in ranked if j.within_reach and not j.facts.fit.weak]
    wins = case.rules.policy is Policy.LOCAL_ONLY or case.rules.forced is not None
    if wins or any(j.free for j in strong):
        return list(ranked)
    competes = any(not j.blocks for j in strong)
    named = [j.facts.backend for j in ranked]

    def aside(judged: Judged) -> bool:
        """A weak one that is too dear would have to face the strong that its yes lets in."""
        rivals = bool(strong) if judged.blocks else competes
        return judged.facts.fit.weak and judged.within_reach and rivals

    return [_asked(j, sole=named.count(j.facts.backend) == 1) if aside(j) else j for j in ranked]


def _asked(judged: Judged, *, sole: bool) -> Judged:
    facts = judged.facts
    flag = f"--backend {facts.backend if sole else facts.key}"
    consent = Consent("weak", _WEAK[facts.fit is Fit.CPU], flag)
    return judged._replace(consents=[*judged.consents, consent])


def _rank(facts: Facts, case: Case) -> tuple[Any, ...]:
    """Return what candidates are sorted by. The last item makes it total."""
    policy = case.rules.policy
    cost = math.inf if facts.price.likely is None else facts.price.likely
    most = math.inf if facts.price.high is None else facts.price.high
    time = math.inf if facts.seconds is None else facts.seconds.likely
    well = 1.0 if facts.success is None else facts.success  # a new one has failed nobody
    usual = (cost, most, time, -well, -facts.abilities.quality, facts.key)
    weak = facts.fit.weak
    if policy is Policy.FASTEST:
        return (weak, time, *usual)
    if policy is Policy.BEST:
        return (weak, -facts.abilities.quality, *usual)
    if policy is Policy.ORDER:
        place = _place_in(case.rules.order, facts)
        return (weak, math.inf if place is None else place, *usual)
    return (weak, *usual)


def _candidate(judged: Judged, case: Case, *, first: bool) -> Candidate:
    facts = judged.facts
    if judged.blocks:
        verdict = judged.blocks[0][0]
        reasons = [reason for _, reason, _ in judged.blocks]
    elif judged.consents:
        verdict, reasons = Verdict.CONSENT, [c.why for c in judged.consents]
    else:
        verdict = Verdict.CHOSEN if first else Verdict.NEXT
        reasons = [_praise(facts, case, first=first)]
    return Candidate(
        key=facts.key,
        backend=facts.backend,
        target=facts.target,
        place=facts.place.value,
        verdict=verdict,
        reasons=tuple(dict.fromkeys(reason[:_MOST] for reason in reasons)),
        price=facts.price,
        seconds=facts.seconds,
        quality=facts.abilities.quality,
        device=facts.device,
        success=facts.success,
        age_s=None if facts.checked is None else max(0.0, case.now - facts.checked),
        fixes=tuple(dict.fromkeys(fix for *_, fix in judged.blocks if fix)),
        consents=tuple(judged.consents),
        gpu=facts.gpu,
    )


def _praise(facts: Facts, case: Case, *, first: bool) -> str:
    rules = case.rules
    if rules.forced is not None:
        lately = cooling.why(facts.breaker_code) if _cools_down(facts, case) else ""
        return "; ".join(part for part in ("--backend says so", lately, facts.why) if part)
    if facts.fit.weak:
        return "it has no GPU" if facts.fit is Fit.CPU else "its GPU is below the minimum"
    best = {
        Policy.CHEAPEST: "the cheapest that can do it",
        Policy.FASTEST: "the fastest that can do it",
        Policy.BEST: "the best that can do it",
        Policy.LOCAL_ONLY: "on this machine",
        Policy.ORDER: "the first of your order that can do it",
    }[rules.policy]
    return best if first else "tried if those before it fail"


def _notes(ready: Sequence[Judged]) -> Iterator[str]:
    if not ready:
        return
    facts = ready[0].facts
    if facts.fit.weak:
        lacks = "has no GPU" if facts.fit is Fit.CPU else "has a GPU below the minimum"
        time = "it is not known how long it takes"
        if facts.seconds is not None:
            time = f"expect {facts.seconds.low / 60:.0f} to {facts.seconds.high / 60:.0f} minutes"
        yield f"{facts.key} {lacks}: {time}; see what else there is: pennyreel quote"
    if facts.place is Place.SIMULATED:
        yield f"{facts.key} is simulated: what comes out is no real video"
    if not facts.price.known:
        yield f"what {facts.key} costs is not known"


def _retry_after(blocked: Sequence[Judged], now: float) -> float | None:
    """Return when the first candidate that only its breaker holds back may be tried."""
    waits = [
        j.facts.breaker_until - now
        for j in blocked
        if j.facts.breaker_until is not None
        and all(verdict is Verdict.BREAKER_OPEN for verdict, *_ in j.blocks)
    ]
    return min(waits, default=None)


def _distinct(candidates: Iterable[Facts]) -> list[Facts]:
    """Return one candidate per key; which of two does not depend on their order."""
    found: dict[str, Facts] = {}
    for facts in candidates:
        other = found.get(facts.key)
        if other is None or repr(facts) < repr(other):
            found[facts.key] = facts
    return list(found.values())


def _limited(facts: Facts, rules: Rules) -> bool:
    """Whether anything limits what may be spent."""
    limits = (rules.max_cost, rules.job_limit, rules.day_limit)
    return bool(facts.budgets) or any(limit is not None for limit in limits)


def _place_in(order: Sequence[str], facts: Facts) -> int | None:
    return next((i for i, word in enumerate(order) if names(word, facts)), None)


def _up(amount: int) -> str:
    """Return dollars for a flag: rounded up to a tenth of a cent, so that it suffices."""
    value = Decimal(amount) / USD
    return f"{value.quantize(Decimal('0.001'), ROUND_CEILING):f}"


def _sum(amount: int) -> str:
    return dollars(amount) if amount else "$0.00"
