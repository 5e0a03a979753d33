"""The cost simulation: the same each time, its money adds up, and it plays the shipped rules."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "bench"))

from economy_sim import report  # noqa: E402 - a bench is no package of ours
from economy_sim.report import Setting  # noqa: E402
from economy_sim.tables import HOTSHOT, KINDS, RUNPOD  # noqa: E402


@pytest.fixture(scope="module")
def setting() -> Setting:
    return Setting(jobs=1_500)


def test_the_same_seed_gives_the_same_figures(setting: Setting) -> None:
    assert report.figures(report.ours(setting)) == report.figures(report.ours(setting))


def test_every_job_has_one_end_and_every_cent_a_bill(setting: Setting) -> None:
    for tally in (report.ours(setting), report.fixed(setting)):
        ends = tally.done + tally.failed + tally.unknown + tally.refused
        assert ends == tally.jobs == setting.jobs
        assert len(tally.costs) == tally.done == sum(tally.by.values())
        assert tally.paid >= sum(tally.costs.values())


def test_a_video_costs_less_than_by_the_fixed_order(setting: Setting) -> None:
    mine, theirs = report.ours(setting), report.fixed(setting)
    ours, fixed = report.figures(mine), report.figures(theirs)
    assert ours["avg_cost_usd"] <= 0.02
    assert fixed["avg_cost_usd"] - ours["avg_cost_usd"] >= 0.30
    assert report.alike(mine, theirs)["saved_usd"] >= 0.30


def test_only_what_can_do_a_job_gets_it(setting: Setting) -> None:
    alone = report.figures(report.ours(setting, (HOTSHOT,)))
    assert alone["refused"] > 0.5 * setting.jobs, "it makes no 16 frames, workflows or LoRAs"
    assert alone["avg_cost_usd"] == pytest.approx(0.018, rel=0.05)
    assert report.ours(setting, (RUNPOD,)).refused == 0


def test_nobody_pays_more_than_the_maximum(setting: Setting) -> None:
    tally = report.ours(setting, KINDS)
    assert max(tally.costs.values()) <= setting.max_cost


def test_the_bench_prints_its_figures_as_json() -> None:
    done = subprocess.run(
        [sys.executable, "bench/economy.py", "--json", "--jobs", "500", "--only", "roadmap"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    told = json.loads(done.stdout)
    for name in ("avg_cost_usd", "saved_usd", "success", "error_ratio", "refused", "unknown"):
        assert name in told["roadmap"]
    assert set(told["limits"]) == {"avg_cost_usd", "saved_usd", "success", "error_ratio"}
