"""What a job's readers see of it: its events from the beginning, and the seconds of each stage."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from pennyreel import types
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.heard import keep
from pennyreel.types import JobEvent

TICK_S = 0.5
"""Waits are bounded, so that Ctrl-C works on Windows."""

_LAST = (types.Finished, types.Detached)


class Chronicle:
    """Thread-safe. Written by who follows the job, read by any number, each from the start."""

    def __init__(self, *first: JobEvent, began: float | None = None) -> None:
        """Begin with what is known; `began` is a time of `time.monotonic`."""
        self.changed = threading.Condition()
        self._events = list(first)
        self._began = time.monotonic() if began is None else began
        self._started: float | None = None
        self._executed: float | None = None

    def tell(self, event: JobEvent) -> None:
        """Add an event."""
        with self.changed:
            if isinstance(event, types.Started):
                self._started = time.monotonic()
            keep(self._events, event)
            self.changed.notify_all()

    def read(self) -> Iterator[JobEvent]:
        """Yield what happens, from the beginning, until Finished or Detached."""
        seen = 0
        while True:
            with self.changed:
                while len(self._events) == seen:
                    self.changed.wait(TICK_S)
                fresh = self._events[seen:]
            seen += len(fresh)
            yield from fresh
            if isinstance(fresh[-1], _LAST):
                return

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was warned of, each once."""
        with self.changed:
            told = [e.text for e in self._events if isinstance(e, types.Warned)]
        return tuple(dict.fromkeys(told))

    def executed(self) -> None:
        """Note that its result is told, and its files are not here."""
        self._executed = self._executed or time.monotonic()

    def timings(self) -> dict[str, float]:
        """Return seconds by stage, of several attempts the last one's; they add up to the total."""
        now = time.monotonic()
        executed = self._executed or now
        started = min(self._started or executed, executed)
        stages = {
            "queue": started - self._began,
            "execute": executed - started,
            "fetch": now - executed,
            "total": now - self._began,
        }
        return {name: round(seconds, 3) for name, seconds in stages.items()}


def let_go(job_id: str) -> PennyreelError:
    """Return what is raised to who waits for a job that was let go."""
    return error(
        Code.BAD_REQUEST,
        f"job {job_id} was let go: it goes on, and this client does not wait for it",
        hint=f"Wait for it: pennyreel result {job_id}",
    )
