"""What a backend answers, as the machine hears it: one table from exceptions to events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

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


def of_follow(problem: Exception, n: int, call: int, at: float, jitter: float) -> Event:
    """Hear a follower's exception. The job was accepted: what is not its end is silence."""
    told = trouble(problem)
    if isinstance(problem, (JobCancelled, JobTimeout)):
        return Stopped(n, call, _confirmed(problem), told, at, jitter)
    if isinstance(problem, (JobFailed, BadRequest)) or _of_the_worker(problem):
        return Failed(n, call, told, at)
    return Gone(n, call, told, at, jitter)


def of_fetch(problem: Exception, n: int, call: int, at: float, jitter: float) -> Event:
    """Hear that files could not be fetched."""
    return FetchFailed(n, call, trouble(problem), at, jitter)


def _of_the_worker(problem: Exception) -> bool:
    """Whether a worker told it as its job's end: its codes may be of any class."""
    if not isinstance(problem, PennyreelError):
        return False
    return problem.code == Code.COMFY_START_FAILED.value or "worker_id" in problem.info.detail


def _confirmed(problem: PennyreelError) -> bool:
    return problem.info.detail.get("confirmed_stopped") is True
