"""The jobs, how far they are and what they cost. No I/O."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from pennyreel_emulators.google.clip import clip
from pennyreel_emulators.google.config import GoogleConfig, Plan


@dataclass(frozen=True)
class Seen:
    """One request. `keyed` says whether any credential came with it; the credential is not kept."""

    method: str
    path: str
    query: str
    keyed: bool
    body: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Charge:
    """One job that Google would bill."""

    job: str
    model: str
    seconds: int
    resolution: str
    audio: bool


@dataclass
class Job:
    """One accepted job. Each look brings it a step nearer to its end."""

    id: str
    model: str
    plan: Plan
    seconds: int
    resolution: str
    audio: bool = True
    delivery: str = "inline"
    looks: int = 0
    cuts: int = 0
    stopped: bool = False
    deleted: bool = False

    @property
    def state(self) -> str:
        """`running`, or how it has ended."""
        if self.stopped:
            return "cancelled"
        running = self.plan.end == "hangs" or self.looks < self.plan.looks
        return "running" if running else self.plan.end

    @property
    def content(self) -> bytes:
        """The video it makes."""
        return clip(self.id)

    def cut(self) -> bool:
        """Whether this transfer of its file breaks off."""
        self.cuts += 1
        return self.cuts <= self.plan.cut_files

    def broken(self) -> int | None:
        """Return the HTTP status that this look gets instead of an answer; it counts as a look."""
        if self.looks >= len(self.plan.broken_looks) or self.plan.broken_looks[self.looks] == 200:
            return None
        self.looks += 1
        return self.plan.broken_looks[self.looks - 1]

    def look(self) -> str:
        """Return the state as this look sees it."""
        state = self.state
        self.looks += 1
        return state

    def cancel(self) -> None:
        """Take a cancel as the plan says."""
        if self.state != "running" or self.plan.cancel == "ignored":
            return
        if self.plan.cancel == "late":
            self.looks = self.plan.looks
            return
        self.stopped = True


class Store:
    """All jobs, all requests, and the plans of the submits to come."""

    def __init__(self, config: GoogleConfig) -> None:
        self.config = config
        self.jobs: dict[str, Job] = {}
        self.seen: list[Seen] = []
        self.plans: deque[Plan] = deque()
        self.tokens: set[str] = set(config.access_tokens)
        self.keys: set[str] = {config.api_key}
        self.stored: dict[str, Job] = {}
        self._numbers = itertools.count(1)

    def plan(self) -> Plan:
        """Return the next submit's plan."""
        return self.plans.popleft() if self.plans else self.config.plan

    def number(self) -> int:
        """Return a number that was not given before."""
        return next(self._numbers)

    def charges(self) -> tuple[Charge, ...]:
        """Return what is billed, or will be once a running job is done."""
        return tuple(
            Charge(j.id, j.model, j.seconds, j.resolution, j.audio)
            for j in self.jobs.values()
            if self._billed(j)
        )

    def _billed(self, job: Job) -> bool:
        # That a cancelled Interaction costs nothing is UNVERIFIED.
        if job.stopped:
            return False
        free = {"failed", "incomplete", "cancelled"}
        if not self.config.charge_filtered:
            free.add("filtered")
        return job.plan.end not in free
