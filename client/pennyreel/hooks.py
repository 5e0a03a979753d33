"""Hooks: logging and metrics are told of jobs, and can do them no harm.

A hook has any of the methods of `Hook`. It is given to `Client(hooks=[…])`, or offered by another
package as an entry point in the group `pennyreel.hooks`: a class, or a function, that makes one.
Each hook is called in a thread of its own: one that raises is logged, one that hangs misses what
comes, and no job waits for either. Hooks get facts and no prompt, file name, URL or key.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class JobStart:
    """A job that was sent, or is gone on with."""

    job_id: str
    backend: str
    """Where it goes first; "" where that is not known yet."""
    at: float
    """When it began, perhaps in another program, in seconds since 1970."""


@dataclass(frozen=True)
class EventFacts:
    """One event of a job, without its words."""

    job_id: str
    name: str
    """chosen, told, submitted, queued, started, progressed, artifact_saved, warned, detached,
    finished."""
    backend: str
    at: float
    code: str = ""
    """Of what the router tells: an error's code."""
    percent: float | None = None
    stage: str = ""


@dataclass(frozen=True)
class AttemptEnd:
    """One try on one backend that has ended."""

    job_id: str
    attempt_id: str
    backend: str
    outcome: str
    """done, or an error's code."""
    cost_microusd: int
    """Of an unknown outcome, what counts as spent."""
    at: float
    """When it began, in seconds since 1970."""
    seconds: float


@dataclass(frozen=True)
class JobEnd:
    """A job that has ended, or was let go."""

    job_id: str
    backend: str
    """Where it was tried last."""
    outcome: str
    """done, an error's code, or detached: it goes on without this client."""
    cost_microusd: int
    """Of its attempts that have ended."""
    at: float
    """When it began, in seconds since 1970."""
    seconds: float
    attempts: int


class Hook(Protocol):
    """What a hook may have; a method that is missing is not called."""

    def job_started(self, job: JobStart) -> None:
        """Hear of a job at its beginning, in a copy of the context that it was started in."""

    def event(self, event: EventFacts) -> None:
        """Hear of what happens on the way."""

    def attempt_ended(self, attempt: AttemptEnd) -> None:
        """Hear how a try ended and what it cost."""

    def job_ended(self, job: JobEnd) -> None:
        """Hear how a job ended, after its last attempt."""


class LoggingHook:
    """Tells the standard library's logging: starts and ends as INFO, what went wrong as WARNING."""

    def __init__(self, logger: logging.Logger | None = None) -> None:
        """Write to `pennyreel.jobs`, unless told otherwise."""
        self._log = logger or logging.getLogger("pennyreel.jobs")

    def job_started(self, job: JobStart) -> None:
        """See `Hook`."""
        self._log.info("job %s started on %s", job.job_id, job.backend or "?")

    def event(self, event: EventFacts) -> None:
        """See `Hook`."""
        self._log.debug("job %s: %s %s", event.job_id, event.name, event.code or event.stage)

    def attempt_ended(self, attempt: AttemptEnd) -> None:
        """See `Hook`."""
        level = logging.INFO if attempt.outcome == "done" else logging.WARNING
        self._log.log(
            level, "job %s: attempt %s on %s: %s after %.1f s, %s micro-dollars",
            attempt.job_id, attempt.attempt_id, attempt.backend, attempt.outcome,
            attempt.seconds, attempt.cost_microusd,
        )  # fmt: skip

    def job_ended(self, job: JobEnd) -> None:
        """See `Hook`."""
        level = logging.INFO if job.outcome in {"done", "detached"} else logging.WARNING
        self._log.log(
            level, "job %s: %s after %.1f s on %s, %d attempts, %s micro-dollars",
            job.job_id, job.outcome, job.seconds, job.backend or "?", job.attempts,
            job.cost_microusd,
        )  # fmt: skip
