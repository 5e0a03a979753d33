"""What is kept of jobs: in the ledger, and their requests on this disk. Sends nothing."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

from pennyreel import routes
from pennyreel.books import LedgerBooks
from pennyreel.config import Settings
from pennyreel.errors import BadRequest, Code, PennyreelError, error
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Attempt, Job
from pennyreel.planning import Planner
from pennyreel.routing.decision import Decision
from pennyreel.routing.machine import Outcome, Stage, Trouble
from pennyreel.spool import Order, Spool, read_need
from pennyreel.survey import Opener
from pennyreel.types import RunResult
from pennyreel_contract import Result


class Kept:
    """One a client. Thread-safe."""

    def __init__(self, settings: Settings, opener: Opener) -> None:
        """Open nothing yet; `opener` returns a backend that is shared."""
        self._settings, self._opener = settings, opener
        self._spool = Spool(settings.home / "spool")
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._planner = Planner(settings, opener, lambda: self.ledger)

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened at the first use; raises SetupNeeded."""
        with self._lock:
            if self._ledger is None:
                self._ledger = Ledger.open(self._settings)
            return self._ledger

    def close(self) -> None:
        """Let the ledger go."""
        with self._lock:
            ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()

    def request(self, job_id: str) -> Order:
        """Return what a job asked for; raises BadRequest where it is not on this machine."""
        return self._spool.get(self.ledger.job(job_id).job_id)

    def tidy(self) -> None:
        """Clear out what clients that were killed left of jobs that are done, or never began.

        What another ledger may know is that one's: its jobs may be open, and need their requests.
        """
        self._spool.prune(self.ledger.identity)
        for job_id in self._spool.ids():
            # Not even held for a moment: whoever resumes it there would find it driven.
            held = self._spool.hold(job_id) if self._is_ours(job_id) else None
            if held is None:
                continue
            job = self._booked(job_id)
            over = self._is_ours(job_id) if job is None else job.outcome is not None
            if over and (job is None or job.outcome == "done"):
                self._spool.remove(job_id)
            held.release(ended=over)

    def never_sent(self, job_id: str) -> bool:
        """Whether a job's request was written here, and its client ended before it was booked."""
        with suppress(BadRequest):
            self.ledger.job(job_id)
            return False
        return job_id in self._spool.ids()

    def fetched(self, job_id: str, result: RunResult) -> None:
        """Write down that the files of a job are here after all."""
        self.ledger.end_job(job_id, "done", {"outcome": "done", "files": len(result.artifacts)})
        self._spool.remove(job_id)

    def made_after_all(self, attempt: Attempt, result: Result) -> None:
        """Write down that an attempt made something of which that was not known, and its bill."""
        need = read_need(self.ledger.job(attempt.job_id).need)
        used = self._opener(attempt.backend, attempt.target or None).billed(need, result)
        option = LedgerBooks(self.ledger).record(attempt.job_id).options[self._place(attempt)]
        billed = routes.pricer(self._planner.catalog())(option, used)
        books = LedgerBooks(self.ledger)
        books.settle(attempt.job_id, self._place(attempt), Stage.DONE, billed, None)

    def failed_after_all(self, attempt: Attempt, stage: Stage, trouble: Trouble) -> None:
        """Write down how an attempt ended of which that was not known; what was reserved counts."""
        books, job_id = LedgerBooks(self.ledger), attempt.job_id
        books.settle(job_id, self._place(attempt), stage, None, trouble)
        still = self.ledger.open_attempts(job_id)
        if self.ledger.job(job_id).outcome == Code.UNKNOWN_OUTCOME.value and not still:
            outcome = Outcome.FAILED if stage is Stage.FAILED else Outcome.CANCELLED
            self.ledger.end_job(job_id, trouble.code, {"outcome": outcome.value})

    def decision(self, job_id: str) -> Decision:
        """Return why a job went where it went.

        Raises:
            BadRequest: there is no such job, or no decision was made for it.

        """
        job = self.ledger.job(job_id)
        found = routes.decision_in(self.ledger.decisions(job.job_id))
        if found is None:
            raise error(Code.BAD_REQUEST, f"no decision was recorded for job {job.job_id}")
        return found

    def made(self, job_id: str) -> str | None:
        """Return the handle of what a job has made and paid for, if it has."""
        return LedgerBooks(self.ledger).made(self.ledger.job(job_id).job_id)

    def troubles(self, job_id: str) -> list[tuple[str, Trouble]]:
        """Return what went wrong, by backend, in the order of trying."""
        record = LedgerBooks(self.ledger).record(self.ledger.job(job_id).job_id)
        return [(record.options[a.n].key, a.trouble) for a in record.attempts if a.trouble]

    def out_dir(self, job_id: str) -> Path | None:
        """Return where a job's files were to go, where that is known here."""
        with suppress(PennyreelError):
            return self.request(job_id).out_dir
        return None

    def _is_ours(self, job_id: str) -> bool:
        """Whether a job is this ledger's, or was to be; where there is but a lock, it was nobody's.

        A request of an older version names no ledger.
        """
        named = self._spool.ledger(job_id)
        return named in {None, self.ledger.identity} or self._booked(job_id) is not None

    def _booked(self, job_id: str) -> Job | None:
        with suppress(BadRequest):
            return self.ledger.job(job_id)
        return None

    def _place(self, attempt: Attempt) -> int:
        """Return which of its job's options an attempt was made on."""
        key = f"{attempt.backend}:{attempt.target}" if attempt.target else attempt.backend
        keys = [option.key for option in LedgerBooks(self.ledger).record(attempt.job_id).options]
        if key not in keys:
            raise error(Code.INTERNAL, f"job {attempt.job_id} has no option {key}")
        return keys.index(key)


def look_again(job: Job) -> str:
    """Return what to do about a job of which it is not known whether it runs."""
    short = job.job_id[:12]
    if any(a.state == "unknown" and a.handle is not None for a in job.attempts):
        return f"Look again: pennyreel result {short}; or stop it: pennyreel cancel {short}"
    return "No answer told its handle: look at its backend's own list of jobs."
