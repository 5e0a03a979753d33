"""Figure 1: GPU time lost between jobs, against bare ComfyUI; and nobody behind a long job."""

from __future__ import annotations

import contextlib
import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import requests

from pennyreel_emulators.runpod import JobTaken
from worker_bench import graphs
from worker_bench.comfyui import Place, Ran, bare, until
from worker_bench.fleet import Fleet

FOREIGN = Path(__file__).with_name("foreign.py")
LONG_S, SHORT_S = 2.0, 0.1
PLUG_S = 1.5
"""Jobs are queued while this one runs, so that all of them wait when the first is executed."""

SETTLE_S = 0.3
BEHIND_S = 3.0
WAIT_S = 0.5
"""A job that an idle worker takes is executed within a few hundredths of a second."""

Make = Callable[[], graphs.Graph]


class Stretch(NamedTuple):
    """A row of executions without a pause on purpose. Seconds."""

    lost_per_job: float
    busy: float
    mean: float
    """Of one execution."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured."""

    long_jobs: int = 6
    short_jobs: int = 25
    repetitions: int = 3
    tries: int = 4


def stretch(ran: list[Ran], collected: list[tuple[float, float]]) -> Stretch:
    """Judge executions in a row: the wall from first start to last end, less what was executed.

    `collected` is taken out: every 10 s ComfyUI spends 0.3 s on its garbage between two prompts,
    whoever sends them, and one row has such a pause where another has none.
    """
    wall = ran[-1].ended - ran[0].began
    executed = sum(one.ended - one.began for one in ran)
    pauses = 0.0
    for former, latter in itertools.pairwise(ran):
        for began, ended in collected:
            pauses += max(0.0, min(ended, latter.began) - max(began, former.ended))
    wall -= pauses
    return Stretch((wall - executed) / len(ran), executed / wall, executed / len(ran))


def measure(place: Place, sizes: Sizes, *, handler: str | None, real: bool) -> dict[str, Any]:
    """Measure long and short jobs, a repetition of bare ComfyUI before each of the worker's."""
    with bare(place) as url, _worker(place, handler) as fleet:
        direct = _Direct(place, url)
        through = _Through(place, fleet)
        found: dict[str, Any] = {}
        kinds = (("long", LONG_S, sizes.long_jobs), ("short", SHORT_S, sizes.short_jobs))
        for kind, seconds, jobs in kinds:
            make = _sampler(direct, seconds) if real else _work(seconds)
            for side in (direct, through):
                side(_work(SHORT_S) if not real else make, 3)  # warm
            rows = [(direct(make, jobs), through(make, jobs)) for _ in range(sizes.repetitions)]
            found |= _figures(kind, rows)
        return {**found, "held_max": fleet.held_max()}


def _figures(kind: str, rows: list[tuple[Stretch, Stretch]]) -> dict[str, Any]:
    lost = [1000 * (ours.lost_per_job - bare.lost_per_job) for bare, ours in rows]
    return {
        f"idle_ms_{kind}": round(statistics.median(lost), 2),
        f"idle_ms_{kind}_all": [round(value, 2) for value in lost],
        f"busy_{kind}": round(statistics.median(ours.busy for _, ours in rows), 4),
        f"bare_idle_ms_{kind}": round(
            1000 * statistics.median(bare.lost_per_job for bare, _ in rows), 2
        ),
        f"bare_busy_{kind}": round(statistics.median(bare.busy for bare, _ in rows), 4),
        f"executed_s_{kind}": round(statistics.median(ours.mean for _, ours in rows), 4),
    }


def _work(seconds: float) -> Make:
    return lambda: graphs.work(seconds)


def _sampler(direct: _Direct, seconds: float) -> Make:
    """Find the steps that take about `seconds` here."""
    few, many = (direct(lambda n=n: graphs.sampler(n), 4).mean for n in (2, 12))  # type: ignore[misc]
    step = max(1e-4, (many - few) / 10)
    steps = max(1, round((seconds - few) / step) + 2)
    return lambda: graphs.sampler(steps)


