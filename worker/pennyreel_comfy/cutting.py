"""Cuts a connection at a deadline or at a cancellation, whatever it does: no read would notice."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Any

from typing_extensions import Self

from pennyreel_comfy.alarms import Alarm, alarms
from pennyreel_comfy.waiting import CancelToken, Deadline

_WEEK_S = 7 * 86_400.0


class Cutter:
    """A context; of the connections that it was told to watch it cuts the last one."""

    def __init__(self, deadline: Deadline, cancel: CancelToken, doing: str) -> None:
        """Keep the limits; `doing` is for the error that names what took too long."""
        self.deadline, self.cancel, self._doing = deadline, cancel, doing
        self._lock = threading.Lock()
        self._socket: Any = None
        self._over = False
        self.has_cut = False
        """Whether it did: what was read then is no whole answer."""
        self._alarm: Alarm | None = None

    def __enter__(self) -> Self:
        """Begin."""
        if self.deadline.seconds is not None:
            self._alarm = alarms.after(self.deadline.left(_WEEK_S), self._cut)
        self.cancel.on_cancel(self._cut)
        return self

    def __exit__(self, *_: object) -> None:
        """End; no connection is cut after it, as another call may use it by then."""
        with self._lock:
            self._over = True
        self.cancel.forget(self._cut)
        if self._alarm is not None:
            alarms.take_back(self._alarm)

    def watch(self, opened: Any) -> bool:
        """Cut this one from now on; return whether there is time left to use it."""
        with self._lock:
            self._socket = opened
        return not (self.cancel.cancelled or self.deadline.expired)

    def check(self) -> None:
        """Raise JobCancelled or JobTimeout if it is time."""
        self.cancel.check()
        if self.deadline.expired:
            raise self.deadline.error(self._doing)

    def _cut(self) -> None:
        with self._lock:
            if self._socket is None or self._over:
                return
            self.has_cut = True
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
