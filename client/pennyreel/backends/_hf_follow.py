"""Follows one job at a provider to its end, by looks that cost nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import requests

from pennyreel._http import MAX_PAUSE_S
from pennyreel.backends._hf_api import JobGone, NotAllowed
from pennyreel.backends._hf_words import Ask, Provider, Seen
from pennyreel.backends.base import OnEvent
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Handle, Queued, Started
from pennyreel_comfy.waiting import CancelToken, Deadline

POLL_S = (0.5, 5.0)
"""The pause between two looks grows from the one to the other."""

DOWN_GRACE_S = 90.0
"""How long there may be no answer in mid-job before we stop looking."""

GONE_LOOKS = 3
"""So many 404s in a row mean that a job is gone; a fresh job may not be everywhere at once."""

CONFIRM_S = 20.0
"""How long a cancel is waited for."""


class Follower:
    """One job."""

    def __init__(
        self,
        handle: Handle,
        provider: Provider,
        name: str,
        job: str,
        ask: Ask,
    ) -> None:
        """Keep what it takes; nothing is sent. `name` is the provider's, `job` its id there."""
        self._handle = handle
        self._provider = provider
        self._name = name
        self._job = job
        self._ask = ask
        self._down_since: float | None = None
        self._gone = 0
        self._stage = ""

    def run(self, tell: OnEvent, deadline: Deadline, cancel: CancelToken) -> Seen:
        """Look, tell, wait, again; return its end."""
        wake = threading.Event()
        cancel.on_cancel(wake.set)
        pause, longest = POLL_S
        try:
            while True:
                if cancel.cancelled or deadline.expired:
                    return self._stopped(deadline, cancel)
                seen, asked = self._look()
                if seen is not None and seen.state in {"done", "failed"}:
                    return seen
                if seen is not None:
                    self._report(seen.state, tell)
                wake.wait(deadline.left(max(pause, asked)))
                pause = min(longest, pause * 1.3)
        finally:
            cancel.forget(wake.set)

    def stop(self) -> Seen | None:
        """Cancel it where that can be asked; return its end, or None where that is not certain."""
        if self._provider.cancels and not self._told_to_end():
            return self._end()
        limit, pause = Deadline(CONFIRM_S), POLL_S[0]
        self._gone = 0
        while True:
            ended = self._end()
            if ended is not None or not self._provider.cancels or limit.expired:
                return ended
            time.sleep(min(pause, limit.left()))
            pause = min(POLL_S[1], pause * 1.3)

    def _told_to_end(self) -> bool:
        """Ask for its end; return whether it may have been heard."""
        try:
            self._provider.cancel(self._ask, self._job)
        except NotAllowed:
            return False
        except (JobGone, requests.RequestException, PennyreelError):
            return True  # looking tells
        return True

    def _end(self) -> Seen | None:
        """Return its end if it has one. A job that is gone for certain was cancelled."""
        try:
            seen = self._provider.look(self._ask, self._job)
        except JobGone:
            self._gone += 1
            gone = self._gone >= GONE_LOOKS and not self._provider.hides
            return Seen("failed", why="it was cancelled") if gone else None
        except (NotAllowed, requests.RequestException, PennyreelError):
            return None
        self._gone = 0
        return seen if seen.state in {"done", "failed"} else None

    def _stopped(self, deadline: Deadline, cancel: CancelToken) -> Seen:
        """Stop it, and say whether that is certain. One that is done is paid for: it counts."""
        ended = self.stop()
        detail = {"confirmed_stopped": ended is not None, "handle": str(self._handle)}
        note = "" if ended is not None else f"; {self._name} did not confirm that it stopped"
        if cancel.cancelled:
            raise error(Code.CANCELLED, f"the job was cancelled{note}", detail=detail)
        if ended is not None and ended.state == "done":
            return ended
        raise error(Code.TIMEOUT, f"{deadline.error('the job')}{note}", detail=detail)

    def _look(self) -> tuple[Seen | None, float]:
        """Return how it is, or None and how long to wait at least before the next look."""
        try:
            seen = self._provider.look(self._ask, self._job)
        except JobGone:
            self._gone += 1
            if self._gone >= GONE_LOOKS:
                raise self._lost() from None
            return None, 0.0
        except NotAllowed:
            raise self._unknown("it cannot be looked at through Hugging Face") from None
        except requests.RequestException as problem:
            self._tolerate(type(problem).__name__)
            return None, 0.0
        except PennyreelError as problem:
            if problem.code in {Code.UNAUTHORIZED.value, Code.NOT_CONFIGURED.value}:
                raise self._unknown(str(problem), problem.hint) from None
            self._tolerate(str(problem))
            asked = problem.info.detail.get("retry_after_s")
            return None, min(MAX_PAUSE_S, asked) if isinstance(asked, (int, float)) else 0.0
        self._gone, self._down_since = 0, None
        return seen, 0.0

    def _tolerate(self, why: str) -> None:
        now = time.monotonic()
        self._down_since = self._down_since or now
        if now - self._down_since > DOWN_GRACE_S:
            raise self._unknown(f"no answer for {DOWN_GRACE_S:g} s: {why}")

    def _lost(self) -> PennyreelError:
        if self._provider.hides:
            return self._unknown("it cannot be looked at through Hugging Face")
        return error(
            Code.RESULT_EXPIRED,
            f"{self._name} no longer knows this job; it may have been billed",
            detail={"handle": str(self._handle)},
        )

    def _unknown(self, why: str, hint: str = "") -> PennyreelError:
        again = f"Look again later: pennyreel result '{self._handle}'"
        return error(
            Code.UNKNOWN_OUTCOME,
            f"the job at {self._name} may go on: {why}",
            hint=f"{hint} {again}".strip(),
            detail={"handle": str(self._handle)},
        )

    def _report(self, state: str, tell: OnEvent) -> None:
        """Tell what is new. A status that we do not know means that the job runs."""
        events: dict[str, Callable[[], Queued | Started]] = {"queued": Queued, "running": Started}
        if state != self._stage:
            self._stage = state
            tell(events[state]())
