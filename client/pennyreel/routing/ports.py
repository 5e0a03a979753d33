"""What the router needs of the rest: books, backends, a clock, and somebody to tell and to ask."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from pennyreel.backends.base import Backend, Work
from pennyreel.need import Usage
from pennyreel.routing.machine import Ask, JobRecord, Option, Outcome, Stage, Told, Trouble
from pennyreel.types import Handle, JobEvent
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result


class Books(Protocol):
    """What must outlive the process. Each call is one transaction; it is kept when it returns."""

    def record(self, job_id: str) -> JobRecord:
        """Return what is kept of a job, its attempts in the order of trying."""

    def reserve(self, job_id: str, n: int, option: Option, attempt_id: str) -> None:
        """Hold the option's money and write the intent, in one transaction.

        Raises:
            PennyreelError: a budget does not allow it; nothing is held or written.

        """

    def attempt_id(self, job_id: str, n: int) -> str:
        """Return the id that was written with the intent."""

    def write(
        self, job_id: str, n: int, stage: Stage, handle: str | None, at: float | None
    ) -> None:
        """Keep how far an attempt is; `handle` and `at`, its acceptance, where given."""

    def settle(
        self, job_id: str, n: int, stage: Stage, microusd: int | None, trouble: Trouble | None
    ) -> None:
        """Keep how an attempt ended and what it cost; None = the reservation counts as spent.

        A second time, with another cost, corrects the first: a late bill is a bill.
        """

    def mark_cancelled(self, job_id: str) -> None:
        """Keep that the user wants the job no more."""

    def end(
        self,
        job_id: str,
        outcome: Outcome,
        winner: int | None,
        troubles: tuple[tuple[int, Trouble], ...],
    ) -> None:
        """Keep how the job ended."""


class Backends(Protocol):
    """Opens a backend for an option."""

    def open(self, option: Option) -> Backend:
        """Return it; raises SetupNeeded."""


class Clock(Protocol):
    """Time, and chance."""

    def now(self) -> float:
        """Return epoch seconds."""

    def jitter(self) -> float:
        """Return a random number from 0 to 1."""


class RealClock:
    """This machine's."""

    def now(self) -> float:
        """Return epoch seconds."""
        return time.time()

    def jitter(self) -> float:
        """Return a random number from 0 to 1."""
        return random.random()  # noqa: S311 - not a secret


@dataclass(frozen=True)
class Ears:
    """Who hears what happens. All of it in the thread that drives the job, but `event`."""

    told: Callable[[Told], None] = lambda _: None
    event: Callable[[JobEvent], None] = lambda _: None
    """A backend's own news; in the thread that follows it."""
    ask: Callable[[Ask], bool] = lambda _: False
    """Whether the user agrees; nobody there is no."""


Fetch = Callable[[Backend, Handle, Result, CancelToken], None]
"""Saves the files of a result; raises PennyreelError."""

Price = Callable[[Option, Usage], "int | None"]
"""What a bill's units cost in micro-dollars; None = not known."""


@dataclass(frozen=True)
class Order:
    """A job's request, as it is sent. `work.attempt_id` is replaced for each attempt."""

    work: Work
    fetch: Fetch
    price: Price
    deadline: Deadline = field(default_factory=lambda: Deadline(None))
    """The user's, for all of it: no submit's answer is waited for much longer."""
