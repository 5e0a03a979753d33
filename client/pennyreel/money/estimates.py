"""How long a job will take on a GPU: learned from its history, else the template's hint, scaled.

Pure. A rate is seconds / size; sizes are multiples of the profile's usual work (`Need.size`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

RECENT = 50
"""So many of the latest samples count: drivers and models change."""

HINT = (0.5, 2.0)
"""A hint's low and high as multiples of it: nobody has measured it on this GPU."""

MEASURED = (0.7, 1.6)
"""The same for a hint that was measured, on this kind of device."""


@dataclass(frozen=True)
class Sample:
    """One run: its GPU seconds and its size."""

    seconds: float
    size: float = 1.0


@dataclass(frozen=True)
class Hint:
    """What a template's `[cost]` says: seconds of its usual work on a device."""

    seconds: float
    device: str
    estimated: bool = True


@dataclass(frozen=True)
class Seconds:
    """A range of time. `samples` runs have told it; 0 = it is a guess, and `basis` says whose."""

    low: float
    likely: float
    high: float
    samples: int = 0
    basis: str = ""

    def plus(self, low: float, likely: float, high: float) -> Seconds:
        """Return it with a wait added: a queue, a cold start."""
        return Seconds(
            self.low + low, self.likely + likely, self.high + high, self.samples, self.basis
        )


def expected(
    gpu: str,
    size: float = 1.0,
    *,
    history: Mapping[str, Sequence[Sample]] | None = None,
    hint: Hint | None = None,
    speeds: Mapping[str, tuple[float, float]] | None = None,
) -> Seconds | None:
    """Return the seconds that a job of this size takes on a GPU, or None: unknown.

    Args:
        gpu: its name as the driver tells it, a pool's, or `cpu`.
        size: of the job.
        history: GPU -> samples of this very profile, oldest first.
        hint: the template's.
        speeds: `Catalog.speeds`.

    """
    if not (math.isfinite(size) and size > 0):
        return None
    told = history or {}
    here = rates(told.get(gpu, ()))
    if here:
        return _learned(here, size, f"{len(here)} run{'s'[: len(here) > 1]} on {gpu}")
    table = speeds or {}
    return _elsewhere(gpu, size, told, table) or _hinted(gpu, size, hint, table)


def rates(samples: Iterable[Sample]) -> list[float]:
    """Return seconds per unit of size of the latest samples that make sense."""
    good = [
        s.seconds / s.size
        for s in samples
        if math.isfinite(s.seconds) and math.isfinite(s.size) and s.seconds > 0 and s.size > 0
    ]
    return [r for r in good if math.isfinite(r) and r > 0][-RECENT:]


def speed(gpu: str, speeds: Mapping[str, tuple[float, float]]) -> tuple[float, float] | None:
    """Return slowest and fastest of a GPU by the table's best match, or None.

    `NVIDIA GeForce RTX 4070 Ti SUPER` is `RTX 4070 Ti`: the entry with the most words counts.
    """
    words = _words(gpu)
    fitting = [name for name in speeds if _words(name) <= words]
    best = max(fitting, key=lambda name: (len(_words(name)), name), default=None)
    return None if best is None else speeds[best]


def _learned(found: Sequence[float], size: float, basis: str) -> Seconds:
    """Quantiles bear outliers; the margin around them shrinks with the root of the samples."""
    ordered = sorted(found)
    middle = median(ordered)
    margin = 1 + 1 / math.sqrt(len(ordered))
    return Seconds(
        low=min(_quantile(ordered, 0.1), middle) / margin * size,
        likely=middle * size,
        high=max(_quantile(ordered, 0.9), middle) * margin * size,
        samples=len(ordered),
        basis=basis,
    )


def _elsewhere(
    gpu: str,
    size: float,
    history: Mapping[str, Sequence[Sample]],
    speeds: Mapping[str, tuple[float, float]],
) -> Seconds | None:
    """Scale what another GPU has shown; the one with the most samples tells."""
    target = speed(gpu, speeds)
    known = sorted((len(rates(told)), name) for name, told in history.items())
    for count, name in reversed(known):
        source = speed(name, speeds)
        if count and source and target:
            middle = median(rates(history[name])) * size
            return _scaled(middle, source, target, HINT, f"{count} runs on {name}, scaled")
    return None


def _hinted(
    gpu: str, size: float, hint: Hint | None, speeds: Mapping[str, tuple[float, float]]
) -> Seconds | None:
    if hint is None or hint.seconds <= 0:
        return None
    source, target = speed(hint.device, speeds), speed(gpu, speeds)
    if source is None or target is None:
        return None
    basis = f"the template's hint for {hint.device}"
    if "cpu" in _words(hint.device):
        # What is measured on a CPU needs no GPU, and a GPU does not make it faster.
        return _scaled(hint.seconds * size, (1, 1), (1, 1), MEASURED, basis)
    same = source == target and not hint.estimated
    return _scaled(hint.seconds * size, source, target, MEASURED if same else HINT, basis)


def _scaled(
    seconds: float,
    source: tuple[float, float],
    target: tuple[float, float],
    around: tuple[float, float],
    basis: str,
) -> Seconds:
    work = seconds * math.sqrt(source[0] * source[1])
    likely = work / math.sqrt(target[0] * target[1])
    return Seconds(work / target[1] * around[0], likely, work / target[0] * around[1], 0, basis)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return a quantile of sorted numbers, interpolated."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _words(name: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z0-9_]+", name.lower()))
