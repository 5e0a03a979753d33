"""What users write becomes rules, and a slip is answered with what was meant."""

from __future__ import annotations

from typing import Any

import pytest

from pennyreel.errors import BadRequest
from pennyreel.routing.facts import Place, Policy, Rules
from pennyreel.routing.rules import read_rules

KNOWN = ("comfyui", "runpod", "gemini")


def test_nothing_said_means_the_defaults() -> None:
    assert read_rules() == Rules()
    assert (Rules().job_limit, Rules().day_limit) == (50_000, 2_000_000)
    assert Rules().policy is Policy.CHEAPEST


def test_words_become_rules() -> None:
    found = read_rules(
        "fastest", max_cost="$0.12", job_limit="0.10", day_limit=5, deadline_s=90,
        on=("local", "rented"), forbid=("gemini",), backend="runpod:ep", private=True, known=KNOWN,
    )  # fmt: skip
    assert found.policy is Policy.FASTEST
    assert (found.max_cost, found.job_limit, found.day_limit) == (120_000, 100_000, 5_000_000)
    assert found.cost_limit == 120_000
    assert found.kinds == {Place.LOCAL, Place.RENTED}
    assert found.forbidden == {"gemini"}
    assert found.forced == "runpod:ep"
    assert found.private


def test_a_list_of_backends_is_an_order() -> None:
    found = read_rules("runpod, comfyui,runpod", known=KNOWN)
    assert (found.policy, found.order) == (Policy.ORDER, ("runpod", "comfyui"))
    assert read_rules("gemini", known=KNOWN).order == ("gemini",)


def test_a_limit_can_be_lifted() -> None:
    found = read_rules(job_limit="none", day_limit="None")
    assert (found.job_limit, found.day_limit) == (None, None)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"policy": "cheapst"}, "cheapest"), ({"policy": "runpod,gemni"}, "gemini"),
        ({"policy": ","}, "There are"), ({"on": ("locl",)}, "local"),
        ({"forbid": ("runpood",)}, "runpod"), ({"backend": "zzz"}, "comfyui, gemini, runpod"),
        ({"deadline_s": 0}, "seconds"), ({"deadline_s": float("nan")}, "seconds"),
        ({"max_cost": "cheap"}, "0.05"), ({"day_limit": -1}, "0.05"),
    ],
)  # fmt: skip
def test_a_slip_is_told_with_what_was_meant(words: dict[str, Any], told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_rules(**words, known=KNOWN)
    assert told in caught.value.hint