class _Direct:
    """Bare ComfyUI: all prompts in its own queue."""

    def __init__(self, place: Place, url: str) -> None:
        self._place, self._url = place, url
        self._http = requests.Session()
        self._http.trust_env = False

    def __call__(self, make: Make, jobs: int) -> Stretch:
        since = time.monotonic()
        for graph in [graphs.work(PLUG_S), *(make() for _ in range(jobs))]:
            self._http.post(f"{self._url}/prompt", json={"prompt": graph}).raise_for_status()
        until(lambda: len(self._place.ran(since)) > jobs, "prompts", 600, every=0.1)
        return _judge(self._place, since)


class _Through:
    """The worker: all jobs in the platform's queue."""

    def __init__(self, place: Place, fleet: Fleet) -> None:
        self._place, self._fleet = place, fleet

    def __call__(self, make: Make, jobs: int) -> Stretch:
        since = time.monotonic()
        plug = self._fleet.submit(graphs.work(PLUG_S))
        queued = [self._fleet.submit(make()) for _ in range(jobs)]
        if time.monotonic() - since > PLUG_S:
            raise SystemExit("queueing took longer than the first job: this machine is too busy")
        self._fleet.wait([plug, *queued])
        ran = self._place.ran(since)
        if len(ran) != jobs + 1:
            raise SystemExit(f"{jobs + 1} jobs, but ComfyUI executed {len(ran)} prompts")
        time.sleep(SETTLE_S)  # bare ComfyUI's next row should not meet the end of this one
        return _judge(self._place, since)


def _judge(place: Place, since: float) -> Stretch:
    ran = place.ran(since)[1:]  # the first was the plug
    return stretch(ran, place.collected(ran[0].pid))


@contextlib.contextmanager
def _worker(place: Place, handler: str | None) -> Iterator[Fleet]:
    """Start our worker; or another one's handler, with a ComfyUI of its own."""
    if handler is None:
        with Fleet(place.worker_environment()).running() as fleet:
            yield fleet
        return
    with bare(place) as url:
        env = {"BENCH_COMFY_HOST": url.removeprefix("http://")}
        command = (sys.executable, str(FOREIGN), "serve", handler)
        with Fleet(env, command=command, stock=True).running() as fleet:
            yield fleet


def behind(place: Place, sizes: Sizes) -> dict[str, Any]:
    """Two workers, one of them with a long job: who takes what comes meanwhile?

    During each long job, short ones are submitted one after another at random moments, the last of
    them WAIT_S before its end. One whose execution began later than that waited behind it.
    """
    waits: list[float] = []
    dice = random.Random(7)  # noqa: S311 - moments, not secrets
    with Fleet(place.worker_environment(), workers=2).running() as fleet:
        for turn in range(sizes.tries + 1):  # the first round warms both
            found = _round(place, fleet, dice)
            if turn:
                waits += found
        held = fleet.held_max()
    return {
        "waited_behind_long": sum(wait > WAIT_S for wait in waits),
        "behind_tries": len(waits),
        "behind_worst_ms": round(1000 * max(waits), 1),
        "behind_held_max": held,
    }


def _round(place: Place, fleet: Fleet, dice: random.Random) -> list[float]:
    """Return how long each job that came during a long one waited for its execution."""
    since = time.monotonic()
    long = fleet.submit(graphs.work(BEHIND_S))
    waits, jobs = [], [long]
    until(lambda: _taken(fleet, long) is not None, "the long job", 30)
    while (left := since + BEHIND_S - time.monotonic()) > 2 * WAIT_S:
        time.sleep(dice.uniform(0.05, min(0.8, left - 1.5 * WAIT_S)))
        asked = time.monotonic()
        job = fleet.submit(graphs.work(SHORT_S))
        fleet.wait([job])
        began = next(one.began for one in place.ran(since) if one.began >= asked)
        waits.append(began - asked)
        jobs.append(job)
    fleet.wait(jobs)
    return waits


def _taken(fleet: Fleet, job: str) -> JobTaken | None:
    return next((event for event in fleet.of(JobTaken) if event.job_id == job), None)
