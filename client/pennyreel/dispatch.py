"""Quotes a job on every backend, and sends it by the router. What `Client` does with a ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakSet

from pennyreel import routes, types
from pennyreel.backends.base import Backend, Work
from pennyreel.books import LedgerBooks
from pennyreel.config import Settings
from pennyreel.errors import BadRequest, Code, PennyreelError, error
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Attempt, Job, Labels
from pennyreel.planning import Plan, Planner
from pennyreel.routed import CLAIM_S, Parts, RoutedJob
from pennyreel.routing.decision import Decision
from pennyreel.routing.facts import Facts
from pennyreel.routing.machine import Ask, Option, Stage, Trouble
from pennyreel.routing.quote import Quote
from pennyreel.spool import Held, Order, Spool, read_need
from pennyreel.survey import Opener
from pennyreel.terms import Terms
from pennyreel.types import Handle, RunResult
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import Result, new_attempt_id

CANCEL_S = 90.0
"""How long a cancel waits for the process that drives the job."""

_LOOK_S = 0.25


@dataclass(frozen=True)
class _Backends:
    """Opens a new backend for an option: the driver closes what it opened."""

    opener: Opener

    def open(self, option: Option) -> Backend:
        return self.opener(option.backend, option.target or None)


class Dispatch:
    """One a client. Thread-safe."""

    def __init__(self, settings: Settings, opener: Opener, fresh: Opener) -> None:
        """Open nothing yet.

        Args:
            settings: the client's.
            opener: returns a backend that is shared.
            fresh: returns one that whoever asks for it closes.

        """
        self._settings, self._fresh = settings, fresh
        self._spool = Spool(settings.home / "spool")
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._driven: WeakSet[RoutedJob] = WeakSet()
        self._planner = Planner(settings, opener, lambda: self.ledger)

    @property
    def ledger(self) -> Ledger:
        """The ledger, opened at the first use; raises SetupNeeded."""
        with self._lock:
            if self._ledger is None:
                self._ledger = Ledger.open(self._settings)
            return self._ledger

    def driven(self) -> list[RoutedJob]:
        """Return the jobs that this client drives and that have not ended."""
        return [job for job in list(self._driven) if not job.done]

    def close(self) -> None:
        """Let the ledger go."""
        with self._lock:
            ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.close()

    def quote(self, work: Work, terms: Terms) -> Quote:
        """Return what the job would cost and take everywhere; costs nothing and sends nothing."""
        return self._planner.plan(work, terms, asking=False).quoted

    def send(
        self,
        work: Work,
        terms: Terms,
        *,
        out_dir: Path,
        deadline: Deadline,
        ask: Callable[[Ask], bool] | None = None,
        noted: Callable[[str], None] | None = None,
    ) -> RoutedJob:
        """Decide where a job goes, and send it there; returns at once.

        `noted` is told the job's id when its request is on the disk and nothing is sent or booked.

        Raises:
            BadRequest: `consent_required`, with the quote and the flag that allows it.
            Unavailable: no backend can do it; its hint has the ways to have one.

        """
        plan = self._planner.plan(work, terms, asking=ask is not None)
        job_id = new_attempt_id()
        if not plan.options:
            self._record(job_id, work, terms, plan)
            raise self._refused(job_id, plan)
        order = Order(work, out_dir, terms)
        held = self._held(job_id)
        try:
            # Its request first: a job that the ledger has can be gone on with.
            self._spool.put(job_id, order)
            if noted is not None:
                noted(job_id)
            self._record(job_id, work, terms, plan)
            return self._job(job_id, order, held, plan, deadline, ask).start()
        except BaseException:
            held.release(ended=False)
            raise

    def resume(
        self,
        job_id: str,
        *,
        deadline: Deadline | None = None,
        out_dir: Path | None = None,
        ask: Callable[[Ask], bool] | None = None,
    ) -> RoutedJob:
        """Go on with a job whose client has ended.

        Raises:
            BadRequest: it has ended, another process drives it (`busy` in its detail), or its
                request is not here.

        """
        job = self._open(job_id)
        order = self._spool.get(job.job_id)
        order = replace(order, out_dir=out_dir or order.out_dir)
        held = self._held(job.job_id)
        return self._resumed(job.job_id, order, held, deadline=deadline, ask=ask).start()

    def cancel(self, job_id: str) -> bool:
        """Stop a job, whoever drives it; return whether it is known that nothing of it runs.

        What another process drives, that process stops: it is waited for, CANCEL_S at most.
        """
        job = self.ledger.job(job_id)
        if job.outcome is not None:
            return not self.ledger.open_attempts(job.job_id)
        # In the books first: whoever drives the job, now or later, sends nothing any more.
        LedgerBooks(self.ledger).mark_cancelled(job.job_id)
        limit = Deadline(CANCEL_S)
        while self.ledger.job(job.job_id).outcome is None and not limit.expired:
            held = self._spool.hold(job.job_id)
            try:
                if held is not None:
                    return self._resumed(job.job_id, self._rest(job), held).cancel()
            except PennyreelError as problem:
                if not problem.info.detail.get("busy"):
                    raise
            time.sleep(_LOOK_S)
        return not self.ledger.open_attempts(job.job_id)

    def request(self, job_id: str) -> Order:
        """Return what a job asked for; raises BadRequest where it is not on this machine."""
        return self._spool.get(self.ledger.job(job_id).job_id)

    def tidy(self) -> None:
        """Clear out what clients that were killed left of jobs that are done, or never began."""
        for job_id in self._spool.ids():
            held = self._spool.hold(job_id)
            if held is None:
                continue
            job = None
            with suppress(BadRequest):
                job = self.ledger.job(job_id)
            if job is None or job.outcome == "done":
                self._spool.remove(job_id)
            held.release(ended=job is None or job.outcome is not None)

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
        kept = self.ledger.job(attempt.job_id)
        backend = self._fresh(attempt.backend, attempt.target or None)
        try:
            used = backend.billed(read_need(kept.need), result)
        finally:
            backend.close()
        option = next(o for o in self._options(attempt) if o.key == _key(attempt))
        billed = routes.pricer(self._planner.catalog())(option, used)
        self.settle_late(attempt, Stage.DONE, billed, None)

    def settle_late(
        self, attempt: Attempt, stage: Stage, microusd: int | None, trouble: Trouble | None
    ) -> None:
        """Write down how an attempt ended, after its job had; None = what was reserved counts."""
        keys = [option.key for option in self._options(attempt)]
        n = keys.index(_key(attempt))
        LedgerBooks(self.ledger).settle(attempt.job_id, n, stage, microusd, trouble)

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

    def _options(self, attempt: Attempt) -> tuple[Option, ...]:
        return LedgerBooks(self.ledger).record(attempt.job_id).options

    def _open(self, job_id: str) -> Job:
        job = self.ledger.job(job_id)
        if job.outcome is None:
            return job
        raise error(
            Code.BAD_REQUEST,
            f"job {job.job_id} has ended: {job.outcome}",
            hint=f"See it: pennyreel jobs show {job.job_id}",
        )

    def _held(self, job_id: str) -> Held:
        """Take the right to drive a job, and look again: it may have ended in the meantime."""
        held = self._spool.hold(job_id)
        if held is None:
            raise error(
                Code.BAD_REQUEST,
                f"another process is driving job {job_id}",
                hint=f"Wait for it, or stop it: pennyreel jobs cancel {job_id}",
                detail={"busy": True},
            )
        return held

    def _resumed(
        self,
        job_id: str,
        order: Order,
        held: Held,
        *,
        deadline: Deadline | None = None,
        ask: Callable[[Ask], bool] | None = None,
    ) -> RoutedJob:
        limit = deadline or Deadline(None)
        try:
            self._open(job_id)  # again: it may have ended before it was ours
            still = self.ledger.open_attempts(job_id)
            if len(self.ledger.claim_open(CLAIM_S, job_id)) < len(still):
                raise error(
                    Code.BAD_REQUEST,
                    f"another machine is driving job {job_id}",
                    hint="Go on with it there; if that machine is gone, wait two minutes.",
                    detail={"busy": True},
                )
            plan = None
            record = LedgerBooks(self.ledger).record(job_id)
            if not record.options and not record.cancel:  # it was killed while it was decided
                plan = self._planner.plan(order.work, order.terms, asking=ask is not None)
                self.ledger.record_decision(job_id, routes.decided(plan.decision))
                if not plan.options:
                    raise self._refused(job_id, plan)
            return self._job(job_id, order, held, plan, limit, ask)
        except BaseException:
            held.release(ended=False)
            raise

    def _job(
        self,
        job_id: str,
        order: Order,
        held: Held,
        plan: Plan | None,
        deadline: Deadline,
        ask: Callable[[Ask], bool] | None,
    ) -> RoutedJob:
        """Return the job, ready to be driven: by this plan, or by that in the books."""
        books = LedgerBooks(self.ledger)
        if plan is not None:
            books.begin(job_id, plan.options, plan.allowed)
        parts = Parts(
            ledger=self.ledger,
            books=books,
            backends=_Backends(self._fresh),
            spool=self._spool,
            held=held,
            price=routes.pricer(self._planner.catalog()),
            learn=_Learner(self.ledger, () if plan is None else tuple(plan.facts)),
            ask=ask,
        )
        first = self._known(books, job_id) if plan is None else plan.first
        job = RoutedJob(
            job_id, order.work, parts, out_dir=order.out_dir, deadline=deadline, first=first
        )
        self._driven.add(job)
        return job

    @staticmethod
    def _known(books: LedgerBooks, job_id: str) -> types.Submitted | None:
        """Return that a backend has the job since before this process."""
        has = {Stage.ACCEPTED, Stage.STOPPING, Stage.DONE}
        told = [a.handle for a in books.record(job_id).attempts if a.handle and a.stage in has]
        return types.Submitted(Handle.parse(told[-1])) if told else None

    def _rest(self, job: Job) -> Order:
        """Return a job's request for a cancel, which needs none of it: nothing is sent."""
        with suppress(PennyreelError):
            return self._spool.get(job.job_id)
        return Order(Work(job.job_id, {}), self._settings.out_dir)

    def _record(self, job_id: str, work: Work, terms: Terms, plan: Plan) -> None:
        self.ledger.record_job(
            job_id,
            request_sha256=work.digest(),
            need=work.need,
            labels=Labels(**routes.labels_of(terms, work.need.template)),
            backends=plan.decision.order,
            policy=plan.decision.policy,
        )
        self.ledger.record_decision(job_id, routes.decided(plan.decision))

    def _refused(self, job_id: str, plan: Plan) -> PennyreelError:
        problem = plan.refusal(job_id)
        self.ledger.end_job(job_id, problem.code, {"outcome": "refused"})
        return problem


def _key(attempt: Attempt) -> str:
    """Name the option that an attempt was made on."""
    return f"{attempt.backend}:{attempt.target}" if attempt.target else attempt.backend


@dataclass(frozen=True)
class _Learner:
    """Keeps how long a profile took on the GPU that it ran on."""

    ledger: Ledger
    facts: tuple[Facts, ...]

    def __call__(self, option: Option, work: Work, result: Result) -> None:
        known: dict[str, Any] = {one.key: one for one in self.facts}
        facts = known.get(option.key)
        seconds = result.timings.get("execute") or (result.gpu and result.gpu.seconds)
        if facts is None or not seconds or not work.need.profile or result.replayed:
            return
        gpu = facts.gpu
        with suppress(PennyreelError):  # it is made: what was not learned is no failure
            self.ledger.learn(work.need.profile, gpu, seconds / (work.need.size or 1.0))
