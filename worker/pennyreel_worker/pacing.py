"""When to ask the platform for the next job. Pure but for its clock; thread-safe.

A worker that always asks takes jobs that an idle worker would have begun at once, and hides the
queue from the platform's scaler. One that asks when it is done leaves its GPU idle for the time
that taking and preparing need. So the second job is asked for when the running one is nearer to
its end than that time, the lead, which is measured here.

A job whose inputs are long in coming would keep the GPU idle for all that wait behind it. Where
jobs do wait (the poll that brought it was answered at once), the next is asked for beside it.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

FIRST_LEAD_S = 1.0
"""Before anything was measured: about what a small job's inputs take."""

MARGIN_S = 0.05
MOST_LEAD_S = 60.0
LOOK_S = 0.25
"""How often a running job's end is estimated anew."""

SLOW_S = 5.0
"""A job that is prepared for longer than this keeps the GPU from no other that waits."""

AT_ONCE_S = 0.5
"""A poll that is answered so soon found a queue: no worker is idle. UNVERIFIED of RunPod; where it
is slower, the queue is taken for empty, and jobs are asked for later."""

MEASURED = 16
KINDS = 256
_SEEDS = {"seed", "noise_seed", "filename_prefix"}
_LONGEST_WORD = 64


@dataclass
class _Held:
    taken_at: float
    stage: str = "preparing"
    remaining: Callable[[], float | None] | None = None


