"""Follows a prediction to its end, and stops it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import requests

from pennyreel._http import MAX_PAUSE_S
from pennyreel.backends import _replicate_results as results
from pennyreel.backends._replicate_api import ReplicateApi, Unknown
from pennyreel.backends.base import OnEvent
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Handle, Progressed, Queued, Started
from pennyreel_comfy.waiting import CancelToken, Deadline

POLL_S = (0.5, 5.0)
"""The pause between two looks grows from the one to the other."""

DOWN_GRACE_S = 90.0
GONE_LOOKS = 3
CONFIRM_S = 20.0


@dataclass(frozen=True)
class Account:
    """Whom to ask, and how patiently."""

    api: ReplicateApi
    down_grace_s: float = DOWN_GRACE_S
    """How long the API may be unreachable in mid-job before we stop looking."""
    confirm_s: float = CONFIRM_S
    """How long a cancel may stay unconfirmed."""

    def look(self, identity: str) -> dict[str, Any]:
        """One look at a prediction; see `ReplicateApi.prediction`."""
        return self.api.prediction(quote(identity, safe=""))

    def stop(self, identity: str) -> dict[str, Any] | None:
        """Cancel a prediction and return it as it ended; None: not confirmed in time."""
        limit, wait, told = Deadline(self.confirm_s), POLL_S[0], False
        while not limit.expired:
            try:
                if not told:
                    self.api.cancel(quote(identity, safe=""))
                    told = True
                seen = self.look(identity)
                if seen["status"] in results.FINAL:
                    return seen
            except (requests.RequestException, PennyreelError, Unknown):
                told = False
            time.sleep(min(wait, limit.left()))
            wait = min(POLL_S[1], wait * 1.3)
        return None


class Follower:
    """Follows one prediction to its end."""

    def __init__(
        self,
        account: Account,
        handle: Handle,
        on_event: OnEvent,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> None:
        self._account, self._handle, self._tell = account, handle, on_event
        self._deadline, self._cancel = deadline, cancel
        self._wake = threading.Event()
        self._stage = ""
        self._shown: tuple[int, int, int] | None = None
        self._down_since: float | None = None
        self._gone = 0

    def run(self) -> dict[str, Any]:
        """Look, tell, wait, again; return the prediction as it ended."""
        self._cancel.on_cancel(self._wake.set)
        wait, longest = POLL_S
        try:
            while True:
                if self._cancel.cancelled or self._deadline.expired:
                    return self._stop()
                seen, asked = self._look()
                if seen is not None:
                    if seen["status"] in results.FINAL:
                        return seen
                    self._report(seen)
                self._wake.wait(self._deadline.left(max(wait, asked)))
                wait = min(longest, wait * 1.3)
        finally:
            self._cancel.forget(self._wake.set)

    def _stop(self) -> dict[str, Any]:
        """Stop it, and say whether that is certain.

        One that was faster than its deadline's cancel is done, and paid for: it counts.
        """
        ended = self._account.stop(self._handle.remote_id)
        detail = {
            "confirmed_stopped": ended is not None,
            "handle": str(self._handle),
            "gpu_seconds": None if ended is None else results.predict_time(ended),
        }
        note = "" if ended is not None else "; Replicate did not confirm that it stopped"
        if self._cancel.cancelled:
            raise error(Code.CANCELLED, f"the job was cancelled{note}", detail=detail)
        if ended is not None and ended["status"] in {"succeeded", "failed"}:
            return ended
        raise error(Code.TIMEOUT, f"{self._deadline.error('the job')}{note}", detail=detail)

    def _look(self) -> tuple[dict[str, Any] | None, float]:
        """Return the prediction, or None and how long to wait at least before the next look."""
        try:
            seen = self._account.look(self._handle.remote_id)
        except Unknown:
            self._gone += 1  # one just made may not be everywhere at once
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
        if now - self._down_since > self._account.down_grace_s:
            raise error(
                Code.UNKNOWN_OUTCOME,
                f"Replicate has not answered for {self._account.down_grace_s:g} s "
                f"({type(problem).__name__}); the job may go on",
                hint=f"Look again within the hour: pennyreel result '{self._handle}'",
                detail={"handle": str(self._handle)},
            ) from None

    def _forgotten(self) -> PennyreelError:
        return error(
            Code.UNKNOWN_OUTCOME,
            f"Replicate knows no prediction {self._handle.remote_id} for this token",
            hint="Use the token of the account that made it.",
            detail={"handle": str(self._handle)},
        )

    def _report(self, seen: dict[str, Any]) -> None:
        """Tell what is new. A status that we do not know means that the job still runs."""
        stage = "queued" if seen["status"] == "starting" else "running"
        if stage != self._stage:
            self._stage = stage
            self._tell(Queued() if stage == "queued" else Started())
        shown = results.progress(seen)
        if stage == "running" and shown is not None and shown != self._shown:
            self._shown = shown
            percent, step, steps = shown
            self._tell(Progressed(float(percent), "executing", step=step, steps=steps))
