"""Calls back at given moments, all from one thread: a `threading.Timer` would be a thread each.

Every call to a server has an end, and nearly every call is over long before it: starting and ending
a thread for it would cost more than the rest of what is done for the call.
"""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_log = logging.getLogger(__name__)

_DEAD = 64
"""So many that were taken back may lie among those to come, or as many as these are."""


@dataclass(order=True)
class Alarm:
    """One call to come."""

    at: float
    callback: Callable[[], None] | None = field(compare=False)


class Alarms:
    """Any number of calls to come. Callbacks are short: while one runs the others wait."""

    def __init__(self) -> None:
        """Begin with none; the thread starts with the first."""
        self._changed = threading.Condition()
        self._coming: list[Alarm] = []
        self._dead = 0
        self._thread: threading.Thread | None = None

    def after(self, seconds: float, callback: Callable[[], None]) -> Alarm:
        """Call `callback` when so many seconds have passed, unless it is taken back before."""
        alarm = Alarm(time.monotonic() + seconds, callback)
        with self._changed:
            heapq.heappush(self._coming, alarm)
            if self._thread is None or not self._thread.is_alive():  # not in a forked child
                self._thread = threading.Thread(target=self._run, name="alarms", daemon=True)
                self._thread.start()
            elif self._coming[0] is alarm:
                self._changed.notify()
        return alarm

    def take_back(self, alarm: Alarm) -> None:
        """See to it that it does not begin to be called after this."""
        with self._changed:
            if alarm.callback is None:
                return
            alarm.callback = None
            self._dead += 1
            if self._dead > max(_DEAD, len(self._coming) // 2):
                self._coming = [a for a in self._coming if a.callback is not None]
                heapq.heapify(self._coming)
                self._dead = 0

    def _run(self) -> None:
        while True:
            callback = self._next()
            try:
                callback()
            except Exception:  # noqa: BLE001 - the others' calls have to come all the same
                _log.exception("what was to be done at its time failed")

    def _next(self) -> Callable[[], None]:
        """Wait for the next one whose time has come."""
        with self._changed:
            while True:
                if not self._coming:
                    self._changed.wait()
                    continue
                first = self._coming[0]
                left = first.at - time.monotonic()
                if first.callback is not None and left > 0:
                    self._changed.wait(min(left, threading.TIMEOUT_MAX))
                    continue
                heapq.heappop(self._coming)
                callback, first.callback = first.callback, None
                if callback is not None:
                    return callback
                self._dead -= 1


alarms = Alarms()
"""Those of this process."""
