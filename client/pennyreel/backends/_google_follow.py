"""Following a job at Google: look, tell, wait, again; polling decides, there are no events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pennyreel.backends._google_api import Gone
from pennyreel.backends.base import OnEvent
from pennyreel.backends.polling import DOWN_GRACE_S, Polled, poll
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Handle, Queued, Started
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result

POLL_S = (1.0, 8.0)
"""The pause between two looks grows from the one to the other; a clip takes a minute or more."""


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
        self._stage = ""

    def run(self) -> Result:
        """Look, tell, wait, again."""
        by = Polled(
            look=lambda: self._by.look(self._handle.remote_id),
            ended=lambda seen: seen.stage == "ended",
            report=lambda seen: self._report(seen.stage),
            stop=self._stop,
            lost=self._forgotten,
            silent=self._silent,
            gone=Gone,
            poll_s=self._by.poll_s,
            down_grace_s=self._by.down_grace_s,
            growth=1.5,
        )
        return self._by.outcome(poll(by, self._deadline, self._cancel).body, self._handle)

    def _stop(self) -> Look:
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
            self._by.outcome(last.body, self._handle)
        except PennyreelError as ended:
            if ended.code == Code.CANCELLED.value:
                raise late from None
        return last

    def _silent(self, problem: Exception) -> PennyreelError:
        return error(
            Code.UNKNOWN_OUTCOME,
            f"{self._by.service} has not answered for {self._by.down_grace_s:g} s "
            f"({type(problem).__name__}); the job may go on",
            hint=f"Look again later: pennyreel result '{self._handle}'",
            detail={"handle": str(self._handle)},
        )

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
