"""Our policy, state machine and breakers, as they are shipped, for all jobs in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from economy_sim.backends import Answer, Run, Site
from economy_sim.demand import Sort, Wish
from economy_sim.tables import LOCAL, Kind
from pennyreel.money.catalog import Catalog
from pennyreel.money.pricing import price
from pennyreel.routing import breaker as breakers
from pennyreel.routing.facts import Facts
from pennyreel.routing.facts import Rules as Allowed
from pennyreel.routing.machine import (
    Job,
    JobRecord,
    Option,
    Outcome,
    Rules,
    Trouble,
    resume,
    step,
)
from pennyreel.routing.machine import effects as do
from pennyreel.routing.machine import events as ev
from pennyreel.routing.policy import decide

_FAST_S = 0.3
OVER = Trouble("consent_required", "the job's maximum does not allow it")


@dataclass
class Tally:
    """What came of all jobs."""

    jobs: int = 0
    done: int = 0
    failed: int = 0
    unknown: int = 0
    refused: int = 0
    paid: int = 0
    """Micro-dollars that backends bill, whatever for."""
    seconds: float = 0.0
    moved: int = 0
    by: dict[str, int] = field(default_factory=dict)
    costs: dict[int, int] = field(default_factory=dict)
    """Of each job that is done: what was billed for it."""
    why: dict[str, int] = field(default_factory=dict)


@dataclass
class _Live:
    wish: Wish
    job: Job
    tries: int = 0
    runs: dict[int, Run] = field(default_factory=dict)
    costs: dict[int, int] = field(default_factory=dict)


class Play:
    """One simulation of ours."""

    def __init__(
        self,
        sites: dict[str, Site],
        kinds: Iterable[Kind],
        catalog: Catalog,
        *,
        max_cost: int,
        local: Any,
        seed: int,
    ) -> None:
        """Keep all of it; `local(user)` is a user's own GPU."""
        self.sites, self.kinds, self.catalog = sites, tuple(kinds), catalog
        self.allowed = Allowed(max_cost=max_cost, job_limit=None, day_limit=None)
        self.max_cost, self.local = max_cost, local
        self.random = Random(seed)  # noqa: S311 - a simulation
        self.breakers: dict[str, breakers.Breaker] = {}
        self.heap: list[tuple[float, int, Any, Any]] = []
        self.serial, self.now = 0, 0.0
        self.tally = Tally()
        self.chosen: dict[Any, tuple[Option, ...]] = {}

    def run(self, wishes: Iterable[Wish]) -> Tally:
        """Play every job to its end."""
        coming = iter(wishes)
        wish = next(coming, None)
        while wish is not None or self.heap:
            if wish is not None and (not self.heap or wish.at <= self.heap[0][0]):
                self.now = wish.at
                self._begin(wish)
                wish = next(coming, None)
                continue
            self.now, _, live, event = heapq.heappop(self.heap)
            if callable(event):
                event = event()
            live.job, effects = step(live.job, event)
            self._do(live, effects)
        return self.tally

    # -- choosing ------------------------------------------------------------------------------

    def _begin(self, wish: Wish) -> None:
        self.tally.jobs += 1
        options = self._options(wish)
        if not options:
            self.tally.refused += 1
            return
        rules = Rules()
        job, effects = resume(JobRecord(str(wish.number), options, rules=rules), self.now)
        self._do(_Live(wish, job), effects)

    def _options(self, wish: Wish) -> tuple[Option, ...]:
        """Ask the policy. The same facts give the same answer, so they are asked for once."""
        shut = tuple(k for k in self.breakers if (self.breakers[k].open_until or 0) > self.now)
        known = (wish.sort.name, wish.gpu, shut)
        if known not in self.chosen:
            self.chosen[known] = self._decide(wish.sort, gpu=wish.gpu, shut=shut)
        return self.chosen[known]

    def _decide(self, sort: Sort, *, gpu: bool, shut: tuple[str, ...]) -> tuple[Option, ...]:
        kinds = [k for k in self.kinds if k is not LOCAL or gpu]
        facts = {k.name: self._facts(k) for k in kinds}
        told = decide(facts.values(), sort.need, self.allowed, now=self.now)
        by_name = {k.name: k for k in kinds}
        options = [_option(by_name[key], facts[key]) for key in told.order]
        # What is cooling down comes last: by then it may be well again.
        options.sort(key=lambda o: o.key in shut)
        return tuple(options)

    def _facts(self, kind: Kind) -> Facts:
        return Facts(
            kind.name,
            kind.abilities,
            price(kind.usage, self.catalog, kind.expected),
            place=kind.place,
            seconds=kind.expected,
        )

    # -- doing ---------------------------------------------------------------------------------

    def _do(self, live: _Live, effects: tuple[do.Effect, ...]) -> None:
        for effect in effects:
            perform = getattr(self, f"_{type(effect).__name__.lower()}", None)
            if perform is not None:
                perform(live, effect)

    def _later(self, live: _Live, seconds: float, event: Any) -> None:
        self.serial += 1
        heapq.heappush(self.heap, (self.now + seconds, self.serial, live, event))

    def _site(self, live: _Live, n: int) -> Site:
        name = live.job.options[n].backend
        site: Site = self.local(live.wish.user) if name == LOCAL.name else self.sites[name]
        return site

    def _judge(self, live: _Live, n: int, trouble: Trouble | None) -> None:
        key, token = live.job.options[n].key, f"{live.wish.number}:{n}"
        if key == LOCAL.name:
            return  # each user has one of their own; a breaker for it would be theirs alone
        state = self.breakers.get(key, breakers.Breaker())
        if trouble is None:
            self.breakers[key] = breakers.succeeded(state, token, self.now)
        else:
            self.breakers[key] = breakers.failed(
                state,
                token,
                trouble.code,
                self.now,
                jitter=self.random.random(),
                retry_after_s=trouble.retry_after_s,
            )

    def _reserve(self, live: _Live, e: do.Reserve) -> None:
        state = self.breakers.get(e.option.key, breakers.Breaker())
        state, told = breakers.admit(state, f"{live.wish.number}:{e.n}", self.now)
        self.breakers[e.option.key] = state
        if not told.allowed:
            self._later(live, 0, ev.Blocked(e.n, e.call, told.until, self.now))
        elif sum(live.costs.values()) + e.option.reserve_microusd > self.max_cost:
            self._later(live, 0, ev.OverBudget(e.n, e.call, OVER, self.now))
        else:
            live.costs[e.n] = e.option.reserve_microusd
            self._later(live, 0, ev.Reserved(e.n, e.call, self.now))

    def _settle(self, live: _Live, e: do.Settle) -> None:
        if e.microusd is not None:
            live.costs[e.n] = e.microusd

    def _submit(self, live: _Live, e: do.Submit) -> None:
        live.tries += 1
        answer: Answer = self._site(live, e.n).submit(live.wish.number, live.tries, self.now)
        if answer.run is not None:
            live.runs[e.n] = answer.run
        at, jitter, trouble = self.now + _FAST_S, self.random.random(), answer.trouble
        if trouble is None:
            self._later(live, _FAST_S, ev.Accepted(e.n, e.call, "handle", at))
            return
        self._judge(live, e.n, trouble)
        kind = ev.NotAccepted if answer.said == "no" else ev.Lost
        self._later(live, _FAST_S, kind(e.n, e.call, trouble, at, jitter))

    def _lookup(self, live: _Live, e: do.LookUp) -> None:
        at = self.now + _FAST_S
        if e.n in live.runs:
            self._later(live, _FAST_S, ev.Accepted(e.n, e.call, "handle", at))
        else:
            trouble = Trouble("backend_unavailable", "it has no such job", retryable=True)
            self._later(live, _FAST_S, ev.NotAccepted(e.n, e.call, trouble, at, 0.5))

    def _follow(self, live: _Live, e: do.Follow) -> None:
        run, option = live.runs[e.n], live.job.options[e.n]
        if run.starts_at > run.at + option.queue_s:
            self._later(live, 0.1, ev.Queued(e.n, self.now))
        started = max(0.0, run.starts_at - self.now)
        if run.starts_at <= e.deadline_at:
            self._later(live, started, ev.Started(e.n, run.starts_at))
        until = max(self.now, min(run.ends_at, e.deadline_at))
        self._later(live, until - self.now, lambda: self._look(live, e))

    def _stop(self, live: _Live, e: do.Stop) -> None:
        stop = do.Follow(e.n, e.call, "handle", self.now)
        self._later(live, 1.0, lambda: self._look(live, stop))

    def _look(self, live: _Live, e: do.Follow) -> ev.Event:
        run = live.runs[e.n]
        if run.ends_at <= self.now and not run.stopped:
            self._judge(live, e.n, run.trouble)
            if run.trouble is None:
                return ev.Succeeded(e.n, e.call, self.now, run.bill)
            return ev.Failed(e.n, e.call, run.trouble, self.now, run.bill)
        sure = self._site(live, e.n).stop(run, self.now)
        late = Trouble("timeout", "it was stopped", retryable=True)
        return ev.Stopped(e.n, e.call, sure, late, self.now, 0.5, run.bill if sure else None)

    def _fetch(self, live: _Live, e: do.Fetch) -> None:
        self._later(live, 2.0, ev.Fetched(e.n, e.call, self.now))

    def _wait(self, live: _Live, e: do.Wait) -> None:
        until = max(e.until, self.now)
        self._later(live, until - self.now, ev.Woke(e.n, e.call, until))

    def _ask(self, live: _Live, e: do.Ask) -> None:
        self._later(live, 0.1, ev.Denied(e.call, self.now))

    def _end(self, live: _Live, e: do.End) -> None:
        tally, wish = self.tally, live.wish
        tally.moved += len(live.runs) > 1
        if e.outcome is Outcome.DONE and e.winner is not None:
            tally.done += 1
            name = live.job.options[e.winner].backend
            tally.by[name] = tally.by.get(name, 0) + 1
            tally.costs[wish.number] = sum(run.bill for run in live.runs.values())
            tally.seconds += self.now - wish.at
        elif e.outcome is Outcome.UNKNOWN:
            tally.unknown += 1
        elif e.outcome is Outcome.REFUSED:
            tally.refused += 1
        else:
            tally.failed += 1
            last = e.troubles[-1][1].code if e.troubles else "?"
            why = f"{wish.sort.name}, {'GPU' if wish.gpu else 'no GPU'}: {last}"
            tally.why[why] = tally.why.get(why, 0) + 1


def _option(kind: Kind, facts: Facts) -> Option:
    likely = kind.seconds[1] + kind.cold_s[1]
    return Option(
        kind.name,
        reserve_microusd=facts.price.high or 0,
        expect_s=likely,
        deadline_s=3 * likely + kind.seconds[2],
        queue_s=120.0,
        cancels=kind.abilities.cancels,
        looks_up=kind.abilities.looks_up,
        replays=kind.abilities.replays,
        engine=kind.engine,
    )
