"""A job by its handle or its id, from any process and on any day.

the ledger knows it, and it is open      gone on with by the router, booked and settled
another process drives it                followed beside that process, which books it
it has ended                             its files are fetched again, and booked once
nobody knows how it ended                looked at again; what is found is booked
the ledger does not know it              followed by its handle alone, and not booked
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pennyreel.dispatch import Dispatch
from pennyreel.errors import BadRequest, Code, PennyreelError, error
from pennyreel.jobs import Job, Unbooked
from pennyreel.kept import look_again
from pennyreel.money import records
from pennyreel.routed import RoutedJob
from pennyreel.routing.hearing import of_follow
from pennyreel.routing.machine import Ask, Failed, Stage, Stopped
from pennyreel.survey import Opener
from pennyreel.types import Attempt, Handle, RunResult, Warned
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import Result

NOT_BOOKED = "this job is not in the ledger here: it is followed by its handle, and not booked"
_BESIDE = "another process drives this job: it is followed here beside it, and booked there"
_ABSENT = (
    "what this job asked for is not on this machine: it is followed by its handle, and not booked. "
    "To book it, go on with it where it began: pennyreel jobs resume"
)


@dataclass(frozen=True)
class Later:
    """How a job is followed that somebody comes back to."""

    timeout_s: float | None = None
    out_dir: Path | None = None
    ask: Callable[[Ask], bool] | None = None


class Resume(Protocol):
    """Goes on with a job: `Client.resume`."""

    def __call__(
        self,
        job_id: str,
        *,
        timeout_s: float | None,
        out_dir: Path | None,
        ask: Callable[[Ask], bool] | None,
    ) -> RoutedJob:
        """Return it, driven."""


@dataclass(frozen=True)
class Found:
    """What a handle or an id names."""

    job: records.Job | None
    """As the ledger has it; None: it does not."""
    attempt: records.Attempt | None
    """The handle's; of an id the one that made it, or the last that may have."""
    handle: Handle | None


class Handles:
    """One a client. Thread-safe."""

    def __init__(self, dispatch: Dispatch, opener: Opener, resume: Resume, usual: Path) -> None:
        """Keep them; `opener` returns a shared backend, `usual` is where files usually go."""
        self._dispatch, self._opener = dispatch, opener
        self._resume, self._usual = resume, usual

    def job(self, given: str | Handle, later: Later) -> Job | RoutedJob:
        """Return the job; one that is open goes on at once.

        Raises:
            BadRequest: there is no such job, or it has ended and made nothing.

        """
        found = self.find(given)
        if found.job is None:
            return self._followed(found, later, note=NOT_BOOKED)
        if found.job.outcome is None:
            return self._open(found.job.job_id, found, later)
        if found.handle is None:
            raise made_nothing(found.job)
        return self._followed(found, later, books=self._books(found.job.job_id, found))

    def cancel(self, given: str | Handle) -> bool:
        """Stop the job, whoever drives it; return whether it is known that nothing of it runs."""
        found = self.find(given)
        if found.job is None:
            return self._followed(found, Later()).cancel()
        job_id = found.job.job_id
        ours = self._ours(job_id)
        if ours is not None:
            return ours.cancel()
        return self._dispatch.cancel(job_id) or self._stopped_late(job_id)

    def find(self, given: str | Handle) -> Found:
        """Return what is known of the job.

        Raises:
            BadRequest: it is neither a handle nor the id, or its first letters, of a job.

        """
        ledger = self._dispatch.ledger
        if isinstance(given, str) and ":" not in given:
            job = ledger.job(given.strip())
            attempt = self._meant(job)
            return Found(job, attempt, None if attempt is None else attempt.where)
        handle = Handle.parse(given) if isinstance(given, str) else given
        attempt = ledger.attempt(handle.attempt_id)
        return Found(None if attempt is None else ledger.job(attempt.job_id), attempt, handle)

    def _stopped_late(self, job_id: str) -> bool:
        """Stop what nobody drives any more and of which it is not known what became of it."""
        job, problem = self._dispatch.ledger.job(job_id), None
        for attempt in job.attempts:
            if attempt.state != "unknown" or attempt.where is None:
                continue
            lost = Found(job, attempt, attempt.where)
            try:
                self._followed(lost, Later(), books=self._books(job_id, lost)).cancel()
            except PennyreelError as failed:  # the others are stopped all the same
                problem = failed
        if problem is not None:
            raise problem
        return not self._dispatch.ledger.open_attempts(job_id)

    def _meant(self, job: records.Job) -> records.Attempt | None:
        made = self._dispatch.made(job.job_id)
        tried = [a for a in job.attempts if a.handle is not None]
        winner = [a for a in tried if a.handle == made]
        return next(iter(winner or [a for a in tried[::-1] if a.state != "ended"]), None)

    def _open(self, job_id: str, found: Found, later: Later) -> Job | RoutedJob:
        """Go on with a job, or follow it where that is somebody else's to do."""
        ours = self._ours(job_id)
        if ours is not None:
            return ours
        try:
            return self._resume(
                job_id, timeout_s=later.timeout_s, out_dir=later.out_dir, ask=later.ask
            )
        except BadRequest as problem:
            if self._dispatch.ledger.job(job_id).outcome is not None:  # in this very moment
                return self.job(found.handle or job_id, later)
            detail = problem.info.detail
            note = _BESIDE if detail.get("busy") else _ABSENT if detail.get("absent") else None
            if found.handle is None or note is None:
                raise
            return self._followed(found, later, note=note)

    def _ours(self, job_id: str) -> RoutedJob | None:
        """Return the job where this very client drives it."""
        return next((job for job in self._dispatch.driven() if job.id == job_id), None)

    def _followed(
        self, found: Found, later: Later, *, books: Unbooked | None = None, note: str = ""
    ) -> Job:
        handle, job_id = found.handle, None if found.job is None else found.job.job_id
        assert handle is not None  # noqa: S101 - for the type checker
        known = None if job_id is None else self._dispatch.out_dir(job_id)
        job = Job(
            job_id or handle.attempt_id,
            handle,
            self._opener(handle.backend, handle.target),
            out_dir=later.out_dir or known or self._usual,
            deadline=Deadline(later.timeout_s),
            books=books,
        )
        if note:
            job.note(Warned(note))
        return job

    def _books(self, job_id: str, found: Found) -> Unbooked | None:
        return None if found.attempt is None else _Booked(self._dispatch, job_id, found.attempt)


