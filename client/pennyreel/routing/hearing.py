"""What a backend answers, as the machine hears it: one table from exceptions to events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeGuard

from pennyreel.errors import (
    BadRequest,
    Code,
    JobCancelled,
    JobFailed,
    JobTimeout,
    PennyreelError,
    SetupNeeded,
    Unavailable,
)
from pennyreel.need import Unit, Usage
from pennyreel.routing.machine import (
    Event,
    Failed,
    FetchFailed,
    Gone,
    Lost,
    NotAccepted,
    Stopped,
    Trouble,
)
from pennyreel_comfy.echoes import HIDDEN, unquoted

_NOTHING_RUNS = (BadRequest, SetupNeeded, Unavailable)
_BEFORE = frozenset({Code.INPUT_UNREACHABLE.value})
"""What fails while the inputs are gathered, before the call."""


def trouble(problem: Exception) -> Trouble:
    """Return what an exception says; a foreign one's words may quote what they should not."""
    if not isinstance(problem, PennyreelError):
        told = f"unforeseen: {type(problem).__name__}"
        return Trouble(Code.INTERNAL.value, told, "Please report this.", retryable=True)
    info = problem.info
    after = info.detail.get("retry_after_s")
    return Trouble(
        info.code,
        info.message,
        info.hint,
        info.retryable,
        float(after) if isinstance(after, (int, float)) else None,
    )


def discreet(event: Event, secrets: Sequence[str]) -> Event:
    """Return it without what its words quote of the addresses that the backend was given."""
    told: Trouble | None = getattr(event, "trouble", None)
    if not secrets or told is None:
        return event
    text, hint = (unquoted(said, secrets, HIDDEN.decode()) for said in (told.text, told.hint))
    heard: Any = event
    changed: Event = replace(heard, trouble=replace(told, text=text, hint=hint))
    return changed


def of_submit(problem: Exception, n: int, call: int, at: float, jitter: float) -> Event:
    """Hear a submit's exception. What is not certainly "nothing runs" is lost."""
    unsent = isinstance(problem, JobTimeout) and _confirmed(problem)
    unsent = unsent or (isinstance(problem, PennyreelError) and problem.code in _BEFORE)
    if isinstance(problem, _NOTHING_RUNS) or unsent:
        return NotAccepted(n, call, trouble(problem), at, jitter)
    return Lost(n, call, trouble(problem), at, jitter)


def of_follow(
    problem: Exception, n: int, call: int, at: float, jitter: float, billed: int | None = None
) -> Event:
    """Hear a follower's exception. The job was accepted: what is not its end is silence.

    `billed`: micro-dollars, where the backend has told what it billed for that end.
    """
    told = trouble(problem)
    if isinstance(problem, (JobCancelled, JobTimeout)):
        return Stopped(n, call, _confirmed(problem), told, at, jitter, billed)
    if isinstance(problem, (JobFailed, BadRequest)) or _of_the_worker(problem):
        return Failed(n, call, told, at, billed)
    return Gone(n, call, told, at, jitter)


def usage_of(problem: Exception, before: Usage) -> Usage | None:
    """Return what a job that failed, or was stopped, was billed for; None: nobody has told.

    Backends that bill GPU seconds tell them in the error's detail: `gpu_seconds`, and
    `queue_seconds` where a wait tells whether the worker had to start first.
    """
    detail = problem.info.detail if isinstance(problem, PennyreelError) else {}
    seconds, waited = detail.get("gpu_seconds"), detail.get("queue_seconds")
    if before.unit is not Unit.GPU_SECOND or not _sound(seconds):
        return None
    startup = min(before.startup_s, waited) if _sound(waited) else before.startup_s
    return replace(before, amount=seconds, startup_s=startup)


def of_fetch(problem: Exception, n: int, call: int, at: float, jitter: float) -> Event:
    """Hear that files could not be fetched."""
    return FetchFailed(n, call, trouble(problem), at, jitter)


def _of_the_worker(problem: Exception) -> bool:
    """Whether a worker told it as its job's end: its codes may be of any class."""
    if not isinstance(problem, PennyreelError):
        return False
    return problem.code == Code.COMFY_START_FAILED.value or "worker_id" in problem.info.detail


def _sound(seconds: object) -> TypeGuard[float]:
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return False
    return math.isfinite(seconds) and seconds >= 0


def _confirmed(problem: PennyreelError) -> bool:
    return problem.info.detail.get("confirmed_stopped") is True
