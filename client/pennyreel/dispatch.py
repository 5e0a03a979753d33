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
from pennyreel.books import Allowed, LedgerBooks
from pennyreel.config import Settings
from pennyreel.errors import BadRequest, Code, PennyreelError, error
from pennyreel.money import catalog, live
from pennyreel.money.catalog import Catalog
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Job, Labels
from pennyreel.routed import CLAIM_S, Parts, RoutedJob
from pennyreel.routing.decision import Decision, Verdict
from pennyreel.routing.explain import headline, time_text
from pennyreel.routing.facts import Facts, Place, Rules, Spent
from pennyreel.routing.machine import Ask, Option, Trouble
from pennyreel.routing.quote import Quote, better_text, quote
from pennyreel.spool import Held, Order, Spool
from pennyreel.survey import Opener, Survey
from pennyreel.terms import Terms
from pennyreel.types import RunResult
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


@dataclass(frozen=True)
class _Plan:
    """What was decided for a job, from what, and what follows for the router."""

    quoted: Quote
    facts: list[Facts]
    options: list[Option]
    allowed: Allowed
    anywhere: bool
    """The user did not say where it may go."""

    @property
    def decision(self) -> Decision:
        return self.quoted.decision

    @property
    def here(self) -> list[str]:
        """What this machine itself could do, with its time; at no cost."""
        return [
            f"here, on {c.device or 'this machine'}: {c.price.text()}, {time_text(c.seconds)}: "
            + "; then again with ".join([*c.fixes[:1], *(w.flag for w in c.consents)])
            for c in self.quoted.rows
            if c.place == Place.LOCAL.value and c.verdict is Verdict.UNAVAILABLE
        ]

    @property
    def first(self) -> types.Chosen | None:
        """What a person is told first."""
        chosen = self.quoted.chosen
        return None if chosen is None else types.Chosen(chosen.backend, headline(self.decision))


class Dispatch:
    """One a client. Thread-safe."""

    def __init__(self, settings: Settings, opener: Opener, fresh: Opener) -> None:
        """Open nothing yet.

        Args:
            settings: the client's.
            opener: returns a backend that is shared.
            fresh: returns one that whoever asks for it closes.

        """
        self._settings, self._opener, self._fresh = settings, opener, fresh
        self._spool = Spool(settings.home / "spool")
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None
        self._driven: WeakSet[RoutedJob] = WeakSet()

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
        return self._plan(work, terms, asking=False).quoted

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
        plan = self._plan(work, terms, asking=ask is not None)
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
                plan = self._plan(order.work, order.terms, asking=ask is not None)
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
        plan: _Plan | None,
        deadline: Deadline,
        ask: Callable[[Ask], bool] | None,
    ) -> RoutedJob:
        """Return the job, ready to be driven: by this plan, or by that in the books."""
        books = LedgerBooks(self.ledger, order.work.words())
        if plan is not None:
            books.begin(job_id, plan.options, plan.allowed)
        parts = Parts(
            ledger=self.ledger,
            books=books,
            backends=_Backends(self._fresh),
            spool=self._spool,
            held=held,
            price=routes.pricer(self._catalog()),
            learn=_Learner(self.ledger, () if plan is None else tuple(plan.facts)),
            ask=ask,
        )
        first = None if plan is None else plan.first
        job = RoutedJob(
            job_id, order.work, parts, out_dir=order.out_dir, deadline=deadline, first=first
        )
        self._driven.add(job)
        return job

    def _plan(self, work: Work, terms: Terms, *, asking: bool) -> _Plan:
        live.keep_fresh(self._settings, self.ledger)
        rules, table = self._rules(terms), self._catalog()
        facts = self._survey(work, terms, table).facts(work.need, named=rules.forced)
        quoted = quote(facts, work.need, rules, table, now=time.time(), spent=self._spent())
        options, priced = routes.options_of(quoted.decision, facts, asking=asking)
        allowed = Allowed(priced, routes.caps_of(rules), rules.allow_unknown_price)
        anywhere = rules.forced is None and rules.kinds is None and not rules.private
        return _Plan(quoted, facts, options, allowed, anywhere)

    def _rest(self, job: Job) -> Order:
        """Return a job's request for a cancel, which needs none of it: nothing is sent."""
        with suppress(PennyreelError):
            return self._spool.get(job.job_id)
        return Order(Work(job.job_id, {}), self._settings.out_dir)

    def _record(self, job_id: str, work: Work, terms: Terms, plan: _Plan) -> None:
        self.ledger.record_job(
            job_id,
            request_sha256=work.digest(),
            need=work.need,
            labels=Labels(**routes.labels_of(terms, work.need.template)),
            backends=plan.decision.order,
            policy=plan.decision.policy,
        )
        self.ledger.record_decision(job_id, routes.decided(plan.decision))

    def _refused(self, job_id: str, plan: _Plan) -> PennyreelError:
        problem = plan.decision.refusal()
        if problem.code == Code.NOT_CONFIGURED.value and plan.anywhere and plan.quoted.better:
            problem = error(
                Code.NOT_CONFIGURED,
                "nothing here can make it yet",
                hint="have one of these, cheapest first:\n"
                + "".join(f"{line}\n" for line in plan.here)
                + f"{better_text(plan.quoted.better)}\n"
                f"what each lacks: pennyreel why {job_id[:12]}",
                detail=problem.info.detail,
            )
        self.ledger.end_job(job_id, problem.code, {"outcome": "refused"})
        problem.info.detail["job_id"] = job_id
        return problem

    def _rules(self, terms: Terms) -> Rules:
        own = any(
            one.cap.scope.kind == "all" and one.cap.period == "day" for one in self.ledger.budgets()
        )
        return routes.rules_of(terms, default_backend=self._settings.backend, budgeted=own)

    def _catalog(self) -> Catalog:
        file = str(self._settings.config_file or "the config file")
        return catalog.load(self._settings.home, self._settings.prices, file=file)

    def _survey(self, work: Work, terms: Terms, table: Catalog) -> Survey:
        labels = Labels(**routes.labels_of(terms, work.need.template))
        return Survey(self._settings, self._opener, self.ledger, table, labels)

    def _spent(self) -> Spent:
        """Return what this day has cost; a job begins at nothing."""
        today = self.ledger.spending("day", since_ms=int(time.time() // 86400) * 86_400_000)
        return Spent(day=sum(one.spent + one.reserved for one in today))


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
