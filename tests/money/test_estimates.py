"""How long a job takes: by its own history, narrower with each run, else by the template's hint."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel.money import catalog
from pennyreel.money.estimates import Hint, Sample, Seconds, expected, speed

SPEEDS = catalog.builtin().speeds
HINT = Hint(20, "RTX 4090")


def learned(*seconds: float, size: float = 1.0) -> Seconds:
    found = expected("RTX 3090", size, history={"RTX 3090": [Sample(s) for s in seconds]})
    assert found is not None
    return found


def test_without_history_the_templates_hint_is_scaled_and_wide() -> None:
    found = expected("NVIDIA GeForce RTX 3090", hint=HINT, speeds=SPEEDS)
    assert found is not None
    assert found.likely == pytest.approx(20 / 0.55)
    assert found.high >= 2 * found.likely
    assert found.samples == 0
    assert "hint" in found.basis


def test_a_pool_is_as_slow_as_its_slowest_and_as_fast_as_its_fastest() -> None:
    pool = expected("AMPERE_24", hint=HINT, speeds=SPEEDS)
    slow, fast = (expected(g, hint=HINT, speeds=SPEEDS) for g in ("L4", "RTX 3090"))
    assert pool is not None
    assert slow is not None
    assert fast is not None
    assert pool.high == pytest.approx(slow.high)
    assert pool.low == pytest.approx(fast.low)


def test_what_was_measured_on_a_cpu_is_not_faster_on_a_gpu() -> None:
    told = Hint(3, "2 CPU cores", estimated=False)
    here, there = (expected(g, hint=told, speeds=SPEEDS) for g in ("cpu", "RTX 4090"))
    assert here == there
    assert here is not None
    assert here.likely == 3


def test_a_cpu_takes_minutes_where_a_gpu_takes_seconds() -> None:
    found = expected("cpu", hint=HINT, speeds=SPEEDS)
    assert found is not None
    assert found.likely > 15 * 60


def test_nothing_is_known_without_history_hint_or_speed() -> None:
    assert expected("RTX 3090") is None
    assert expected("RTX 3090", speeds=SPEEDS) is None
    assert expected("a GPU from tomorrow", hint=HINT, speeds=SPEEDS) is None
    assert expected("RTX 3090", float("nan"), hint=HINT, speeds=SPEEDS) is None
    assert expected("RTX 3090", 0, hint=HINT, speeds=SPEEDS) is None


def test_one_run_of_ones_own_counts_more_than_the_hint() -> None:
    found = expected("RTX 3090", hint=HINT, speeds=SPEEDS, history={"RTX 3090": [Sample(11.0)]})
    assert found is not None
    assert found.likely == 11
    assert found.samples == 1


def test_another_gpus_runs_are_scaled() -> None:
    found = expected("RTX 4090", speeds=SPEEDS, history={"RTX 3090": [Sample(20)] * 3})
    assert found is not None
    assert found.likely == pytest.approx(11)
    assert found.samples == 0
    assert "RTX 3090" in found.basis


def test_the_range_narrows_with_every_run() -> None:
    widths = [f.high - f.low for n in range(1, 30) if (f := learned(*[10.0] * n))]
    assert widths == sorted(widths, reverse=True)
    assert len(set(widths)) == len(widths)
    assert learned(*[10.0] * 29).high < 12
    assert learned(10.0).low == 5
    assert learned(*[10.0] * 29).low > 8


def test_a_few_outliers_do_not_move_it() -> None:
    found = learned(*[10.0] * 18, 600.0, 0.1)
    assert found.likely == 10
    assert found.high < 13


def test_a_larger_job_takes_longer_in_proportion() -> None:
    assert learned(10, 12, 14, size=3.0).likely == pytest.approx(36)
    both = [Sample(10, 1.0), Sample(40, 4.0)]
    found = expected("x", 2.0, history={"x": both})
    assert found is not None
    assert found.likely == 20


def test_old_runs_are_forgotten() -> None:
    assert learned(*[100.0] * 50, *[10.0] * 50).likely == 10


def test_samples_that_make_no_sense_are_passed_over() -> None:
    junk = [Sample(math.nan), Sample(-1), Sample(5, 0), Sample(math.inf), Sample(0)]
    found = expected("x", history={"x": [*junk, Sample(10)]})
    assert found is not None
    assert (found.likely, found.samples) == (10, 1)
    assert expected("x", history={"x": junk}) is None


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090 Laptop"),
        ("NVIDIA A100-SXM4-80GB", "A100"), ("NVIDIA L40S", "L40S"), ("NVIDIA A40", "A40"),
        ("NVIDIA RTX A4000", "RTX A4000"), ("Tesla T4", "T4"), ("Apple M3 Max", "Apple M3 Max"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"), ("2 CPU cores", "cpu"),
    ],
)  # fmt: skip
def test_a_drivers_name_finds_its_entry(name: str, entry: str) -> None:
    assert speed(name, SPEEDS) == SPEEDS[entry]


@given(
    st.lists(st.floats(0.01, 1e5), min_size=1, max_size=80),
    st.floats(0.01, 100),
)
def test_a_range_rises_and_holds_the_likely(seconds: list[float], size: float) -> None:
    found = learned(*seconds, size=size)
    assert 0 < found.low <= found.likely <= found.high < math.inf
    recent = seconds[-50:]
    assert min(recent) * size * 0.999 <= found.likely <= max(recent) * size * 1.001
