"""A submitted job: its events, its result, its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pennyreel import types
from pennyreel.backends.base import Backend
from pennyreel.errors import (
    Code,
    JobCancelled,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    SetupNeeded,
    Unavailable,
    error,
)
from pennyreel.fetching import Fetching
from pennyreel.types import Attempt, Handle, JobEvent, RunResult
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result

OnEnd = Callable[[str], None]
"""Told how the job ended: done, or an error's code."""

_TICK_S = 0.5


class Job:
    """One job on one backend. `events()` and `result()` may be used from any thread."""

    def __init__(
        self,
        job_id: str,
        handle: Handle,
        backend: Backend,
        *,
        out_dir: Path,
        deadline: Deadline,
        on_end: OnEnd = lambda _: None,
        began: float | None = None,
    ) -> None:
        """Use `Client.submit` or `Client.handle`."""
        self.id = job_id
        self.handle = handle
        self._backend = backend
        self._out_dir = out_dir
        self._deadline = deadline
        self._on_end = on_end
        self._cancel = CancelToken()
        self._changed = threading.Condition()
        self._events: list[JobEvent] = [types.Submitted(handle)]
        self._result: RunResult | None = None
        self._problem: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._clock = _Clock(began)

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly. Only known once somebody follows it."""
        with self._changed:
            return self._result is not None or self._problem is not None

    def note(self, event: types.Warned) -> None:
        """Add a warning of the client's own."""
        self._tell(event)

    def events(self) -> Iterator[JobEvent]:
        """Yield what happens, from the beginning, until Finished. Raises nothing of the job's.

        Events decorate: whether it went well is for `result` to say.
        """
        self._follow()
        seen = 0
        while True:
            with self._changed:
                while len(self._events) == seen:
                    self._changed.wait(_TICK_S)  # bounded, so that Ctrl-C works on Windows
                fresh = self._events[seen:]
            seen += len(fresh)
            yield from fresh
            if isinstance(fresh[-1], types.Finished):
                return

    def result(self, timeout_s: float | None = None) -> RunResult:
        """Wait for the end and return what it made, saved on this disk.

        The job's own deadline (`timeout_s` of submit) cancels it. This one only ends the waiting:
        the builtin TimeoutError, and the job goes on.

        Raises:
            JobFailed, JobCancelled, JobTimeout: how it ended.
            OutcomeUnknown: its backend no longer answers; look again with the handle.

        """
        self._follow()
        limit = Deadline(timeout_s)
        with self._changed:
            while self._result is None and self._problem is None:
                if limit.expired:
                    raise TimeoutError(f"job {self.id} has not ended within {timeout_s:g} s")
                self._changed.wait(limit.left(_TICK_S))
            if self._problem is not None:
                raise self._problem
            if self._result is None:  # pragma: no cover - one of the two is set
                raise RuntimeError("a job ended without a result")
            return self._result

    def cancel(self) -> bool:
        """Stop it; return whether it is known not to run any more.

        A job that is being followed ends with JobCancelled; one that has ended stays as it is, but
        is stopped for certain where its end left that open.
        """
        with self._changed:
            thread, ended = self._thread, self._result is not None or self._problem is not None
        if thread is None:
            stopped = self._backend.cancel(self.handle)
            if stopped:
                self._record(Code.CANCELLED.value)
            return stopped
        if not ended:
            self._cancel.cancel()
            while thread.is_alive():
                thread.join(_TICK_S)
            if isinstance(self._problem, JobCancelled):  # this very attempt
                return not _may_run(self._problem)
        return not _may_run(self._problem) or self._backend.cancel(self.handle)

    def _follow(self) -> None:
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"pennyreel-job-{self.id[:8]}", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        outcome, problem = "done", None
        result: RunResult | None = None
        try:
            result = self._finish(self._wait())
        except PennyreelError as failure:
            problem, outcome = failure, failure.code
        except Exception as failure:  # noqa: BLE001 - whatever it is belongs to who waits
            # Its words may quote what they should not; whoever debugs finds them in the cause.
            problem = error(Code.INTERNAL, f"unforeseen: {type(failure).__name__}")
            problem.__cause__ = failure
            outcome = problem.code
        self._record(outcome)
        with self._changed:
            self._result, self._problem = result, problem
            self._events.append(types.Finished(outcome, problem.info if problem else None))
            self._changed.notify_all()

    def _record(self, outcome: str) -> None:
        """Have the end written down; a full disk changes nothing about the job."""
        try:
            self._on_end(outcome)
        except (OSError, PennyreelError) as failure:
            told = getattr(failure, "strerror", None) or failure
            self._tell(types.Warned(f"the job's end cannot be recorded: {told}"))

    def _wait(self) -> Result:
        try:
            return self._backend.follow(
                self.handle, on_event=self._tell, deadline=self._deadline, cancel=self._cancel
            )
        except Unavailable as problem:
            # "Unavailable" says that nothing was accepted; this job was.
            raise error(
                Code.UNKNOWN_OUTCOME,
                f"{problem}; the job was accepted and may go on",
                hint=f"Look again later: pennyreel result '{self.handle}'",
                detail={"handle": str(self.handle), "cause": problem.code},
            ) from problem

    def _finish(self, remote: Result) -> RunResult:
        """Save what it made."""
        self._clock.executed()
        for text in remote.warnings:
            self._tell(types.Warned(text))
        fetching = Fetching(
            self._backend,
            self.handle,
            self._out_dir,
            self._deadline,
            self._cancel,
            f"pennyreel result '{self.handle}'",
            self._tell,
        )
        saved = fetching.all(remote)
        with self._changed:
            warnings = [e.text for e in self._events if isinstance(e, types.Warned)]
        return RunResult(
            job_id=self.id,
            backend=self.handle.backend,
            handle=self.handle,
            artifacts=saved,
            timings=self._clock.timings(),
            remote_timings=dict(remote.timings),
            gpu=None if remote.gpu is None else remote.gpu.model_dump(exclude_none=True),
            attempts=(Attempt(self.handle.backend, self.handle.attempt_id, "done"),),
            warnings=tuple(dict.fromkeys(warnings)),
            seed=remote.seed,
            metadata=dict(remote.metadata),
            replayed=remote.replayed,
        )

    def _tell(self, event: JobEvent) -> None:
        with self._changed:
            if isinstance(event, types.Started):
                self._clock.started()
            if isinstance(event, types.Progressed):
                event = self._never_back(event)
                if event.preview is not None:
                    self._forget_preview()
            self._events.append(event)
            self._changed.notify_all()

    def _forget_preview(self) -> None:
        """Drop the last picture: only the newest is kept, or a long job would fill the memory."""
        for number in range(len(self._events) - 1, -1, -1):
            old = self._events[number]
            if isinstance(old, types.Progressed) and old.preview is not None:
                self._events[number] = replace(old, preview=None)
                return

    def _never_back(self, event: types.Progressed) -> types.Progressed:
        """Keep the promise that percent never falls, whatever a backend says."""
        last = next((e for e in reversed(self._events) if isinstance(e, types.Progressed)), None)
        if last is not None and event.percent < last.percent:
            return replace(event, percent=last.percent)
        return event


def _may_run(problem: BaseException | None) -> bool:
    """Whether a job that ended so, as seen from here, may still run."""
    if not isinstance(problem, PennyreelError):
        return problem is not None
    confirmed = problem.info.detail.get("confirmed_stopped")
    if isinstance(problem, JobTimeout):
        return confirmed is not True
    lost = isinstance(problem, (OutcomeUnknown, SetupNeeded, Unavailable))
    return lost or confirmed is False or problem.code == Code.INTERNAL.value


class _Clock:
    """Measures a job's stages as they are seen from here."""

    def __init__(self, began: float | None) -> None:
        self._began = time.monotonic() if began is None else began
        self._started: float | None = None
        self._executed: float | None = None

    def started(self) -> None:
        """A worker has it."""
        self._started = self._started or time.monotonic()

    def executed(self) -> None:
        """Its result is here, its files are not."""
        self._executed = time.monotonic()

    def timings(self) -> dict[str, float]:
        """Seconds by stage; they add up to the total."""
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
