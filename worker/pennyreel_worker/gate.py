"""The one place on the GPU: jobs pass one at a time, in the order in which they are prepared."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from pennyreel_comfy.waiting import CancelToken, Deadline

_LOOK_S = 1.0


class Turn:
    """One job's turn. Leaving early (its work is done, its answer is not read) lets the next in."""

    def __init__(self, gate: Gate) -> None:
        """Belong to a gate; `Gate.turn` makes one."""
        self._gate = gate

    def leave(self) -> None:
        """Let the next one in. The second call does nothing."""
        self._gate.leave(self)

    def retake(self, deadline: Deadline, cancel: CancelToken) -> None:
        """Have the turn again, after the others; at once where it was not left."""
        self._gate.enter(self, deadline, cancel)


class Gate:
    """A fair lock with a deadline and a cancel token."""

    def __init__(self) -> None:
        """Begin open."""
        self._changed = threading.Condition()
        self._inside: Turn | None = None
        self._queue: deque[Turn] = deque()

    @contextmanager
    def turn(self, deadline: Deadline, cancel: CancelToken) -> Iterator[Turn]:
        """Wait for the turn, and leave at the end, if not before.

        Raises:
            JobCancelled, JobTimeout: while waiting.

        """
        turn = Turn(self)
        self.enter(turn, deadline, cancel)
        try:
            yield turn
        finally:
            turn.leave()

    def enter(self, turn: Turn, deadline: Deadline, cancel: CancelToken) -> None:
        """Wait until this turn is the one inside."""
        with self._changed:
            if self._inside is turn:
                return
            self._queue.append(turn)
            cancel.on_cancel(self._wake)
            try:
                while self._inside is not None or self._queue[0] is not turn:
                    cancel.check()
                    if deadline.expired:
                        raise deadline.error("waiting for the GPU")
                    self._changed.wait(deadline.left(_LOOK_S))
                self._inside = turn
            finally:
                self._queue.remove(turn)
                self._changed.notify_all()
                cancel.forget(self._wake)

    def leave(self, turn: Turn) -> None:
        """Let the next one in, if this turn is inside."""
        with self._changed:
            if self._inside is turn:
                self._inside = None
                self._changed.notify_all()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
