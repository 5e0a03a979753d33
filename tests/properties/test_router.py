"""The router against adversaries: what is never paid twice, in thousands of histories.

Ours, and asserted: no submit while another attempt may be alive by what its backend has said; every
submit written down and its money held before it leaves; the budget never exceeded by what honest
backends bill; one paid result a job, but for each consent after an unknown attempt; one end a job,
after which no money is held; and success wherever the rules allow the moves and a backend works.
The vendor's, and counted apart: a backend that says "not accepted" or "stopped" and bills anyway.

`PENNYREEL_FUZZ_SEED=N` draws other histories.
"""

from __future__ import annotations

import os

import pytest

from pennyreel.routing.machine import Outcome
from properties.router_mutations import MUTATIONS
from properties.router_world import Tally, World

FIRST = int(os.environ.get("PENNYREEL_FUZZ_SEED", "0")) * 10_000_000


def play(seeds: range, tally: Tally, crash_at: int | None = None) -> None:
    """Play a history for each seed; a failure names the one to repeat."""
    for seed in seeds:
        world = World(seed, crash_at)
        try:
            world.play()
        except Exception as problem:
            raise AssertionError(f"history {seed}: {problem}") from problem
        tally.add(world)


def shown(tally: Tally, capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\n{tally}")  # noqa: T201 - the figures are what is to be shown


def test_no_history_of_two_thousand_is_paid_twice(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    play(range(FIRST, FIRST + 2_000), tally)
    shown(tally, capsys)
    assert tally.moved > 200, "the histories are about moving"
    assert tally.had_to_succeed > 500
    assert tally.crashes > 100
    assert tally.lies > 10
    assert tally.returns > 3, "what was set aside is come back to"
    assert tally.turns > 100, "jobs that move wait for their turn"
    assert set(tally.outcomes) == {o.value for o in Outcome}, "every end is seen"


def test_a_job_survives_a_crash_at_any_effect() -> None:
    for seed in range(FIRST, FIRST + 40):
        probe = World(seed)
        probe.play()
        for crash_at in range(1, probe.effects + 1):
            play(range(seed, seed + 1), Tally(), crash_at)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_rule_that_is_wrong_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTATIONS[name](monkeypatch)
    with pytest.raises(AssertionError, match="history"):
        play(range(30_000), Tally())


@pytest.mark.long
def test_no_history_of_fifty_thousand_is_paid_twice(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tally = Tally()
    play(range(FIRST, FIRST + 50_000), tally)
    shown(tally, capsys)
    assert tally.had_to_succeed > 12_000


@pytest.mark.long
def test_a_job_survives_a_crash_at_any_effect_of_many_histories() -> None:
    for seed in range(FIRST + 40, FIRST + 340):
        probe = World(seed)
        probe.play()
        for crash_at in range(1, probe.effects + 1):
            play(range(seed, seed + 1), Tally(), crash_at)
