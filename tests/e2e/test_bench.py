"""`bench/worker.py` runs, and what it counts is right. Each claim is of one run, a small one.

Its limits of time are judged by the bench itself (its exit code), on a quiet machine. Here they are
wide, so that nothing but a real fault passes them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pennyreel_comfy.install import Installation

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.long, pytest.mark.timeout(420)]


@pytest.fixture
def measure(comfyui: Installation) -> Any:
    def run(*options: str) -> dict[str, Any]:
        command = [sys.executable, str(ROOT / "bench" / "worker.py"), str(comfyui.layout.root)]
        done = subprocess.run(
            [*command, "--json", *options], capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode in {0, 1}, done.stderr
        figures: dict[str, Any] = json.loads(done.stdout)["figures"]
        return figures

    return run


def test_the_gpu_hardly_waits_between_jobs(measure: Any) -> None:
    found = measure("--only", "idle", "--long-jobs", "4", "--short-jobs", "20")
    assert found["idle_ms_long"] <= 400, found  # the stock loop: 600 and more
    assert found["idle_ms_short"] <= 100, found  # the stock loop: 700 and more
    assert found["held_max"] == 2, "it overlaps, and hoards nothing"
    assert found["executed_s_short"] < 0.2
    assert found["executed_s_long"] > 1.9
    assert found["busy_short"] < found["bare_busy_short"] <= 1


def test_no_job_waits_behind_a_long_one_while_another_worker_is_idle(measure: Any) -> None:
    found = measure("--only", "behind", "--tries", "3")
    assert found["behind_tries"] >= 6
    assert found["waited_behind_long"] == 0, found


def test_the_handler_adds_little_to_a_plain_client(measure: Any) -> None:
    found = measure("--only", "overhead", "--pairs", "60")
    assert found["overhead_ms"] <= found["plain_ms"] + 3, found


def test_a_gigabyte_goes_to_s3_in_little_memory_and_not_slower_than_by_boto3(measure: Any) -> None:
    found = measure("--only", "s3", "--uploads", "4")
    assert found["s3_mb"] == 1000
    assert found["samples_per_s"] >= 20
    assert found["peak_mb_over_idle"] <= 48, found
    assert found["s3_time_ratio"] <= 2.5, found


def test_a_cold_worker_takes_its_first_job_as_soon_as_comfyui_answers(measure: Any) -> None:
    found = measure("--only", "cold", "--starts", "3")
    assert found["sdk_ready_before_comfy"] is True
    assert found["taken_before_ready"] is False
    assert found["ready_to_take_s"] <= 1.0, found
