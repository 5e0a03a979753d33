"""Whether a job's memory needs fit the GPUs that there are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pennyreel.fleet.devices.model import CPU, Device, Devices, shown

GOOD, TIGHT, BELOW, NONE, UNKNOWN = "good", "tight", "below", "none", "unknown"


class Fit(NamedTuple):
    """A verdict, and why it is that one, for a person."""

    verdict: str
    """good, tight (it runs, slowly or only just), below (it cannot, or by swapping only), none
    (there is no GPU), unknown (the memory or the need is not known: it may well run)."""
    why: str


def fits(devices: Devices, vram_min_bytes: int | None, vram_good_bytes: int | None) -> Fit:
    """Judge the GPU that would run the job: ComfyUI's, where one answers, else the largest.

    The verdict is by the whole memory. What is free now only lowers good to tight, since what
    takes the memory may be what ComfyUI loaded for the former job, and it makes room.

    Args:
        devices: what was found.
        vram_min_bytes: below it the job cannot run; None = not known.
        vram_good_bytes: from it on the job runs at ease; None = the same as the minimum.

    """
    able = _able(devices.devices)
    if not able:
        return _none(devices)
    best = max(able, key=lambda d: d.budget_bytes or 0)
    has = best.budget_bytes
    if has is None:
        return Fit(UNKNOWN, f"{best.name}: its memory is not known")
    if vram_min_bytes is None and vram_good_bytes is None:
        return Fit(UNKNOWN, f"{best.name} has {shown(has)}; what the job needs is not known")
    least = vram_min_bytes or 0
    return _judge(best, has, least, max(least, vram_good_bytes or 0))


def _judge(best: Device, has: int, least: int, ease: int) -> Fit:
    if has < least:
        return Fit(BELOW, f"{best.name} has {shown(has)}, the job needs {shown(least)}")
    if has < ease:
        return Fit(TIGHT, f"{best.name} has {shown(has)}, {shown(ease)} would be better")
    free = best.memory_free_bytes
    # Of a unified GPU the shared part's free bytes are not known.
    if free is not None and free < least and not best.shared_bytes:
        return Fit(TIGHT, f"{best.name} has {shown(has)}, but only {shown(free)} free now")
    return Fit(GOOD, f"{best.name} has {shown(has)}")


def _able(devices: Sequence[Device]) -> list[Device]:
    """Return the GPUs that a job could get: only ComfyUI's own, where one runs."""
    running = [d for d in devices if d.comfyui]
    return [d for d in running or devices if d.kind != CPU]


def _none(devices: Devices) -> Fit:
    on_cpu = next((d for d in devices.devices if d.comfyui), None)
    if on_cpu is not None:
        where = f" at {on_cpu.host}" if on_cpu.host else ""
        return Fit(NONE, f"the ComfyUI{where} runs on the processor")
    if devices.silent:
        return Fit(UNKNOWN, f"no answer from {', '.join(devices.silent)}")
    return Fit(NONE, "there is no GPU")
