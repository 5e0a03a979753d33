"""Quotes a job on every backend, and sends it by the router. What `Client` does with a ledger."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyreel import routes, types
from pennyreel.backends.base import Backend, Work
from pennyreel.books import LedgerBooks
from pennyreel.config import Settings
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money import catalog
from pennyreel.money.catalog import Catalog
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Labels
from pennyreel.routed import CLAIM_S, Parts, RoutedJob
from pennyreel.routing.decision import Decision, Outcome
from pennyreel.routing.explain import headline
from pennyreel.routing.facts import Facts, Rules, Spent
from pennyreel.routing.machine import Ask, Option
from pennyreel.routing.policy import decide
from pennyreel.routing.quote import Quote, quote
from pennyreel.spool import Order, Spool
from pennyreel.survey import Opener, Survey
from pennyreel.terms import Terms
from pennyreel.types import RunResult
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import Result, new_attempt_id


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
        self._settings, self._opener, self._fresh = settings, opener, fresh
        self._spool = Spool(settings.home / "spool")
        self._lock = threading.Lock()
        self._ledger: Ledger | None = None

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

    def quote(self, work: Work, terms: Terms) -> Quote:
        """Return what the job would cost and take everywhere; costs nothing and sends nothing."""
        rules = self._rules(terms)
        table = self._catalog()
        facts = self._survey(work, terms, table).facts(work.need, named=rules.forced)
        return quote(facts, work.need, rules, table, now=time.time(), spent=self._spent())

    def send(
        self,
        work: Work,
        terms: Terms,
        *,
        out_dir: Path,
        deadline: Deadline,
        ask: Callable[[Ask], bool] | None = None,
    ) -> RoutedJob:
        """Decide where a job goes, and send it there; returns at once.

        Raises:
            BadRequest: `consent_required`, with the quote and the flag that allows it.
            Unavailable: no backend can do it; its hint has the ways to have one.

        """
        rules, table = self._rules(terms), self._catalog()
        facts = self._survey(work, terms, table).facts(work.need, named=rules.forced)
        decision = decide(facts, work.need, rules, now=time.time(), spent=self._spent())
        job_id = new_attempt_id()
        labels = Labels(**routes.labels_of(terms, work.need.template))
        self.ledger.record_job(
            job_id,
            request_sha256=work.digest(),
            need=work.need,
            labels=labels,
            backends=decision.order,
            policy=decision.policy,
        )
        self.ledger.record_decision(job_id, routes.decided(decision))
        options, priced = routes.options_of(decision, facts, asking=ask is not None)
        if not options:
            raise self._refused(job_id, decision)
        books = LedgerBooks(
            self.ledger,
            priced=priced,
            caps=routes.caps_of(rules),
            unpriced=rules.allow_unknown_price,
        )
        books.begin(job_id, options)
        self._spool.put(job_id, Order(work, out_dir))
        first = types.Chosen(options[0].backend, headline(decision))
        learned = _Learner(self.ledger, tuple(facts))
        parts = self._parts(books, table, learned, ask)
        return RoutedJob(
            job_id, work, parts, out_dir=out_dir, deadline=deadline, first=first
        ).start()

    def resume(
        self,
        job_id: str,
        *,
        deadline: Deadline | None = None,
        out_dir: Path | None = None,
        cancel: bool = False,
    ) -> RoutedJob:
        """Go on with a job whose client has ended; `cancel`: only to stop it.

        Raises:
            BadRequest: it has ended, another process drives it, or its request is not here.

        """
        job = self.ledger.job(job_id)
        if job.outcome is not None:
            raise error(
                Code.BAD_REQUEST,
                f"job {job.job_id} has ended: {job.outcome}",
                hint=f"See it: pennyreel jobs show {job.job_id}",
            )
        still = self.ledger.open_attempts(job.job_id)
        if still and not self.ledger.claim_open(CLAIM_S, job.job_id):
            raise error(
                Code.BAD_REQUEST,
                f"another process is driving job {job.job_id}",
                hint=f"Wait for it, or stop it: pennyreel jobs cancel {job.job_id}",
            )
        order = self._spool.get(job.job_id)
        books = LedgerBooks(self.ledger)
        parts = self._parts(books, self._catalog(), _Learner(self.ledger, ()), None)
        resumed = RoutedJob(
            job.job_id,
            order.work,
            parts,
            out_dir=out_dir or order.out_dir,
            deadline=deadline or Deadline(None),
        )
        return resumed if cancel else resumed.start()

    def request(self, job_id: str) -> Order:
        """Return what a job asked for; raises BadRequest where it is not on this machine."""
        return self._spool.get(self.ledger.job(job_id).job_id)

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

    def _parts(
        self,
        books: LedgerBooks,
        table: Catalog,
        learn: Callable[[Option, Work, Result], None],
        ask: Callable[[Ask], bool] | None,
    ) -> Parts:
        return Parts(
            ledger=self.ledger,
            books=books,
            backends=_Backends(self._fresh),
            spool=self._spool,
            price=routes.pricer(table),
            learn=learn,
            ask=ask,
        )

    def _refused(self, job_id: str, decision: Decision) -> PennyreelError:
        problem = decision.refusal()
        outcome = problem.code if decision.outcome is not Outcome.GO else Code.INTERNAL.value
        self.ledger.end_job(job_id, outcome, {"outcome": "refused"})
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
        gpu = facts.gpu or facts.price.sku
        with suppress(PennyreelError):  # it is made: what was not learned is no failure
            self.ledger.learn(work.need.profile, gpu, seconds / (work.need.size or 1.0))
