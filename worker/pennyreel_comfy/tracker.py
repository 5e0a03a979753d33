"""What a job's events tell: how far it is, when it will end, and how long each node took. No I/O.

`Tracker` answers with one fraction over the whole graph that never falls. `NodeClock` measures.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pennyreel_comfy.events import (
    Cached,
    Errored,
    Event,
    Executing,
    Interrupted,
    NodeStates,
    NodeSteps,
    Started,
    Succeeded,
)
from pennyreel_comfy.weights import weights
from pennyreel_contract.result import NodeTiming

_LEAST_S = 0.001
"""Of a node that took no time in former runs, or did not run."""

_MIN_ELAPSED_S = 1.0
_MIN_FRACTION = 0.05

_GRACE_S = 1.0
_GRACE = 0.5
"""How late a job may be, by its own length so far, before its estimate is taken for wrong."""

MAX_TIMINGS = 100
"""Nodes that a result names: the longest. Larger graphs would make results large."""

REST = "*"
"""Stands for all other nodes together."""


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
    """Feed it a job's events; it answers with the position after each that moved it.

    `expected_s` is what the graph is known to take from former runs. Its share of the estimate
    falls as the job itself shows how fast it is. `node_s` is what each of its nodes took: without
    it their shares are guessed by their classes and steps. `remaining_s` may be asked from any
    thread.

    What a node expands into while it runs is told as that node, whose length then nobody knows; nor
    does anybody of one that goes through a list. Such a node moves the fraction, and has no ETA of
    its own.
    """

    def __init__(
        self,
        graph: Mapping[str, Any],
        *,
        runs: Collection[str] | None = None,
        expected_s: float | None = None,
        node_s: Mapping[str, float] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Weigh the graph's nodes; `runs`: those that an output needs, where that is known."""
        self._classes = {n: str(v.get("class_type", "")) for n, v in graph.items()}
        self._weights = weights(graph, runs)
        if node_s:
            self._weights = {n: max(_LEAST_S, node_s.get(n, 0.0)) for n in self._classes}
        self._total = sum(self._weights.values()) or 1.0
        self._expected_s = expected_s
        self._done: dict[str, float] = {}
        self._endless: set[str] = set()
        """Nodes of which nobody knows how much of them is still to come."""

        self._clock = clock
        self._began: float | None = None
        self._base = 0.0
        self._prompt: str | None = None
        self._last = Position(0.0)
        self._lock = threading.Lock()
        self._end: float | None = None
        """The moment at which it should end."""

        self._ended = False

    def feed(self, event: Event) -> Position | None:
        """Return the new position, or None where nothing changed."""
        node, step, steps = self._last.node, self._last.step, self._last.steps
        if isinstance(event, Started):
            self._start(event.prompt_id)
            return None
        if _ends(event):
            self._ended = True
            return None
        if isinstance(event, Cached):
            self._done.update(dict.fromkeys(event.nodes, 1.0))
        elif isinstance(event, NodeStates):
            self._take(event)
            node, step, steps = self._at_work(event) or (node, step, steps)
        elif isinstance(event, NodeSteps):
            node, step, steps = self._shown(event.node), int(event.value), int(event.max)
            if node == event.node:
                self._set(node, _ratio(event.value, event.max))
        elif isinstance(event, Executing) and event.node is not None:
            following = self._shown(event.node)
            if node is not None and node != following:
                self._done[node] = 1.0
            if following != event.node:
                self._endless.add(following)
            node, step, steps = following, None, None
        else:
            return None
        return self._move(node, step, steps)

    def remaining_s(self) -> float | None:
        """Return the seconds until the graph has run, from now; None where nobody knows.

        0 means: any moment. A job that is much later than was estimated is unknown again.
        """
        with self._lock:
            if self._ended:
                return 0.0
            if self._began is None:
                return self._expected_s
            if self._end is None:
                return None
            left = self._end - self._clock()
            slack = max(_GRACE_S, _GRACE * (self._end - self._began))
            return None if left < -slack else max(0.0, left)

    def _take(self, event: NodeStates) -> None:
        """Note how far each node is; those that a node expands into count for it."""
        inner: dict[str, float] = {}
        for name, (value, most, state) in event.nodes.items():
            ratio = 1.0 if state == "finished" else _ratio(value, most)
            shown = self._shown(name)
            if shown != name:
                inner[shown] = inner.get(shown, 0.0) + ratio
            else:
                self._set(name, ratio)
        for name, done in inner.items():
            self._endless.add(name)
            if self._done.get(name) != 1.0:  # so much is done, and always some is to come
                self._done[name] = done / (done + 1.0)

    def _set(self, node: str, ratio: float) -> None:
        if ratio < self._done.get(node, 0.0):  # the next item of a list, or another pass
            self._endless.add(node)
        self._done[node] = ratio

    def _at_work(self, event: NodeStates) -> tuple[str, int | None, int | None] | None:
        """Return the running node and its steps, where the states tell of one."""
        running = {self._shown(n): n for n, v in event.nodes.items() if v[2] == "running"}
        if not running:
            return None
        node = self._last.node if self._last.node in running else list(running)[-1]
        value, most, _ = event.nodes[running[node]]
        if most > 1 and value > 0:
            return node, int(value), int(most)
        same = node == self._last.node
        return (node, self._last.step, self._last.steps) if same else (node, None, None)

    def _shown(self, node: str) -> str:
        return _of_graph(node, self._classes)

    def _start(self, prompt_id: str) -> None:
        """Begin, or begin anew where the graph is run once more: its estimate starts over."""
        if prompt_id != self._prompt and self._prompt is not None:
            self._done.clear()
            self._endless.clear()
            self._last = Position(self._last.fraction)
            with self._lock:
                self._began, self._end, self._base, self._ended = None, None, 0.0, False
        self._prompt = prompt_id
        self._begin()

    def _begin(self) -> None:
        with self._lock:
            if self._began is None:
                self._began = now = self._clock()
                if self._expected_s is not None:
                    self._end = now + self._expected_s

    def _move(self, node: str | None, step: int | None, steps: int | None) -> Position | None:
        weighed = sum(self._weights.get(n, 0.0) * f for n, f in self._done.items()) / self._total
        now = min(1.0, max(0.0, weighed))
        self._begin()
        if node is None and step is None:
            self._base = now  # what was cached took no time
        fraction = max(self._last.fraction, now)
        eta_s = self._eta(now, endless=node in self._endless)
        position = Position(fraction, node, self._classes.get(node or ""), step, steps, eta_s)
        if position == self._last:
            return None
        self._last = position
        return position

    def _eta(self, fraction: float, *, endless: bool) -> float | None:
        with self._lock:
            now = self._clock()
            elapsed = now - (now if self._began is None else self._began)
            left = self._guess(elapsed, fraction, endless)
            if left is None:
                self._end = None if endless else self._end
                return None
            self._end = now + left
            return round(left, 1)

    def _guess(self, elapsed: float, fraction: float, endless: bool) -> float | None:
        """Estimate by what this run shows, by former runs, or by both."""
        if fraction >= 1.0 and not endless:
            return 0.0
        gone, shown = fraction - self._base, None
        if elapsed >= _MIN_ELAPSED_S and gone >= _MIN_FRACTION and not endless:
            shown = elapsed * (1.0 - fraction) / gone
        if self._expected_s is None or elapsed > self._expected_s:
            return shown
        known = self._expected_s - elapsed
        # The weights are rough: former runs know better, until most of the graph has run.
        return known if shown is None else known + (shown - known) * fraction


