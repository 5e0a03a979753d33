"""Turns a job's events into one percentage over the whole graph that never falls. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pennyreel_comfy.events import Cached, Event, Executing, NodeStates, NodeSteps

# Where a graph's time goes, roughly: a sampler's steps dwarf the nodes around them.
_WEIGHTS = (("Sampler", 20.0), ("VAEDecode", 4.0), ("Video", 4.0), ("Loader", 3.0))
_MIN_ELAPSED_S = 1.0
_MIN_FRACTION = 0.05


@dataclass(frozen=True)
class Position:
    """Where a job is: `fraction` of its graph (0 to 1), the node at work and its steps."""

    fraction: float
    node: str | None = None
    node_class: str | None = None
    step: int | None = None
    steps: int | None = None
    eta_s: float | None = None


class Tracker:
    """Feed it a job's events; it answers with the position after each that moved it."""

    def __init__(
        self, graph: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Weigh the graph's nodes."""
        self._classes = {n: str(v.get("class_type", "")) for n, v in graph.items()}
        self._weights = {n: _weight(c) for n, c in self._classes.items()}
        self._total = sum(self._weights.values()) or 1.0
        self._done: dict[str, float] = {}
        self._clock = clock
        self._began: float | None = None
        self._base = 0.0
        self._last = Position(0.0)

    def feed(self, event: Event) -> Position | None:
        """Return the new position, or None where nothing changed."""
        node, step, steps = self._last.node, self._last.step, self._last.steps
        if isinstance(event, Cached):
            self._done.update(dict.fromkeys(event.nodes, 1.0))
        elif isinstance(event, NodeStates):
            for name, (value, most, state) in event.nodes.items():
                self._done[name] = 1.0 if state == "finished" else _ratio(value, most)
        elif isinstance(event, NodeSteps):
            self._done[event.node] = _ratio(event.value, event.max)
            node, step, steps = event.node, int(event.value), int(event.max)
        elif isinstance(event, Executing) and event.node is not None:
            if node is not None and node != event.node:
                self._done[node] = 1.0
            node, step, steps = event.node, None, None
        else:
            return None
        return self._move(node, step, steps)

    def _move(self, node: str | None, step: int | None, steps: int | None) -> Position | None:
        now = self._clock()
        weighed = sum(self._weights.get(n, 0.0) * f for n, f in self._done.items()) / self._total
        fraction = max(self._last.fraction, min(1.0, weighed))
        if self._began is None:
            self._began, self._base = now, fraction  # what was cached took no time
        position = Position(
            fraction, node, self._classes.get(node or ""), step, steps, self._eta(now, fraction)
        )
        if position == self._last:
            return None
        self._last = position
        return position

    def _eta(self, now: float, fraction: float) -> float | None:
        elapsed, gone = now - (now if self._began is None else self._began), fraction - self._base
        if elapsed < _MIN_ELAPSED_S or gone < _MIN_FRACTION:
            return None
        return round(elapsed * (1.0 - fraction) / gone, 1)


def _weight(class_type: str) -> float:
    return next((w for part, w in _WEIGHTS if part in class_type), 1.0)


def _ratio(value: float, most: float) -> float:
    return min(1.0, value / most) if most > 0 else 0.0
