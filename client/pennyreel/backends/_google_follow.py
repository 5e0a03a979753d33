"""Following a job at Google: look, tell, wait, again; polling decides, there are no events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from pennyreel._http import MAX_PAUSE_S
from pennyreel.backends._google_api import Gone
from pennyreel.backends.base import OnEvent
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Handle, Queued, Started
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result

POLL_S = (1.0, 8.0)
"""The pause between two looks grows from the one to the other; a clip takes a minute or more."""

DOWN_GRACE_S = 90.0
"""How long Google may be unreachable in mid-job before we stop looking."""

GONE_LOOKS = 3
"""So many 404s in a row mean that a job is gone; a fresh job may not be everywhere at once."""


@dataclass(frozen=True)
class Look:
    """One look at a job."""

    stage: str
    """queued, running, or ended."""
    body: Mapping[str, Any]


@dataclass(frozen=True)
class Following:
    """What a backend gives for its job to be followed."""

    service: str
    look: Callable[[str], Look]
    """As `GoogleApi.read` raises."""
    outcome: Callable[[Mapping[str, Any], Handle], Result]
    """Of a job that has ended: its result, or what it raises."""
    stop: Callable[[str], Look | None]
    """End a job: its last look; None where it is not known to have stopped."""
    goes_on: str
    """What to say of a job that is not known to have stopped."""
    poll_s: tuple[float, float] = POLL_S
    down_grace_s: float = DOWN_GRACE_S


def follow(
    by: Following, handle: Handle, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
) -> Result:
    """Wait for the job's end; see `Backend.follow`."""
    return _Follower(by, handle, on_event, deadline, cancel).run()


class _Follower:
    """Follows one job to its end."""

    def __init__(
        self,
        by: Following,
        handle: Handle,
        on_event: OnEvent,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> None:
        self._by, self._handle, self._tell = by, handle, on_event
        self._deadline, self._cancel = deadline, cancel
        self._wake = threading.Event()
        self._stage = ""
        self._down_since: float | None = None
        self._gone = 0

    def run(self) -> Result:
        """Look, tell, wait, again."""
        self._cancel.on_cancel(self._wake.set)
        pause, longest = self._by.poll_s
        try:
            while True:
                if self._cancel.cancelled or self._deadline.expired:
                    return self._stop()
                seen, asked = self._look()
                if seen is not None:
                    if seen.stage == "ended":
                        return self._by.outcome(seen.body, self._handle)
                    self._report(seen.stage)
                self._wake.wait(self._deadline.left(max(pause, asked)))
                pause = min(longest, pause * 1.5)
        finally:
            self._cancel.forget(self._wake.set)

    def _stop(self) -> Result:
        """Stop the job, and say whether that is certain.

        One that was faster than its deadline is done, and paid for: it counts.
        """
        last = self._by.stop(self._handle.remote_id)
        detail = {"confirmed_stopped": last is not None, "handle": str(self._handle)}
        note = "" if last is not None else f"; {self._by.goes_on}"
        hint = None if last is not None else f"Look later: pennyreel result '{self._handle}'"
        if self._cancel.cancelled:
            raise error(Code.CANCELLED, f"the job was cancelled{note}", hint=hint, detail=detail)
        problem = self._deadline.error("the job")
        late = error(Code.TIMEOUT, f"{problem}{note}", hint=hint, detail=detail)
        if last is None:
            raise late
        try:
            return self._by.outcome(last.body, self._handle)
        except PennyreelError as ended:
            if ended.code != Code.CANCELLED.value:
                raise
            raise late from None

    def _look(self) -> tuple[Look | None, float]:
        """Return what is seen, or None and how long to wait at least before the next look."""
        try:
            seen = self._by.look(self._handle.remote_id)
        except Gone:
            self._gone += 1
            if self._gone >= GONE_LOOKS:
                raise self._forgotten() from None
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
            raise error(
                Code.UNKNOWN_OUTCOME,
                f"{self._by.service} has not answered for {self._by.down_grace_s:g} s "
                f"({type(problem).__name__}); the job may go on",
                hint=f"Look again later: pennyreel result '{self._handle}'",
                detail={"handle": str(self._handle)},
            ) from None

    def _forgotten(self) -> PennyreelError:
        return error(
            Code.RESULT_EXPIRED,
            f"{self._by.service} does not know this job (any more)",
            hint="Use the key of the account that submitted it; results are kept for a while only.",
            detail={"handle": str(self._handle)},
        )

    def _report(self, stage: str) -> None:
        if stage != self._stage:
            self._stage = stage
            self._tell(Queued() if stage == "queued" else Started())
