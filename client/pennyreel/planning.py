"""Decides where a job may go, from all that is known now. Costs nothing and sends nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from pennyreel import routes, types
from pennyreel.backends.base import Work
from pennyreel.books import Allowed
from pennyreel.config import Settings
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money import catalog, live
from pennyreel.money.catalog import Catalog
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Labels
from pennyreel.routing.decision import Decision, Verdict
from pennyreel.routing.explain import headline, time_text
from pennyreel.routing.facts import Place, Rules, Spent
from pennyreel.routing.machine import Option
from pennyreel.routing.quote import Quote, better_text, quote
from pennyreel.survey import Opener, Survey
from pennyreel.terms import Terms
from pennyreel_contract import Result


@dataclass(frozen=True)
class Plan:
    """What was decided for a job, from what, and what follows for the router."""

    quoted: Quote
    options: list[Option]
    allowed: Allowed
    anywhere: bool
    """The user did not say where it may go."""

    @property
    def decision(self) -> Decision:
        """What was decided."""
        return self.quoted.decision

    @property
    def first(self) -> types.Chosen | None:
        """What a person is told first."""
        chosen = self.quoted.chosen
        return None if chosen is None else types.Chosen(chosen.backend, headline(self.decision))

    def refusal(self, job_id: str) -> PennyreelError:
        """Return the error of a plan that has no option, with the ways to have one."""
        problem = self.decision.refusal()
        if problem.code == Code.NOT_CONFIGURED.value and self.anywhere and self.quoted.better:
            problem = error(
                Code.NOT_CONFIGURED,
                "nothing here can make it yet",
                hint="have one of these, cheapest first:\n"
                + "".join(f"{line}\n" for line in self._here())
                + f"{better_text(self.quoted.better)}\n"
                f"what each lacks: pennyreel why {job_id[:12]}",
                detail=problem.info.detail,
            )
        problem.info.detail["job_id"] = job_id
        return problem

    def _here(self) -> list[str]:
        """Return what this machine itself could do, with its time; at no cost."""
        return [
            f"here, on {c.device or 'this machine'}: {c.price.text()}, {time_text(c.seconds)}: "
            + "; then again with ".join([*c.fixes[:1], *(w.flag for w in c.consents)])
            for c in self.quoted.rows
            if c.place == Place.LOCAL.value and c.verdict is Verdict.UNAVAILABLE
        ]


class Planner:
    """One a client. Thread-safe."""

    def __init__(self, settings: Settings, opener: Opener, ledger: Callable[[], Ledger]) -> None:
        """Keep the settings, what opens a shared backend, and what opens the ledger."""
        self._settings, self._opener, self._ledger = settings, opener, ledger

    def plan(self, work: Work, terms: Terms, *, asking: bool) -> Plan:
        """Ask every backend, and decide; `asking`: somebody can be asked for a yes."""
        live.keep_fresh(self._settings, self._ledger())
        rules, table = self._rules(terms), self.catalog()
        facts = self._survey(work, terms, table).facts(work.need, named=rules.forced)
        quoted = quote(facts, work.need, rules, table, now=time.time(), spent=self._spent())
        options, priced = routes.options_of(quoted.decision, facts, asking=asking)
        caps = routes.caps_of(rules)
        allowed = Allowed(priced, caps, rules.allow_unknown_price, rules.cost_limit)
        anywhere = rules.forced is None and rules.kinds is None and not rules.private
        return Plan(quoted, options, allowed, anywhere)

    def catalog(self) -> Catalog:
        """Return the prices."""
        file = str(self._settings.config_file or "the config file")
        return catalog.load(self._settings.home, self._settings.prices, file=file)

    def _rules(self, terms: Terms) -> Rules:
        budgets = self._ledger().budgets()
        own = any(b.cap.scope.kind == "all" and b.cap.period == "day" for b in budgets)
        return routes.rules_of(terms, default_backend=self._settings.backend, budgeted=own)

    def _survey(self, work: Work, terms: Terms, table: Catalog) -> Survey:
        labels = Labels(**routes.labels_of(terms, work.need.template))
        return Survey(self._settings, self._opener, self._ledger(), table, labels)

    def _spent(self) -> Spent:
        """Return what this day has cost; a job begins at nothing."""
        since = int(time.time() // 86400) * 86_400_000
        today = self._ledger().spending("day", since_ms=since)
        return Spent(day=sum(one.spent + one.reserved for one in today))


@dataclass(frozen=True)
class Learner:
    """Keeps how long a profile took on the GPU that it ran on."""

    ledger: Ledger
    decision: Decision | None
    """Why the job is where it is, and on which GPU, whichever process decided it."""

    def __call__(self, option: Option, work: Work, result: Result) -> None:
        """Learn from a result."""
        chosen = self.decision and self.decision.find(option.key)
        gpu = chosen.gpu if chosen else ""
        seconds = result.timings.get("execute") or (result.gpu and result.gpu.seconds)
        if not gpu or not seconds or not work.need.profile or result.replayed:
            return
        with suppress(PennyreelError):  # it is made: what was not learned is no failure
            self.ledger.learn(work.need.profile, gpu, seconds / (work.need.size or 1.0))
