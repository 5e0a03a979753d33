"""Who gets a job: each rule by an example."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from pennyreel.errors import BadRequest, Code, SetupNeeded, Unavailable
from pennyreel.money.catalog import Certainty
from pennyreel.money.pricing import Meter
from pennyreel.need import Need
from pennyreel.routing import cooling
from pennyreel.routing.breaker import counts
from pennyreel.routing.decision import Decision, Outcome, Verdict
from pennyreel.routing.facts import Facts, Fit, Left, Place, Policy, Rules, Spent, fit_of
from pennyreel.routing.policy import decide
from routing.candidates import (
    CLIP,
    HOSTED,
    NOW,
    chosen,
    cost,
    cpu,
    hotshot,
    local,
    runpod,
    takes,
    veo,
)


def verdicts(decision: Decision) -> dict[str, str]:
    return {c.backend: c.verdict.value for c in decision.candidates}


def test_the_cheapest_that_can_do_it_goes_first_and_the_next_follow() -> None:
    found = chosen(veo(), runpod(), local(), hotshot(), max_cost=600_000)
    assert found.outcome is Outcome.GO
    assert found.order == ("comfyui:here", "runpod:ep", "replicate", "gemini")
    assert verdicts(found)["comfyui"] == "chosen"
    assert verdicts(found)["gemini"] == "next"


def test_only_those_that_meet_the_request_compete() -> None:
    found = chosen(hotshot(1), runpod(), need=Need(template="x", seconds=2, lora=True))
    assert found.order == ("runpod:ep",)
    other = found.find("replicate")
    assert other is not None
    assert other.verdict is Verdict.MISFIT
    assert other.reasons == ("makes at most 1s, not 2", "takes no LoRA")


def test_a_workflow_goes_only_where_workflows_run() -> None:
    found = chosen(veo(1), hotshot(1), runpod(), need=Need(workflow=True))
    assert found.order == ("runpod:ep",)


@pytest.mark.parametrize(
    ("policy", "first"),
    [("cheapest", "runpod"), ("fastest", "comfyui"), ("best", "gemini"), ("local-only", "comfyui")],
)
def test_each_policy_has_its_own_first(policy: str, first: str) -> None:
    facts = (local(20_000, seconds=takes(5)), runpod(10_000), veo(30_000))
    found = chosen(*facts, policy=Policy(policy))
    assert found.chosen is not None
    assert found.chosen.backend == first


def test_local_only_leaves_the_others_out() -> None:
    found = chosen(runpod(), local(available=False, why="it does not run", fix="pennyreel comfyui "
                                   "start"), policy=Policy.LOCAL_ONLY)  # fmt: skip
    assert found.outcome is Outcome.NONE
    assert verdicts(found) == {"comfyui": "unavailable", "runpod": "forbidden"}


def test_the_users_own_order_is_kept_whatever_it_costs() -> None:
    found = chosen(
        local(), runpod(), hotshot(), policy=Policy.ORDER, order=("replicate", "runpod:ep")
    )
    assert found.order == ("replicate", "runpod:ep")
    assert verdicts(found)["comfyui"] == "forbidden"


def test_ties_are_broken_by_time_then_success_then_quality_then_name() -> None:
    def order(*facts: Facts) -> tuple[str, ...]:
        return decide(facts, CLIP, Rules(), now=NOW).order

    def one(name: str, **changes: object) -> Facts:
        fields = {"abilities": HOSTED, "price": cost(5), "seconds": takes(9), **changes}
        return Facts(name, **fields)  # type: ignore[arg-type]

    assert order(one("b"), one("a")) == ("a", "b")
    assert order(one("a", success=0.9), one("b", success=0.99)) == ("b", "a")
    assert order(one("a"), one("b", seconds=takes(8))) == ("b", "a")
    assert order(one("a", seconds=None), one("b")) == ("b", "a")


def test_a_cpu_comes_last_even_where_it_is_cheaper() -> None:
    found = chosen(cpu(), runpod())
    assert found.order == ("runpod:ep", "comfyui:here")


def test_a_cpu_alone_wins_with_a_note_of_its_time() -> None:
    found = chosen(cpu(600), runpod(available=False, why="no key", fix="Set RUNPOD_API_KEY"))
    assert found.order == ("comfyui:here",)
    (note,) = found.notes
    assert "5 to 20 minutes" in note
    assert "pennyreel quote" in note


def test_a_cpu_above_fifteen_minutes_needs_a_yes() -> None:
    found = chosen(cpu(901))
    assert found.outcome is Outcome.CONSENT_REQUIRED
    assert found.candidates[0].consents[0].flag == "--allow-slow"
    assert chosen(cpu(901), allow_slow=True).outcome is Outcome.GO
    assert chosen(cpu(900)).outcome is Outcome.GO
    assert chosen(local(seconds=takes(2000))).outcome is Outcome.GO, "a good GPU may take its time"


def test_a_cpu_does_not_win_because_the_better_one_needs_a_yes() -> None:
    found = chosen(cpu(60), runpod(80_000))
    assert found.outcome is Outcome.CONSENT_REQUIRED
    flags = {c.backend: [x.flag for x in c.consents] for c in found.candidates}
    assert flags == {"runpod": ["--max-cost 0.080"], "comfyui": ["--backend comfyui"]}


def test_a_weak_one_above_the_users_limit_names_both_flags_that_it_needs() -> None:
    found = chosen(cpu(60, price=cost(80_000)), runpod(None), max_cost=10_000)
    weak = found.find("comfyui:here")
    assert weak is not None
    assert [c.flag for c in weak.consents] == ["--max-cost 0.080", "--backend comfyui"]


def test_of_two_servers_the_flag_names_the_one_that_it_means() -> None:
    found = chosen(cpu(60), local(80_000, target="there"))
    weak = found.find("comfyui:here")
    assert weak is not None
    assert [c.flag for c in weak.consents] == ["--backend comfyui:here"]
    assert chosen(cpu(60), local(80_000, target="there"), forced="comfyui:here").order == (
        "comfyui:here",
    )


def test_a_cpu_wins_where_the_users_own_limit_leaves_it_alone() -> None:
    found = chosen(cpu(60), runpod(80_000), max_cost=50_000)
    assert found.order == ("comfyui:here",)
    assert verdicts(found)["runpod"] == "too_dear"


@pytest.mark.parametrize("rules", [{"forced": "comfyui"}, {"policy": Policy.LOCAL_ONLY}])
def test_a_gpu_below_the_minimum_wins_if_forced_or_local_only(rules: dict[str, object]) -> None:
    found = chosen(local(fit=Fit.BELOW), runpod(1), **rules)
    assert found.order == ("comfyui:here",)


def test_local_only_takes_the_weak_before_it_asks_for_a_yes() -> None:
    strong = local(90_000, target="dear")
    found = chosen(strong, local(fit=Fit.BELOW), policy=Policy.LOCAL_ONLY)
    assert found.order == ("comfyui:here",)
    assert chosen(strong, local(fit=Fit.BELOW)).outcome is Outcome.CONSENT_REQUIRED


def test_of_two_with_one_name_the_same_one_counts_whatever_their_order() -> None:
    one, other = runpod(1_000), runpod(2_000)
    assert chosen(one, other) == chosen(other, one)
    assert len(chosen(one, other).candidates) == 1


def test_a_job_above_five_cents_needs_a_yes_the_first_choice_included() -> None:
    assert chosen(runpod(50_000)).outcome is Outcome.GO
    found = chosen(runpod(50_001))
    assert found.outcome is Outcome.CONSENT_REQUIRED
    assert found.order == ()
    problem = found.refusal()
    assert isinstance(problem, BadRequest)
    assert problem.code == Code.CONSENT_REQUIRED.value
    assert "--max-cost 0.051" in problem.hint
    assert problem.info.detail["decision"] == json.loads(json.dumps(found.to_json()))
    assert chosen(runpod(50_001), max_cost=50_001).outcome is Outcome.GO
    assert chosen(runpod(50_001), max_cost=50_000).outcome is Outcome.CONSENT_REQUIRED


def test_it_is_the_most_that_it_may_cost_that_counts() -> None:
    dear = runpod(price=cost(10_000, 60_000))
    assert chosen(dear).outcome is Outcome.CONSENT_REQUIRED


def test_what_a_failed_attempt_has_cost_counts_too() -> None:
    assert chosen(runpod(30_000), spent=Spent(job=20_000)).outcome is Outcome.GO
    found = chosen(runpod(30_000), spent=Spent(job=20_001))
    assert found.candidates[0].consents[0].flag == "--max-cost 0.051"
    over = chosen(runpod(30_000), spent=Spent(job=20_001), max_cost=50_000)
    assert over.outcome is Outcome.CONSENT_REQUIRED
    assert over.candidates[0].verdict is Verdict.TOO_DEAR


def test_a_day_above_two_dollars_needs_a_yes() -> None:
    found = chosen(runpod(10_000), spent=Spent(day=1_995_000))
    assert found.candidates[0].consents[0].flag == "--day-limit 2.005"
    assert chosen(runpod(10_000), spent=Spent(day=1_990_000)).outcome is Outcome.GO
    assert chosen(local(), spent=Spent(day=9_000_000)).outcome is Outcome.GO
    assert chosen(runpod(), spent=Spent(day=9_000_000), day_limit=None).outcome is Outcome.GO


def test_max_cost_does_not_lift_the_days_limit() -> None:
    found = chosen(veo(), max_cost=500_000, spent=Spent(day=1_900_000))
    assert [c.flag for c in found.candidates[0].consents] == ["--day-limit 2.300"]


def test_an_unknown_price_needs_a_yes_under_any_limit_and_is_never_nothing() -> None:
    found = chosen(runpod(None), veo(40_000))
    assert found.order == ("gemini",)
    assert verdicts(found)["runpod"] == "consent"
    assert chosen(runpod(None), max_cost=10_000_000).outcome is Outcome.CONSENT_REQUIRED
    allowed = chosen(runpod(None), allow_unknown_price=True)
    assert allowed.outcome is Outcome.GO
    assert allowed.notes == ("what runpod:ep costs is not known",)
    assert chosen(runpod(None), job_limit=None, day_limit=None).outcome is Outcome.GO


METER = Meter(Fraction(190), besides_s=130.0)
"""$0.684 an hour, with a cold start of two minutes."""


def test_where_the_backend_ends_what_is_late_a_max_cost_bounds_an_unknown_price() -> None:
    stranger = runpod(None, seconds=None, meter=METER)
    found = chosen(stranger, max_cost=100_000)
    assert found.order == ("runpod:ep",)
    price = found.candidates[0].price
    assert (price.low, price.likely, price.high) == (24_700, 100_000, 100_000)
    assert price.certainty is Certainty.ESTIMATED
    assert "stopped after 396 s" in price.formula  # 100000 / 190 - 130
    assert found.notes == ()


def test_a_max_cost_that_pays_for_little_more_than_a_start_bounds_nothing() -> None:
    stranger = runpod(None, seconds=None, meter=METER)
    most = 190 * (130 + 60)
    assert chosen(stranger, max_cost=most).outcome is Outcome.GO
    for short in (chosen(stranger, max_cost=most - 1),
                  chosen(stranger, max_cost=most, spent=Spent(job=1))):  # fmt: skip
        assert short.outcome is Outcome.CONSENT_REQUIRED
        assert short.candidates[0].verdict is Verdict.TOO_DEAR
        assert short.candidates[0].consents[0].flag == "--max-cost 0.082"


def test_without_a_max_cost_an_unknown_time_is_bounded_by_the_usual_one() -> None:
    stranger = runpod(None, seconds=None, meter=METER)
    found = chosen(stranger)
    (consent,) = found.candidates[0].consents
    assert (consent.what, consent.flag) == ("cost", "--max-cost 0.082")
    assert "stopped after 300 s" in found.candidates[0].price.formula
    assert chosen(stranger, max_cost=82_000).outcome is Outcome.GO
    late = chosen(stranger, max_cost=82_000, spent=Spent(day=1_950_000))
    assert (late.outcome, late.candidates[0].price.high) == (Outcome.GO, 50_000)
    later = chosen(stranger, max_cost=82_000, spent=Spent(day=1_970_000))
    assert later.candidates[0].consents[0].flag == "--day-limit 2.052"
    cheap = chosen(runpod(None, seconds=None, meter=Meter(Fraction(100), 130.0)))
    assert (cheap.outcome, cheap.candidates[0].price.high) == (Outcome.GO, 43_000)
    known = chosen(runpod(None, seconds=None, meter=METER), allow_unknown_price=True)
    assert not known.candidates[0].price.known


def test_what_costs_nothing_passes_a_limit_of_nothing() -> None:
    found = chosen(local(), runpod(1), max_cost=0)
    assert found.order == ("comfyui:here",)
    assert verdicts(found)["runpod"] == "too_dear"


def test_a_simulated_one_runs_only_if_forced_and_says_so() -> None:
    simulated = Facts("simulated", abilities=HOSTED, price=cost(0), place=Place.SIMULATED)
    assert chosen(simulated).outcome is Outcome.NONE
    found = chosen(simulated, local(), forced="simulated")
    assert found.order == ("simulated",)
    assert "simulated" in found.notes[0]


def test_a_forced_one_is_the_only_one_and_its_limits_hold() -> None:
    found = chosen(local(), runpod(80_000), forced="runpod")
    assert found.outcome is Outcome.CONSENT_REQUIRED
    assert verdicts(found) == {"runpod": "consent", "comfyui": "forbidden"}


def test_one_endpoint_of_two_can_be_forced() -> None:
    found = chosen(runpod(), runpod(1, target="other"), forced="runpod:ep")
    assert found.order == ("runpod:ep",)


def test_forbidden_kinds_and_privacy_leave_backends_out() -> None:
    facts = (runpod(), veo(40_000))
    assert chosen(*facts, forbidden=frozenset({"runpod"})).order == ("gemini",)
    assert chosen(*facts, kinds=frozenset({Place.HOSTED})).order == ("gemini",)
    found = chosen(*facts, private=True)
    assert found.order == ("runpod:ep",)
    assert verdicts(found)["gemini"] == "not_private"


def test_a_deadline_leaves_out_what_takes_longer() -> None:
    found = chosen(local(seconds=takes(500)), runpod(), deadline_s=100)
    assert found.order == ("runpod:ep",)
    assert "500 s" in found.find("comfyui:here").reasons[0]  # type: ignore[union-attr]


def test_what_is_not_available_says_why_and_what_would_help() -> None:
    found = chosen(runpod(available=False, why="no API key is set", fix="Set RUNPOD_API_KEY"))
    assert found.outcome is Outcome.NONE
    problem = found.refusal()
    assert isinstance(problem, SetupNeeded)
    assert "no API key is set" in str(problem)
    assert problem.hint == "Set RUNPOD_API_KEY"


def test_an_open_breaker_holds_one_back_until_its_time() -> None:
    found = chosen(runpod(breaker_until=NOW + 12.5), local())
    assert found.order == ("comfyui:here",)
    alone = chosen(runpod(breaker_until=NOW + 12.5, breaker_code="unauthorized"))
    (one,) = alone.candidates
    assert one.reasons == ("it refused the key lately: not tried again for 13 s",)
    assert one.fixes == ("Set another key, or try it now by its name: --backend runpod",)
    assert alone.retry_after_s == 12.5
    problem = alone.refusal()
    assert isinstance(problem, Unavailable)
    assert problem.retryable
    assert chosen(runpod(breaker_until=NOW)).outcome is Outcome.GO


def test_one_that_is_named_is_tried_whatever_its_breaker_says() -> None:
    shut = runpod(breaker_until=NOW + 12.5, breaker_code="timeout", why="2 idle")
    found = chosen(shut, local(), forced="runpod")
    assert found.chosen is not None
    assert found.chosen.backend == "runpod"
    told = "--backend says so; a job took too long there lately; 2 idle"
    assert found.chosen.reasons == (told,)


def test_every_failure_that_opens_a_breaker_is_told_in_its_own_words() -> None:
    opening = [c.value for c in Code if counts(c.value) and c is not Code.INTERNAL]
    assert len({cooling.why(code) for code in opening}) == len(opening)
    assert "--backend" not in cooling.advice("rate_limited", "runpod")


def test_a_budget_without_room_stops_it_and_says_what_raises_it() -> None:
    left = Left("project:film", "month", 9_999, "2026-12-01", "pennyreel budget set")
    found = chosen(runpod(10_000, budgets=(left,)), max_cost=1_000_000)
    (one,) = found.candidates
    assert one.verdict is Verdict.OVER_BUDGET
    assert "project:film" in one.reasons[0]
    assert "2026-12-01" in one.reasons[0]
    assert one.fixes == ("pennyreel budget set",)
    assert chosen(local(budgets=(Left("all", "day", 0),))).outcome is Outcome.GO
    unknown = runpod(None, budgets=(Left("all", "day", 0),))
    assert chosen(unknown, allow_unknown_price=True).outcome is Outcome.NONE


def test_each_backend_is_tried_once() -> None:
    found = decide([runpod(), cpu()], CLIP, Rules(), now=NOW, tried=frozenset({"runpod:ep"}))
    assert found.order == ("comfyui:here",)
    assert verdicts(found)["runpod"] == "tried"


def test_a_request_that_nobody_can_meet_is_the_requests_fault() -> None:
    found = chosen(veo(), need=Need(kind="audio", template="x"))
    assert isinstance(found.refusal(), BadRequest)
    assert "makes no audio" in str(found.refusal())


def test_no_candidates_is_an_answer_too() -> None:
    found = chosen()
    assert found.outcome is Outcome.NONE
    assert isinstance(found.refusal(), Unavailable)


@pytest.mark.parametrize(
    ("least", "good", "gpu", "vram", "fit"),
    [
        (0, 0, False, None, Fit.GOOD), (6, 8, False, None, Fit.CPU), (6, 8, True, 4, Fit.BELOW),
        (6, 8, True, 7, Fit.TIGHT), (6, 8, True, 8, Fit.GOOD), (6, None, True, 6, Fit.GOOD),
        (None, None, True, 8, Fit.UNKNOWN), (6, 8, True, None, Fit.UNKNOWN),
        (6, 8, None, None, Fit.UNKNOWN), (None, None, False, None, Fit.CPU),
    ],
)  # fmt: skip
def test_a_device_is_judged_by_what_the_workflow_wants(
    least: int | None, good: int | None, gpu: bool | None, vram: int | None, fit: Fit
) -> None:
    need = Need(vram_min_bytes=least, vram_good_bytes=good)
    assert fit_of(need, gpu=gpu, vram_bytes=vram) is fit
