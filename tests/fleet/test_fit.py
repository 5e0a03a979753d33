"""Whether a job fits, and on which GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.machines import GIB
from pennyreel.fleet.devices import Device, Devices, Fit, fits

LEAST, EASE = 8 * GIB, 12 * GIB


def card(total: float | None, free: float | None = None, **more: object) -> Device:
    sizes = [None if n is None else int(n * GIB) for n in (total, free)]
    return Device("card", "nvidia", "discrete", sizes[0], sizes[1], **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "verdict", "why"),
    [
        (card(24, 23), "good", "card has 24.0 GB"),
        (card(12), "good", "card has 12.0 GB"),
        (card(24, 3), "tight", "card has 24.0 GB, but only 3.0 GB free now"),
        (card(8, 8), "tight", "card has 8.0 GB, 12.0 GB would be better"),
        (card(6, 6), "below", "card has 6.0 GB, the job needs 8.0 GB"),
        (card(None), "unknown", "card: its memory is not known"),
        (card(4, 4, shared_bytes=96 * GIB, unified=True), "good", "card has 100.0 GB"),
        (card(4, shared_bytes=96 * GIB), "below", "card has 4.0 GB, the job needs 8.0 GB"),
    ],
)  # fmt: skip
def test_the_verdict_says_why(device: Device, verdict: str, why: str) -> None:
    assert fits(Devices((device,)), LEAST, EASE) == Fit(verdict, why)


def test_no_gpu_is_none_unless_a_probe_is_silent() -> None:
    assert fits(Devices(), LEAST, EASE) == Fit("none", "there is no GPU")
    assert fits(Devices(silent=("nvml",)), LEAST, EASE) == Fit("unknown", "no answer from nvml")


def test_the_largest_gpu_counts_unless_comfyui_runs_on_another() -> None:
    assert fits(Devices((card(4), card(24))), LEAST, EASE).verdict == "good"
    assert fits(Devices((card(24), card(4, comfyui=True))), LEAST, EASE).verdict == "below"


def test_a_comfyui_on_the_processor_uses_no_gpu() -> None:
    on_cpu = Device("processor", "other", "cpu", comfyui=True)
    verdict = fits(Devices((on_cpu, card(24))), LEAST, EASE)
    assert verdict == Fit("none", "the ComfyUI runs on the processor")


def test_a_need_that_is_not_known_is_unknown() -> None:
    assert fits(Devices((card(24),)), None, None).verdict == "unknown"
    assert fits(Devices((card(24),)), None, EASE).verdict == "good"
    assert fits(Devices((card(10),)), None, EASE).verdict == "tight"
    assert fits(Devices((card(10),)), LEAST, None).verdict == "good"


SIZES = st.none() | st.integers(0, 1 << 40)
RANK = ["below", "tight", "good"]


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), SIZES, SIZES)
def test_more_memory_is_never_worse(
    one: int, more: int, least: int | None, ease: int | None
) -> None:
    small, large = (
        fits(Devices((Device("card", "amd", memory_total_bytes=n),)), least, ease).verdict
        for n in (one, one + more)
    )
    if least is not None or ease is not None:
        assert RANK.index(small) <= RANK.index(large)