class Pace:
    """The jobs that this worker holds, and when it may have one more."""

    def __init__(
        self,
        hold: int,
        lead_s: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin with no job. `lead_s` replaces what would be measured."""
        self.hold = hold
        self.on_change: Callable[[], None] = lambda: None
        self._fixed = lead_s
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._preparing: deque[float] = deque(maxlen=MEASURED)
        self._asking: deque[float] = deque(maxlen=MEASURED)
        self._queue = False
        self._lock = threading.Lock()

    @property
    def lead_s(self) -> float:
        """Seconds from asking for a job until it is prepared, as measured of the last few jobs.

        The slowest of them where there is a queue: the GPU is not to wait. Else the middle one:
        idle workers would begin at once what waits here.
        """
        if self._fixed is not None:
            return self._fixed
        with self._lock:
            if not self._preparing:
                return FIRST_LEAD_S
            # A poll that waited for a job to come says nothing of the way there: the quickest does.
            asking = min(self._asking, default=0.0)
            preparing = max if self._queue else statistics.median_high
            return min(preparing(self._preparing) + asking + MARGIN_S, MOST_LEAD_S)

    def asked(self, seconds: float) -> None:
        """Note how long a poll took that brought a job."""
        with self._lock:
            self._asking.append(seconds)
            self._queue = seconds <= AT_ONCE_S

    def taken(self, job_id: str) -> None:
        """Note a job that was just taken."""
        with self._lock:
            self._held[job_id] = _Held(self._clock())
        self.on_change()

    def prepared(self, job_id: str, *, besides_s: float = 0.0) -> None:
        """Note that the job could run now; `besides_s` of its time is not the next one's."""
        with self._lock:
            held = self._held.get(job_id)
            if held is not None and held.stage == "preparing":
                held.stage = "waiting"
                self._preparing.append(max(0.0, self._clock() - held.taken_at - besides_s))
        self.on_change()

    def running(self, job_id: str, remaining: Callable[[], float | None]) -> None:
        """Note that the job has the GPU; `remaining` gives its seconds to the end, if known."""
        self._set(job_id, "running", remaining)

    def executed(self, job_id: str) -> None:
        """Note that the job has left the GPU."""
        self._set(job_id, "delivering")

    def gone(self, job_id: str) -> None:
        """Note that the job is answered."""
        with self._lock:
            self._held.pop(job_id, None)
        self.on_change()

    def wait_s(self) -> float | None:
        """Return 0 to ask now, seconds after which to look again, or None: at the next change."""
        with self._lock:
            held = list(self._held.values())
        if not held:
            return 0.0
        if len(held) >= self.hold:
            return None
        if any(h.stage == "waiting" for h in held):
            return None
        if preparing := [h.taken_at for h in held if h.stage == "preparing"]:
            return self._beside(min(preparing))
        ends = [h.remaining() for h in held if h.stage == "running" and h.remaining is not None]
        if None in ends:
            return LOOK_S
        early = max((end for end in ends if end is not None), default=0.0) - self.lead_s
        return 0.0 if early <= 0 else min(early, LOOK_S)

    def _beside(self, since: float) -> float | None:
        """Return when to ask for a job beside one that is prepared `since` then; nothing runs."""
        if not self._queue:  # idle workers take what comes, and begin it at once
            return None
        return max(0.0, since + SLOW_S - self._clock())

    def _set(
        self, job_id: str, stage: str, remaining: Callable[[], float | None] | None = None
    ) -> None:
        with self._lock:
            held = self._held.get(job_id)
            if held is not None:
                held.stage, held.remaining = stage, remaining
        self.on_change()


class Durations:
    """What jobs of each kind took on the GPU, in seconds; the latest counts half."""

    def __init__(self) -> None:
        """Know nothing."""
        self._seconds: OrderedDict[str, float] = OrderedDict()
        self._nodes: OrderedDict[str, dict[str, float]] = OrderedDict()
        self._lock = threading.Lock()

    def expected(self, kind: str) -> float | None:
        """Return the seconds that a job of this kind should take, or None."""
        with self._lock:
            return self._seconds.get(kind)

    def nodes(self, kind: str, shape: str = "") -> dict[str, float]:
        """Return the seconds that each node took when it last ran; empty where nothing is known.

        Where no job of this kind ran, those of the last one of its shape.
        """
        with self._lock:
            return dict(self._nodes.get(kind) or self._nodes.get(shape, {}))

    def learn(self, kind: str, seconds: float) -> None:
        """Add one measurement."""
        with self._lock:
            former = self._seconds.pop(kind, seconds)
            self._seconds[kind] = (former + seconds) / 2
            while len(self._seconds) > KINDS:
                self._seconds.popitem(last=False)

    def learn_nodes(self, name: str, nodes: Mapping[str, float]) -> None:
        """Add what the nodes that ran took, by kind or shape; others keep what they took before."""
        with self._lock:
            self._nodes[name] = {**self._nodes.pop(name, {}), **nodes}
            while len(self._nodes) > KINDS:
                self._nodes.popitem(last=False)


def kind_of(graph: Mapping[str, Any]) -> str:
    """Return a digest of what decides how long a graph takes.

    Seeds and prose differ from job to job and cost nothing; classes, links, numbers, and names of
    models, samplers and inputs count.
    """
    return _digest(graph, _telling)


def shape_of(graph: Mapping[str, Any]) -> str:
    """Return a digest of a graph's nodes and links, whatever their values.

    Of two such graphs one may take much longer; how its time is shared among its nodes is alike.
    """
    return _digest(graph, _links)


def _digest(graph: Mapping[str, Any], part: Callable[[object], dict[str, Any]]) -> str:
    shape = {
        node: [body.get("class_type"), part(body.get("inputs"))]
        for node, body in graph.items()
        if isinstance(body, Mapping)
    }
    text = json.dumps(shape, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def _links(inputs: object) -> dict[str, Any]:
    if not isinstance(inputs, Mapping):
        return {}
    return {k: v for k, v in inputs.items() if isinstance(v, list)}


def _telling(inputs: object) -> dict[str, Any]:
    if not isinstance(inputs, Mapping):
        return {}
    return {k: v for k, v in inputs.items() if k not in _SEEDS and not _prose(v)}


def _prose(value: object) -> bool:
    return isinstance(value, str) and (len(value) > _LONGEST_WORD or " " in value)
