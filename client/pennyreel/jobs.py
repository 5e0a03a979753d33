"""A job that is followed by its handle alone: its events, its result, its end.

One that the ledger knows and that has not ended is a `RoutedJob`; see `handles.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from pennyreel import types
from pennyreel.backends.base import Backend
from pennyreel.chronicle import TICK_S, Chronicle, let_go
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
from pennyreel.routing.follower import Leave, LeaveToken
from pennyreel.types import Attempt, Handle, RunResult
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import Result


class Unbooked:
    """What is written down of a job, and known of it: nothing, where no ledger has it."""

    def made(self, result: Result) -> None:
        """Hear that it is made; its files are not here yet."""

    def ended(self, problem: BaseException | None, result: RunResult | None = None) -> None:
        """Hear how it ended; in the thread that follows it."""

    def told(self, handle: Handle) -> tuple[int | None, tuple[Attempt, ...]]:
        """Return what the job has cost, if it is known, and its attempts."""
        return None, (Attempt(handle.backend, handle.attempt_id, "done"),)


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
        books: Unbooked | None = None,
    ) -> None:
        """Use `Client.handle`."""
        self.id = job_id
        self.handle = handle
        self._backend, self._books = backend, books or Unbooked()
        self._out_dir, self._deadline = out_dir, deadline
        self._cancel = LeaveToken()
        self._chronicle = Chronicle(types.Submitted(handle))
        self._result: RunResult | None = None
        self._problem: BaseException | None = None
        self._thread: threading.Thread | None = None

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly. Only known once somebody follows it."""
        with self._chronicle.changed:
            return self._result is not None or self._problem is not None

    def note(self, event: types.Warned) -> None:
        """Add a warning of the client's own."""
        self._chronicle.tell(event)

    def accepted(self, timeout_s: float | None = None) -> Handle:  # noqa: ARG002 - it was
        """Return its handle: its backend has it."""
        return self.handle

    def detach(self) -> None:
        """Follow it no more; it goes on."""
        self._cancel.leave()

    def events(self) -> Iterator[types.JobEvent]:
        """Yield what happens, from the beginning, until Finished. Raises nothing of the job's.

        Events decorate: whether it went well is for `result` to say.
        """
        self._follow()
        return self._chronicle.read()

    def result(self, timeout_s: float | None = None) -> RunResult:
        """Wait for the end and return what it made, saved on this disk.

        The job's own deadline (`timeout_s` of `Client.handle`) cancels it. This one only ends the
        waiting: the builtin TimeoutError, and the job goes on.

        Raises:
            JobFailed, JobCancelled, JobTimeout: how it ended.
            OutcomeUnknown: its backend no longer answers; look again with the handle.

        """
        self._follow()
        limit, changed = Deadline(timeout_s), self._chronicle.changed
        with changed:
            while self._result is None and self._problem is None:
                if limit.expired:
                    raise TimeoutError(f"job {self.id} has not ended within {timeout_s:g} s")
                changed.wait(limit.left(TICK_S))
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
        with self._chronicle.changed:
            thread, ended = self._thread, self._result is not None or self._problem is not None
        if thread is None:
            stopped = self._backend.cancel(self.handle)
            if stopped:
                sure = {"confirmed_stopped": True}
                told = error(Code.CANCELLED, "the job was cancelled", detail=sure)
                self._record(lambda: self._books.ended(told))
            return stopped
        if not ended:
            self._cancel.cancel()
            while thread.is_alive():
                thread.join(TICK_S)
            if isinstance(self._problem, JobCancelled):  # this very attempt
                return not _may_run(self._problem)
        return not _may_run(self._problem) or self._backend.cancel(self.handle)

    def _follow(self) -> None:
        with self._chronicle.changed:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name=f"pennyreel-job-{self.id[:8]}", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        problem: PennyreelError | None = None
        result: RunResult | None = None
        try:
            result = self._finish(self._wait())
        except Leave:
            self._end(types.Detached(self.handle), problem=let_go(self.id))
            return
        except PennyreelError as failure:
            problem = failure
        except Exception as failure:  # noqa: BLE001 - whatever it is belongs to who waits
            # Its words may quote what they should not; whoever debugs finds them in the cause.
            problem = error(Code.INTERNAL, f"unforeseen: {type(failure).__name__}")
            problem.__cause__ = failure
        self._record(lambda: self._books.ended(problem, result))
        info = None if problem is None else problem.info
        last = types.Finished("done" if info is None else info.code, info)
        self._end(last, problem=problem, result=result)

    def _end(
        self,
        last: types.JobEvent,
        *,
        problem: PennyreelError | None,
        result: RunResult | None = None,
    ) -> None:
        with self._chronicle.changed:
            self._result, self._problem = result, problem
            self._chronicle.tell(last)

    def _record(self, write: Callable[[], None]) -> None:
        """Have something written down; a full disk changes nothing about the job."""
        try:
            write()
        except (OSError, PennyreelError) as failure:
            told = getattr(failure, "strerror", None) or failure
            self._chronicle.tell(types.Warned(f"what became of the job cannot be recorded: {told}"))

    def _wait(self) -> Result:
        try:
            return self._backend.follow(
                self.handle,
                on_event=self._chronicle.tell,
                deadline=self._deadline,
                cancel=self._cancel,
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
        tell = self._chronicle.tell
        self._chronicle.executed()
        self._record(lambda: self._books.made(remote))
        for text in remote.warnings:
            tell(types.Warned(text))
        fetching = Fetching(
            self._backend,
            self.handle,
            self._out_dir,
            self._deadline,
            self._cancel,
            f"pennyreel result '{self.handle}'",
            tell,
        )
        saved = fetching.all(remote)
        cost, attempts = self._books.told(self.handle)
        return RunResult(
            job_id=self.id,
            backend=self.handle.backend,
            handle=self.handle,
            artifacts=saved,
            timings=self._chronicle.timings(),
            remote_timings=dict(remote.timings),
            gpu=None if remote.gpu is None else remote.gpu.model_dump(exclude_none=True),
            attempts=attempts,
            warnings=self._chronicle.warnings,
            seed=remote.seed,
            metadata=dict(remote.metadata),
            cost_microusd=cost,
            replayed=remote.replayed,
        )


def _may_run(problem: BaseException | None) -> bool:
    """Whether a job that ended so, as seen from here, may still run."""
    if not isinstance(problem, PennyreelError):
        return problem is not None
    confirmed = problem.info.detail.get("confirmed_stopped")
    if isinstance(problem, JobTimeout):
        return confirmed is not True
    lost = isinstance(problem, (OutcomeUnknown, SetupNeeded, Unavailable))
    return lost or confirmed is False or problem.code == Code.INTERNAL.value
