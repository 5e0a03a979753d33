"""Looks at a remote job until it has ended: the one loop of all backends that are polled.

What a look means, how the job is stopped and what is told of a job that is lost are the backend's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import requests

from pennyreel._http import MAX_PAUSE_S, within
from pennyreel.errors import PennyreelError
from pennyreel_comfy.waiting import CancelToken, Deadline

DOWN_GRACE_S = 90.0
"""How long an API may be unreachable in mid-job before we stop looking."""

GONE_LOOKS = 3
"""So many 404s in a row mean that a job is gone; a fresh job may not be everywhere at once."""

Seen = TypeVar("Seen")


@dataclass(frozen=True)
class Polled(Generic[Seen]):
    """What a backend gives for its job to be polled.

    Attributes:
        look: one look at the job; free. It raises `gone` where the API does not know it.
        ended: whether what is seen is the end.
        report: tells the listener what is new.
        stop: stops the job, cancelled or late, and returns its end or raises how it ended.
        lost: the error of a job that is gone for good.
        silent: the error of an API that has not answered for so long, and why.
        gone: what `look` raises of a job that is not known.
        poll_s: the pause between two looks grows from the one to the other.

    """

    look: Callable[[], Seen]
    ended: Callable[[Seen], bool]
    report: Callable[[Seen], None]
    stop: Callable[[], Seen]
    lost: Callable[[], PennyreelError]
    silent: Callable[[Exception], PennyreelError]
    gone: type[Exception]
    poll_s: tuple[float, float]
    down_grace_s: float = DOWN_GRACE_S
    growth: float = 1.3


def poll(by: Polled[Seen], deadline: Deadline, cancel: CancelToken) -> Seen:
    """Look, tell, wait, again; return what the job ended with."""
    wake = threading.Event()
    patience = _Patience(by, deadline, cancel)
    cancel.on_cancel(wake.set)
    pause, longest = by.poll_s
    try:
        while True:
            if cancel.cancelled or deadline.expired:
                return by.stop()
            seen, asked = patience.look()
            if seen is not None:
                if by.ended(seen):
                    return seen
                by.report(seen)
            wake.wait(deadline.left(max(pause, asked)))
            pause = min(longest, pause * by.growth)
    finally:
        cancel.forget(wake.set)


class _Patience(Generic[Seen]):
    """Looks, and bears an API that is away for a while."""

    def __init__(self, by: Polled[Seen], deadline: Deadline, cancel: CancelToken) -> None:
        self._by, self._deadline, self._cancel = by, deadline, cancel
        self._down_since: float | None = None
        self._gone = 0

    def look(self) -> tuple[Seen | None, float]:
        """Return what is seen, or None and how long to wait at least before the next look."""
        try:
            with within(self._deadline, self._cancel):  # it is cut then, however slowly it comes
                seen = self._by.look()
        except self._by.gone:
            self._gone += 1
            if self._gone >= GONE_LOOKS:
                raise self._by.lost() from None
            return None, 0.0
        except requests.RequestException as problem:
            self._tolerate(problem)
            return None, 0.0
        except PennyreelError as problem:
            if not problem.retryable:
                raise
            self._tolerate(problem)
            asked = problem.info.detail.get("retry_after_s")
            return None, min(MAX_PAUSE_S, asked) if isinstance(asked, (int, float)) else 0.0
        self._gone, self._down_since = 0, None
        return seen, 0.0

    def _tolerate(self, problem: Exception) -> None:
        now = time.monotonic()
        self._down_since = self._down_since or now
        if now - self._down_since > self._by.down_grace_s:
            raise self._by.silent(problem) from None