class NodeClock:
    """Measures how long each node runs, by its job's events as they come.

    ComfyUI runs one node at a time, so all time from the first node to the job's end belongs to
    some node. Either `executing` or `progress_state` is enough; old servers send the former only.
    Nodes that a node expands into (their ids begin with its id and a dot) count as that node's.
    """

    def __init__(
        self, graph: Mapping[str, Any], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the classes; nothing runs yet."""
        self._classes = {n: str(v.get("class_type", "")) for n, v in graph.items()}
        self._clock = clock
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._finished: set[str] = set()
        self._node: str | None = None
        self._since = 0.0
        self._prompt: str | None = None

    def feed(self, event: Event) -> None:
        """Take one event of the job."""
        with self._lock:
            if isinstance(event, Started):
                self._start(event.prompt_id)
            elif isinstance(event, Executing):
                self._switch(event.node)
            elif isinstance(event, NodeSteps):
                # The last step may be told after the node's end.
                self._switch(self._node if event.node in self._finished else event.node)
            elif isinstance(event, NodeStates):
                self._states(event)
            elif _ends(event):
                self._switch(None)

    def timings(self) -> tuple[NodeTiming, ...]:
        """Return the nodes that ran, the longest first; past `MAX_TIMINGS` of them one `REST`."""
        with self._lock:
            self._switch(self._node)  # so that a job whose end was not announced is whole
            found = dict(self._seconds)
        ordered = sorted(found.items(), key=lambda item: -item[1])
        if rest := ordered[MAX_TIMINGS:]:
            ordered[MAX_TIMINGS:] = [(REST, sum(seconds for _, seconds in rest))]
        return tuple(
            NodeTiming(node=n, node_class=self._classes.get(n, ""), seconds=round(s, 3))
            for n, s in ordered
        )

    def _start(self, prompt_id: str) -> None:
        if (
            prompt_id != self._prompt and self._prompt is not None
        ):  # run once more: only that counts
            self._seconds.clear()
            self._finished.clear()
            self._node = None
        self._prompt = prompt_id

    def _states(self, event: NodeStates) -> None:
        running = [n for n, (_, _, state) in event.nodes.items() if state == "running"]
        self._finished |= {n for n, (_, _, state) in event.nodes.items() if state == "finished"}
        self._finished -= set(running)  # a loop runs its nodes again
        if running and self._node not in running:
            self._switch(running[-1])
        # One that has finished keeps the time until the next begins: ComfyUI tidies up after it.

    def _switch(self, node: str | None) -> None:
        now = self._clock()
        if self._node is not None:
            name = self._shown(self._node)
            self._seconds[name] = self._seconds.get(name, 0.0) + now - self._since
        self._node, self._since = node, now

    def _shown(self, node: str) -> str:
        return _of_graph(node, self._classes)


def _ends(event: Event) -> bool:
    finished = isinstance(event, Executing) and event.node is None
    return finished or isinstance(event, (Succeeded, Errored, Interrupted))


def _of_graph(node: str, classes: Mapping[str, str]) -> str:
    """Return the node of the graph that another one belongs to; itself, if it is one."""
    parent = node.partition(".")[0]
    return parent if node not in classes and parent in classes else node


def _ratio(value: float, most: float) -> float:
    return min(1.0, value / most) if most > 0 else 0.0
