"""One thread that follows one accepted attempt to its end, and can be told to stop it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from pennyreel.backends.base import Backend
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.routing import hearing
from pennyreel.routing.machine import (
    Event,
    Failed,
    Follow,
    Gone,
    Queued,
    Started,
    Stopped,
    Succeeded,
)
from pennyreel.routing.ports import Clock
from pennyreel.types import Handle, JobEvent
from pennyreel.types import Queued as NowQueued
from pennyreel.types import Started as NowStarted
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result

LOOK_S = 20.0
"""How long the look may take at what a cancelled job came to."""


class Leave(BaseException):
    """Raised in who follows, through whatever a backend catches: the job is left to itself."""


class LeaveToken(CancelToken):
    """Ends the following of a job: `cancel` stops the job, too, and `leave` does not."""

    _left = False

    def leave(self) -> None:
        """Wake whoever waits, and raise `Leave` in him as soon as he looks."""
        self._left = True
        self.cancel()

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called; raises `Leave` where it was `leave`."""
        if self._left:
            raise Leave
        return super().cancelled


class Follower:
    """Posts Queued and Started, and in the end exactly one answer to its `Follow`."""

    def __init__(
        self,
        effect: Follow,
        backend: Backend,
        clock: Clock,
        *,
        post: Callable[[Event], None],
        hear: Callable[[JobEvent], None],
        bill: Callable[[Result], int | None],
        spent: Callable[[Exception], int | None],
    ) -> None:
        """Begin to follow. `bill` and `spent` price a result, and what an error tells."""
        self._effect, self._backend, self._clock = effect, backend, clock
        self._post, self._hear, self._bill, self._spent = post, hear, bill, spent
        self._token = LeaveToken()
        self.handle = Handle.parse(effect.handle)
        self._result: Result | None = None
        self.thread = threading.Thread(
            target=self._run, name=f"pennyreel-follow-{self.handle.attempt_id[:8]}", daemon=True
        )
        self.thread.start()

    def stop(self) -> None:
        """Cancel the attempt; the answer says whether that is confirmed."""
        self._token.cancel()

    def leave(self) -> None:
        """Follow it no more; it goes on."""
        self._token.leave()

    @property
    def made(self) -> Result:
        """What it made; only after its answer was Succeeded."""
        if self._result is None:
            raise error(Code.OUTPUT_MISSING, "there is no result to fetch")
        return self._result

    def _run(self) -> None:
        left = max(0.0, self._effect.deadline_at - self._clock.now())
        with suppress(Leave):
            answer = self._follow(Deadline(left), self._token)
            asked = self._token.cancelled and isinstance(answer, Stopped)
            self._post(self._look(answer) if asked and isinstance(answer, Stopped) else answer)

    def _look(self, told: Stopped) -> Event:
        """See how it ended: a cancel that is confirmed may have come after the result."""
        if not told.confirmed:
            return told
        seen = self._follow(Deadline(LOOK_S), CancelToken())
        if isinstance(seen, Succeeded):
            return seen
        sure = isinstance(seen, Stopped) and seen.confirmed
        # A job that was removed is not found again.
        gone = isinstance(seen, Failed)
        gone = gone or (isinstance(seen, Gone) and seen.trouble.code == Code.JOB_GONE.value)
        billed = told.billed_microusd
        if isinstance(seen, (Stopped, Failed)) and seen.billed_microusd is not None:
            billed = seen.billed_microusd
        now = self._clock.now()
        return Stopped(told.n, told.call, sure or gone, told.trouble, now, told.jitter, billed)

    def _follow(self, deadline: Deadline, token: CancelToken) -> Event:
        n, call = self._effect.n, self._effect.call
        try:
            made = self._result = self._backend.follow(
                self.handle, on_event=self._on_event, deadline=deadline, cancel=token
            )
            billed = self._priced(lambda: self._bill(made))
            return Succeeded(n, call, self._clock.now(), billed)
        except Exception as failed:  # noqa: BLE001 - whatever it is, the job was accepted
            problem, now, jitter = failed, self._clock.now(), self._clock.jitter()
            billed = self._priced(lambda: self._spent(problem))
            return hearing.of_follow(problem, n, call, now, jitter, billed)

    @staticmethod
    def _priced(bill: Callable[[], int | None]) -> int | None:
        """Return the bill; an end whose bill cannot be read is an end all the same."""
        with suppress(PennyreelError, ArithmeticError):
            return bill()
        return None

    def _on_event(self, event: JobEvent) -> None:
        if isinstance(event, NowQueued):
            self._post(Queued(self._effect.n, self._clock.now()))
        elif isinstance(event, NowStarted):
            self._post(Started(self._effect.n, self._clock.now()))
        self._hear(event)
