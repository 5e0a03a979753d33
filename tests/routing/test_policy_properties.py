"""What holds of every decision, whatever the facts."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pennyreel.need import Need, misfits
from pennyreel.routing.decision import Decision, Outcome, Verdict
from pennyreel.routing.explain import explained, headline
from pennyreel.routing.facts import Facts, Place, Policy, Rules, Spent, names
from pennyreel.routing.policy import decide
from routing.candidates import NOW, many_facts, needs, some_rules, some_spent

CASES: Any = (many_facts, needs, some_rules, some_spent)
usual = settings(max_examples=120, deadline=None)


def by_key(facts: list[Facts]) -> dict[str, Facts]:
    return {f.key: f for f in facts}


@usual
@given(*CASES, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(
    facts: list[Facts], need: Need, rules: Rules, spent: Spent, random: Any
) -> None:
    shuffled = list(facts)
    random.shuffle(shuffled)
    first = decide(facts, need, rules, now=NOW, spent=spent)
    assert decide(shuffled, need, rules, now=NOW, spent=spent) == first


@usual
@given(*CASES)
def test_every_candidate_is_there_once_and_explained(
    facts: list[Facts], need: Need, rules: Rules, spent: Spent
) -> None:
    found = decide([*facts, *facts], need, rules, now=NOW, spent=spent)
    assert sorted(c.key for c in found.candidates) == sorted(by_key(facts))
    assert len(set(found.order)) == len(found.order)
    text = explained(found)
    for one in found.candidates:
        assert one.reasons
        assert all(one.reasons)
        assert one.key in text
        assert one.reasons[0] in text
    assert headline(found)
    assert len([c for c in found.candidates if c.verdict is Verdict.CHOSEN]) == (
        1 if found.outcome is Outcome.GO else 0
    )
    asking = {Verdict.CONSENT, Verdict.TOO_DEAR}
    if found.outcome is Outcome.CONSENT_REQUIRED:
        assert any(c.verdict in asking and c.consents for c in found.candidates)


@usual
@given(*CASES)
def test_nothing_that_is_tried_breaks_a_rule(
    facts: list[Facts], need: Need, rules: Rules, spent: Spent
) -> None:
    found = decide(facts, need, rules, now=NOW, spent=spent)
    for key in found.order:
        one = by_key(facts)[key]
        assert one.available
        assert not list(misfits(need, one.abilities))
        shut = one.breaker_until is not None and one.breaker_until > NOW
        assert not shut or rules.forced is not None
        assert one.backend not in rules.forbidden
        assert rules.forced in {None, one.backend, one.key}
        assert not rules.private or one.abilities.private
        assert rules.kinds is None or one.place in rules.kinds
        assert one.place is not Place.SIMULATED or rules.forced is not None
        if rules.deadline_s is not None and one.seconds is not None:
            assert one.seconds.likely <= rules.deadline_s


@usual
@given(*CASES)
def test_no_limit_is_passed_without_consent(
    facts: list[Facts], need: Need, rules: Rules, spent: Spent
) -> None:
    found = decide(facts, need, rules, now=NOW, spent=spent)
    limit = rules.job_limit if rules.max_cost is None else rules.max_cost
    told = {c.key: c for c in found.candidates}
    for key in found.order:
        one = by_key(facts)[key]
        most = told[key].price.high
        if one.price.known:
            assert most == one.price.high
        limited = one.budgets or limit is not None or rules.day_limit is not None
        if most is None:
            assert rules.allow_unknown_price or not limited
            continue
        assert most == 0 or limit is None or spent.job + most <= limit
        assert most == 0 or rules.day_limit is None or spent.day + most <= rules.day_limit
        assert all(most <= max(0, left.microusd) for left in one.budgets)
        if one.fit.weak and one.seconds is not None and one.seconds.likely > 900:
            assert rules.allow_slow


@usual
@given(many_facts, needs)
def test_cheapest_passes_no_cheaper_one_over(facts: list[Facts], need: Need) -> None:
    """Who qualifies is told here in other words than the policy's."""
    facts = [replace(f, meter=None) for f in facts]
    qualifying = [
        f
        for f in facts
        if f.available
        and not list(misfits(need, f.abilities))
        and (f.breaker_until or 0) <= NOW
        and f.place is not Place.SIMULATED
        and not f.fit.weak
        and f.price.high is not None
        and f.price.high <= min([50_000, *(max(0, left.microusd) for left in f.budgets)])
    ]
    found = decide(facts, need, Rules(), now=NOW)
    if not qualifying:
        assert found.chosen is None or by_key(facts)[found.chosen.key].fit.weak
        return
    assert found.chosen is not None
    assert found.chosen.price.likely == min(f.price.likely or 0 for f in qualifying)


@usual
@given(*CASES)
def test_the_weak_win_only_alone_local_only_or_forced(
    facts: list[Facts], need: Need, rules: Rules, spent: Spent
) -> None:
    found = decide(facts, need, rules, now=NOW, spent=spent)
    known = by_key(facts)
    chosen = found.chosen
    if chosen is None or not known[chosen.key].fit.weak:
        return
    strong = {
        c.key
        for c in found.candidates
        if c.verdict in {Verdict.NEXT, Verdict.CONSENT} and not known[c.key].fit.weak
    }
    forced = rules.forced is not None and names(rules.forced, known[chosen.key])
    assert not strong or forced or rules.policy is Policy.LOCAL_ONLY


@usual
@given(*CASES)
def test_a_consents_flag_suffices(
    facts: list[Facts], need: Need, rules: Rules, spent: Spent
) -> None:
    """Who gives the yes that is asked for gets what was quoted."""
    found = decide(facts, need, rules, now=NOW, spent=spent)
    for one in found.candidates:
        if one.verdict not in {Verdict.CONSENT, Verdict.TOO_DEAR}:
            continue
        given_yes = _with_flags(rules, [c.flag for c in one.consents], one.key)
        again = decide(facts, need, given_yes, now=NOW, spent=spent)
        assert one.key in again.order, (one, again.find(one.key))


@usual
@given(*CASES)
def test_a_decision_survives_json(
    facts: list[Facts], need: Need, rules: Rules, spent: Spent
) -> None:
    found = decide(facts, need, rules, now=NOW, spent=spent)
    text = json.dumps(found.to_json(), allow_nan=False)
    data = json.loads(text)
    assert Decision.from_json(data) == found
    data["from_tomorrow"] = 1
    for one in data["candidates"]:
        one["from_tomorrow"] = one["price"]["from_tomorrow"] = 2
    assert Decision.from_json(data) == found


def _with_flags(rules: Rules, flags: list[str], key: str) -> Rules:
    changes: dict[str, Any] = {}
    for flag in flags:
        name, _, value = flag.partition(" ")
        if name in {"--max-cost", "--day-limit"}:
            changes[name[2:].replace("-", "_")] = round(float(value) * 1e6)
        elif name == "--backend":
            changes["forced"] = key
        else:
            changes[name[2:].replace("-", "_")] = True
    return Rules(**{**{n: getattr(rules, n) for n in Rules.__dataclass_fields__}, **changes})
