"""What happens to a job at a backend, in virtual time. The same job has the same luck with all."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from random import Random

from economy_sim.demand import DAY_S
from economy_sim.tables import Kind
from pennyreel.money.catalog import Catalog
from pennyreel.money.pricing import settled
from pennyreel.need import Unit, Usage
from pennyreel.routing.machine import Trouble

DOWN = Trouble("backend_unavailable", "it answers 503", retryable=True)
SILENT = Trouble("unknown_outcome", "no answer came")
CRASHED = Trouble("comfy_crashed", "its worker crashed", retryable=True)


@dataclass(frozen=True)
class Luck:
    """How a call fails: 5 of 100 in all by default, and by outages besides."""

    refused: float = 0.030
    """503, nothing accepted."""
    lost: float = 0.005
    """No answer; every other one was accepted."""
    crashed: float = 0.015
    """Accepted, and failed on the way."""
    outages_a_week: float = 1.0
    outage_s: tuple[float, float] = (300.0, 1800.0)


@dataclass
class Run:
    """An accepted job."""

    at: float
    starts_at: float
    ends_at: float
    bill: int
    trouble: Trouble | None
    startup_s: float = 0.0
    stopped: bool = False


@dataclass
class Answer:
    """A submit's: accepted, no, or lost; `run` where it was accepted, told or not."""

    said: str
    run: Run | None = None
    trouble: Trouble | None = None


@dataclass
class Site:
    """One backend for everybody; a local one for each user."""

    kind: Kind
    catalog: Catalog
    luck: Luck
    seed: int
    horizon_s: float
    name: str = ""
    free_at: list[float] = field(default_factory=list)
    tails: int = 0
    """Micro-dollars of idling that no job is billed for."""
    billed: int = 0
    outages: list[tuple[float, float]] = field(default_factory=list)
    recent: deque[float] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Draw the outages."""
        self.name = self.name or self.kind.name
        random = Random(f"{self.seed} {self.name} outages")  # noqa: S311
        at = 0.0
        while self.luck.outages_a_week > 0:
            at += random.expovariate(self.luck.outages_a_week / (7 * DAY_S))
            if at > self.horizon_s:
                break
            length = random.uniform(*self.luck.outage_s)
            self.outages.append((at, at + length))
            at += length

    def down(self, at: float) -> bool:
        """Whether it is in an outage."""
        return any(begin <= at < end for begin, end in self.outages)

    def submit(self, job: int, tries: int, at: float) -> Answer:
        """Take a job, or not."""
        random = Random(f"{self.seed} {self.name} {job} {tries}")  # noqa: S311
        luck, draw = self.luck, random.random()
        while self.recent and self.recent[0] < at - 60:
            self.recent.popleft()
        if len(self.recent) >= self.kind.per_minute:
            wait = max(1.0, self.recent[0] + 60 - at)
            return Answer("no", None, Trouble("rate_limited", "429", "", True, wait))
        if self.down(at) or draw < luck.refused:
            return Answer("no", None, DOWN)
        self.recent.append(at)
        lost = draw < luck.refused + luck.lost
        if lost and random.random() < 0.5:
            return Answer("lost", None, SILENT)
        run = self._run(random, at, crashes=random.random() < luck.crashed)
        return Answer("lost" if lost else "accepted", run, SILENT if lost else None)

    def stop(self, run: Run, at: float) -> bool:
        """Cancel a run; where that works, its bill ends now."""
        if not self.kind.abilities.cancels:
            return False
        if at < run.starts_at:
            self._bill(-run.bill)
            run.bill = 0
        run.stopped, run.ends_at = True, at
        return True

    def close(self) -> None:
        """Count the last workers' tails."""
        self.tails += len(self.free_at) * self._cost(self.kind.idle_s)
        self.free_at.clear()

    def _run(self, random: Random, at: float, *, crashes: bool) -> Run:
        low, likely, high = self.kind.seconds
        seconds = random.triangular(low, high, likely)
        starts, cold = self._start(random, at)
        trouble = None
        if crashes or self.down(starts + seconds / 2):
            seconds, trouble = seconds * random.random(), CRASHED
        ends = starts + seconds
        if self.kind.workers:
            self.free_at.append(ends)
        bill = self._cost(seconds + cold)
        if trouble is not None and not self.kind.bills_failures:
            bill = 0
        self._bill(bill)
        return Run(at, starts, ends, bill, trouble, cold)

    def _start(self, random: Random, at: float) -> tuple[float, float]:
        """Return when a job of now starts, and the seconds of the cold start that it pays."""
        if not self.kind.workers:
            return at + random.uniform(0.5, 5.0), 0.0
        self._retire(at)
        warm = [t for t in self.free_at if t <= at]
        if warm:
            self.free_at.remove(max(warm))
            self.tails += self._cost(at - max(warm))
            return at + 0.5, 0.0
        if len(self.free_at) < self.kind.workers:
            cold = random.uniform(*self.kind.cold_s)
            return at + cold, cold
        first = min(self.free_at)
        self.free_at.remove(first)
        return first, 0.0

    def _retire(self, at: float) -> None:
        """Stop the workers whose idle time is over."""
        idle = self.kind.idle_s
        if self.kind.name == "comfyui":
            self.free_at = [t for t in self.free_at if t > at]
            return
        gone = [t for t in self.free_at if t + idle < at]
        self.tails += len(gone) * self._cost(idle)
        self.free_at = [t for t in self.free_at if t + idle >= at]

    def _cost(self, seconds: float) -> int:
        usage = self.kind.usage
        amount = seconds if usage.unit is Unit.GPU_SECOND else usage.amount
        return settled(Usage(usage.sku, usage.unit, amount), self.catalog).high or 0

    def _bill(self, amount: int) -> None:
        self.billed += amount