class _Booked(Unbooked):
    """Books what is found of a job that had ended, or of which nobody knew how it ended."""

    def __init__(self, dispatch: Dispatch, job_id: str, attempt: records.Attempt) -> None:
        self._dispatch, self._job_id, self._attempt = dispatch, job_id, attempt

    def made(self, result: Result) -> None:
        """Settle an attempt that was not known to have made anything."""
        if (
            self._attempt.handle is None
            or self._dispatch.made(self._job_id) != self._attempt.handle
        ):
            self._dispatch.made_after_all(self._attempt, result)

    def ended(self, problem: BaseException | None, result: RunResult | None = None) -> None:
        """Write down that the files are here, or how an attempt ended that nobody knew of."""
        if result is not None:
            self._dispatch.fetched(self._job_id, result)
        now = self._dispatch.ledger.attempt(self._attempt.attempt_id)
        if now is None or now.state != "unknown" or not isinstance(problem, PennyreelError):
            return
        heard = of_follow(problem, 0, 0, 0.0, 0.0)
        if isinstance(heard, Failed):
            self._dispatch.failed_after_all(now, Stage.FAILED, heard.trouble)
        elif isinstance(heard, Stopped) and heard.confirmed:
            self._dispatch.failed_after_all(now, Stage.STOPPED, heard.trouble)

    def told(self, handle: Handle) -> tuple[int | None, tuple[Attempt, ...]]:  # noqa: ARG002
        """Return what the ledger has."""
        job = self._dispatch.ledger.job(self._job_id)
        tried = (Attempt(a.backend, a.attempt_id, a.code or a.state) for a in job.attempts)
        return job.spent + job.reserved, tuple(tried)


def made_nothing(job: records.Job) -> PennyreelError:
    """Return the error of a job without a result that could be fetched."""
    next_ = "resume" if job.outcome is None else "show"
    run = f"Run: pennyreel jobs {next_} {job.job_id[:12]}"
    return error(
        Code.BAD_REQUEST,
        f"job {job.job_id} has made nothing: {job.outcome or 'it has not ended'}",
        hint=look_again(job) if job.state == "unknown" else run,
    )
