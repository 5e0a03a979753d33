"""Follows a job on a RunPod endpoint to its end, and tells what is new."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

from pennyreel.backends import _runpod_results as results
from pennyreel.backends._runpod_api import JobGone
from pennyreel.backends.base import OnEvent
from pennyreel.backends.polling import Polled, poll
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Handle, Health, Progressed, Queued, Started, Warned
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result, parse_progress

POLL_S = (0.25, 1.5)
"""The pause between two looks grows from the one to the other."""

UNSEEN_S = 300.0
"""What was in the queue so lately, and is gone, cannot have run and expired meanwhile."""

FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})


class Endpoint(Protocol):
    """What is asked about a job: `RunPodBackend`."""

    def look(self, job_id: str) -> dict[str, Any]:
        """One look at the job; see `RunPodApi.status`."""

    def stop(self, job_id: str) -> dict[str, Any] | None:
        """Cancel a job and return its final status; None: that is not confirmed."""

    def health(self) -> Health:
        """What costs nothing."""

    def endpoint_exists(self) -> bool:
        """Whether the endpoint answers: tells a forgotten job from a wrong endpoint."""

    @property
    def queue_warn_s(self) -> tuple[float, ...]:
        """After how many seconds in the queue a person is told."""

    @property
    def down_grace_s(self) -> float:
        """How long the API may be unreachable."""


class Follower:
    """Follows one job to its end."""

    def __init__(
        self,
        backend: Endpoint,
        handle: Handle,
        on_event: OnEvent,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> None:
        """Keep them."""
        self._backend = backend
        self._handle = handle
        self._tell = on_event
        self._deadline = deadline
        self._cancel = cancel
        self._began = time.monotonic()
        self._shown: dict[str, Any] = {}
        self._stage = ""
        self._waited_at: float | None = None
        self._warnings_due = list(backend.queue_warn_s)

    def run(self) -> Result:
        """Look, tell, wait, again."""
        by: Polled[dict[str, Any]] = Polled(
            look=lambda: self._backend.look(self._handle.remote_id),
            ended=lambda seen: seen.get("status") in FINAL,
            report=self._report,
            stop=self._stop,
            lost=self._forgotten,
            silent=self._silent,
            gone=JobGone,
            poll_s=POLL_S,
            down_grace_s=self._backend.down_grace_s,
        )
        ended = poll(by, self._deadline, self._cancel)
        return results.outcome(ended, self._handle.attempt_id)

    def _stop(self) -> dict[str, Any]:
        """Stop the job, and say whether that is certain.

        One that was faster than its deadline's cancel is done, and paid for: it counts.
        """
        ended = self._backend.stop(self._handle.remote_id)
        detail = {
            "confirmed_stopped": ended is not None,
            "handle": str(self._handle),
            **results.spent(ended),
        }
        note = "" if ended is not None else "; RunPod did not confirm that it stopped"
        if self._cancel.cancelled:
            raise error(Code.CANCELLED, f"the job was cancelled{note}", detail=detail)
        if ended and ended.get("status") == "COMPLETED":
            return ended
        problem = self._deadline.error("the job")
        raise error(Code.TIMEOUT, f"{problem}{note}", detail=detail)

    def _silent(self, problem: Exception) -> PennyreelError:
        return error(
            Code.UNKNOWN_OUTCOME,
            f"RunPod has not answered for {self._backend.down_grace_s:g} s "
            f"({type(problem).__name__}); the job may go on",
            hint=f"Look again later: pennyreel result '{self._handle}'",
            detail={"handle": str(self._handle)},
        )

    def _forgotten(self) -> PennyreelError:
        if not self._backend.endpoint_exists():
            return error(
                Code.NOT_CONFIGURED,
                f"RunPod knows no endpoint {self._handle.target!r} for this key",
                hint="Use the API key of the account that has the endpoint.",
            )
        detail: dict[str, Any] = {"handle": str(self._handle)}
        if self._stage == "running":
            return error(
                Code.RESULT_EXPIRED,
                "RunPod no longer knows this job, which ran: results are kept for 30 minutes, and "
                "jobs until their ttl",
                detail=detail,
            )
        if self._waited_at is not None and time.time() - self._waited_at < UNSEEN_S:
            # Had a worker taken it since, it would be known for 30 minutes more.
            return error(
                Code.TIMEOUT,
                "RunPod dropped the job from its queue before a worker had it: its ttl was over, "
                "or somebody purged the queue",
                hint="Look at the endpoint's workers, or use another backend.",
                detail={**detail, "confirmed_stopped": True},
            )
        return error(
            Code.JOB_GONE,
            "RunPod no longer knows this job, and nobody here saw it run: results are kept for 30 "
            "minutes, and jobs until their ttl",
            detail=detail,
        )

    def _report(self, seen: dict[str, Any]) -> None:
        """Tell what is new. A status that we do not know means that the job still runs."""
        stage = "queued" if seen.get("status") == "IN_QUEUE" else "running"
        if stage != self._stage:
            self._stage = stage
            self._tell(Queued() if stage == "queued" else Started())
        if stage == "queued":
            self._waited_at = time.time()  # the clock that runs while this machine sleeps
            self._warn_of_queue()
            return
        progress = parse_progress(seen.get("output"))
        if progress is None:
            return
        shown = {f.name: getattr(progress, f.name) for f in fields(Progressed)}
        if shown != self._shown:
            self._shown = shown
            self._tell(Progressed(**shown))

    def _warn_of_queue(self) -> None:
        waited = time.monotonic() - self._began
        if not self._warnings_due or waited < self._warnings_due[0]:
            return
        self._warnings_due.pop(0)
        health = self._backend.health()
        told = f"the job has been in the queue for {waited:.0f} s; {health.detail}"
        if health.reachable and not able(health.workers):
            told += (
                " - no worker is ready: is the endpoint's max workers 0, or its GPU type sold out?"
            )
        self._tell(Warned(told))


def counts(raw: object) -> dict[str, int]:
    """Return the numbers of an answer of /health."""
    if not isinstance(raw, dict):
        return {}
    return {str(k): v for k, v in raw.items() if isinstance(v, int)}


def able(workers: Mapping[str, int]) -> bool:
    """Whether there is a worker for the job, or one starts."""
    return any(workers.get(k, 0) for k in ("ready", "idle", "running", "initializing"))


def summary(workers: Mapping[str, int], jobs: Mapping[str, int]) -> str:
    """Say it in a line."""
    states = [f"{n} {state}" for state, n in workers.items() if n and state != "ready"]
    told = f"workers: {', '.join(states)}" if states else "no worker yet (one starts with a job)"
    return f"{told}; {jobs.get('inQueue', 0)} queued, {jobs.get('inProgress', 0)} running"
