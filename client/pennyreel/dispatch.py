"""Quotes a job on every backend, and sends it by the router. What `Client` does with a ledger."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from weakref import WeakSet

from pennyreel import routes, types
from pennyreel.backends.base import Backend, Work
from pennyreel.books import LedgerBooks
from pennyreel.config import Settings, marked
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.kept import Kept, look_again
from pennyreel.money.records import Job, Labels
from pennyreel.planning import Learner, Plan
from pennyreel.routed import CLAIM_S, Parts, RoutedJob
from pennyreel.routing.breakers import Breakers
from pennyreel.routing.machine import Ask, Option, Stage
from pennyreel.routing.pacing import Pace
from pennyreel.routing.quote import Quote
from pennyreel.spool import Held, Order
from pennyreel.survey import Opener
from pennyreel.terms import Terms
from pennyreel.types import Handle
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import new_attempt_id

CANCEL_S = 90.0
"""How long a cancel waits for the process that drives the job."""

_LOOK_S = 0.25


@dataclass(frozen=True)
class _Backends:
    """Opens a new backend for an option: the driver closes what it opened."""

    opener: Opener

    def open(self, option: Option) -> Backend:
        return self.opener(option.backend, option.target or None)


class Dispatch(Kept):
    """One a client. Thread-safe."""

    def __init__(self, settings: Settings, opener: Opener, fresh: Opener) -> None:
        """Open nothing yet.

        Args:
            settings: the client's.
            opener: returns a backend that is shared.
            fresh: returns one that whoever asks for it closes.

        """
        super().__init__(settings, opener)
        self._fresh = fresh
        self._driven: WeakSet[RoutedJob] = WeakSet()

    def driven(self) -> list[RoutedJob]:
        """Return the jobs that this client drives and that have not ended."""
        return [job for job in list(self._driven) if not job.done]

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
        order = Order(work, out_dir, terms, self.ledger.identity)
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
                # Its driver may have ended it just before it was ours.
                ended = self.ledger.job(job.job_id).outcome is not None
                if not ended and not problem.info.detail.get("busy"):
                    raise
            time.sleep(_LOOK_S)
        return not self.ledger.open_attempts(job.job_id)

    def _open(self, job_id: str) -> Job:
        job = self.ledger.job(job_id)
        if job.outcome is None:
            return job
        raise error(
            Code.BAD_REQUEST,
            f"job {job.job_id} has ended: {job.outcome}",
            hint=look_again(job)
            if job.state == "unknown"
            else f"See it: pennyreel jobs show {job.job_id}",
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
        books = LedgerBooks(self.ledger, order.work.words())
        if plan is not None:
            books.begin(job_id, plan.options, plan.allowed)
        decision = routes.decision_in(self.ledger.decisions(job_id)) if plan is None else None
        kept_as = partial(marked, self._settings)
        parts = Parts(
            ledger=self.ledger,
            books=books,
            breakers=Breakers(
                self.ledger,
                kept_as=kept_as,
                named=order.terms.get("backend") or self._settings.backend,
            ),
            pace=Pace(self.ledger, self._settings.moves_per_minute, kept_as=kept_as),
            backends=_Backends(self._fresh),
            spool=self._spool,
            held=held,
            price=routes.pricer(self._planner.catalog()),
            learn=Learner(self.ledger, decision if plan is None else plan.decision),
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
