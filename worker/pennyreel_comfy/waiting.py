"""How this project waits: one deadline for a whole job, and a token that cancels it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TypeVar

from pennyreel_contract import Code, PennyreelError, error

T = TypeVar("T")


class Deadline:
    """A moment in monotonic time, or never (`seconds=None`)."""

    def __init__(self, seconds: float | None) -> None:
        """Begin counting now; `seconds` is what the error message will name."""
        self.seconds = seconds
        self._at = None if seconds is None else time.monotonic() + seconds

    def left(self, most: float = 3600.0) -> float:
        """Seconds left, never negative, at most `most`."""
        if self._at is None:
            return most
        return max(0.0, min(most, self._at - time.monotonic()))

    @property
    def expired(self) -> bool:
        """Whether the moment has passed."""
        return self._at is not None and time.monotonic() >= self._at

    def error(self, doing: str) -> PennyreelError:
        """Return the timeout error that names what was being done."""
        return error(
            Code.TIMEOUT, f"{doing} took longer than the {self.seconds:g} s this job was given"
        )


class CancelToken:
    """Says once, to every thread that looks, that a job is no longer wanted.

    A cancelled asyncio task does not stop the thread it waits for; this does.
    """

    def __init__(self) -> None:
        """Begin uncancelled."""
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Cancel; the second call does nothing."""
        with self._lock:
            if self._event.is_set():
                return
            self._event.set()
            callbacks, self._callbacks = self._callbacks, []
        with ExitStack() as calls:  # each is called, whatever another one raises
            for callback in reversed(callbacks):
                calls.callback(callback)

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` at cancellation, in the cancelling thread; at once if it has passed."""
        with self._lock:
            if not self._event.is_set():
                self._callbacks.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Take `callback` back."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def check(self) -> None:
        """Raise JobCancelled if cancelled."""
        if self.cancelled:
            raise error(Code.CANCELLED, "the job was cancelled")


def awaited(doing: str, call: Callable[[], T], deadline: Deadline, cancel: CancelToken) -> T:
    """Make a call that cannot be cut, in a thread of its own; return what it returns.

    The thread is left behind when the job has no more time: it ends by the call's own limits.

    Args:
        doing: for the error that names what took too long.
        call: what it raises is raised here.
        deadline: until when it is waited for.
        cancel: ends the wait at once.

    Raises:
        JobTimeout, JobCancelled: as named.

    """
    cancel.check()
    if deadline.expired:
        raise deadline.error(doing)
    outcome: Future[T] = Future()
    news = threading.Event()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as problem:  # noqa: BLE001 - the caller's, like the result
            outcome.set_exception(problem)
        finally:
            news.set()

    cancel.on_cancel(news.set)
    try:
        threading.Thread(target=work, daemon=True, name="awaited").start()
        while not outcome.done() and not cancel.cancelled and not deadline.expired:
            news.wait(deadline.left(60.0))
    finally:
        cancel.forget(news.set)
    if not outcome.done():
        cancel.check()
        raise deadline.error(doing)
    return outcome.result()
