"""Plays one history: the machine, its books, adversaries, a user, and crashes, in virtual time."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from pennyreel.routing.machine import effects as do
from pennyreel.routing.machine import events as ev
from pennyreel.routing.machine import resume, step
from pennyreel.routing.machine.states import Attempt, Job, Option, Outcome, Rules, Stage, Trouble
from properties.router_books import Books, OverLimit
from properties.router_remote import (
    BAD,
    BUSY,
    CANCELLED,
    DOWN,
    LATE,
    SILENT,
    Remote,
    Temper,
    Word,
)

MOST_STEPS = 4000
DENIED = Trouble("budget_exceeded", "today's budget is spent")
NO_DISK = Trouble("disk_full", "this disk is full")
NO_LINK = Trouble("storage_failed", "the bucket does not answer", retryable=True)


class Crash(Exception):
    """The client is killed."""


@dataclass
class Tally:
    """What happened in all histories."""

    histories: int = 0
    moved: int = 0
    moves: int = 0
    crashes: int = 0
    lies: int = 0
    late: int = 0
    asked: int = 0
    returns: int = 0
    turns: int = 0
    had_to_succeed: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)

    def add(self, world: World) -> None:
        """Count one history."""
        tried = sum(r.submits > 0 for r in world.remotes)
        self.histories += 1
        self.moved += tried > 1
        self.moves += max(0, tried - 1)
        self.crashes += world.crashes
        self.lies += sum(r.lied for r in world.remotes)
        self.late += world.late
        self.asked += world.asked
        self.returns += world.books.returns
        self.turns += world.turns
        self.had_to_succeed += world.must_succeed()
        name = world.books.outcome.value if world.books.outcome else "none"
        self.outcomes[name] = self.outcomes.get(name, 0) + 1

    def __str__(self) -> str:
        ends = ", ".join(f"{n} {name}" for name, n in sorted(self.outcomes.items()))
        return (
            f"{self.histories} histories: {self.moved} jobs moved ({self.moves} moves), "
            f"{self.crashes} crashes, {self.lies} lies, {self.late} late successes, "
            f"{self.asked} questions, {self.returns} returns, {self.turns} turns; {ends}; "
            f"{self.had_to_succeed} had to succeed and did"
        )


class World:
    """One history. `crash_at`: the effect at which the client is killed, besides by chance."""

    def __init__(self, seed: int, crash_at: int | None = None) -> None:
        self.seed, self.random = seed, Random(seed)  # noqa: S311 - histories, not secrets
        r = self.random
        self.now = 1000.0
        self.options = tuple(_option(r, n) for n in range(r.choice([1, 2, 2, 3, 3, 4])))
        if r.random() < 0.1:  # listed twice
            twin = replace(self.options[0], reserve_microusd=5000)
            self.options = (*self.options, twin)
        self.remotes = [Remote(o, _temper(r), r) for o in self.options]
        self.words = [Word() for _ in self.options]
        limit = r.choice([10**9, 10**9, sum(o.reserve_microusd for o in self.options) // 2])
        self.rules = Rules(sends=3, looks=3, stops=3, fetches=3)
        self.books = Books("job", self.options, limit, self.rules)
        self.books.most = r.choice([None, None, 20_000, 60_000])
        self.agreeable = r.random() < 0.4
        self.unkind_storage = r.choice([0.0, 0.0, 0.3])
        self.blocking = r.choice([0.0, 0.0, 0.3])
        self.crowded = r.choice([0.0, 0.0, 0.5])
        self.in_line: dict[int, float] = {}
        self.turns = 0
        self.doubles = r.choice([0.0, 0.1, 0.3])
        self.crash_chance = r.choice([0.0, 0.0, 0.03, 0.1])
        self.crashes_left, self.crashes, self.crash_at = 4, 0, crash_at
        self.user_cancels = self.now + r.uniform(0, 400) if r.random() < 0.12 else None
        self.others_cancelled = False
        self.forgiven: set[int] = set()
        self.denials = 0
        self.fatal: Trouble | None = None
        self.blocked: set[int] = set()
        self.poor: set[int] = set()
        self.fetch_failures, self.fetch_hopeless = 0, False
        self.effects, self.late, self.asked = 0, 0, 0
        self.heap: list[tuple[float, int, ev.Event]] = []
        self.serial = 0
        self.following: dict[int, tuple[int, float]] = {}
        self.settled_at: dict[int, float] = {}
        self.job: Job | None = None

    # -- the play ------------------------------------------------------------------------------

    def play(self) -> Outcome:
        self._live(lambda: resume(self.books.record(), self.now, self.random.random()))
        for _ in range(MOST_STEPS):
            if self.books.outcome is not None:
                self.check()
                return self.books.outcome
            if self.user_cancels is not None and self._next_at() >= self.user_cancels:
                self.now, self.user_cancels = max(self.now, self.user_cancels), None
                self.user_cancelled = True
                self._live(lambda: self._step(ev.CancelAsked(self.now)))
                continue
            assert self.heap, "the job waits for nothing, and has not ended"
            at, _, event = heapq.heappop(self.heap)
            self.now = max(self.now, at)
            if self.random.random() < self.doubles:
                self._later(event, self.random.choice([0.0, 0.1, 30.0]))
            if self._heard(event):
                self._live(lambda event=event: self._step(event))
        raise AssertionError("the job does not end")

    user_cancelled = False
    made = False
    """The router was told of a result, and not killed since."""

    def _next_at(self) -> float:
        return self.heap[0][0] if self.heap else float("inf")

    def _step(self, event: ev.Event) -> tuple[Job, tuple[do.Effect, ...]]:
        assert self.job is not None
        return step(self.job, event)

    def _live(self, turn: Callable[[], tuple[Job, tuple[do.Effect, ...]]]) -> None:
        """Take a step and do what it says; after a crash, go on from the books."""
        while not self._survived(turn):
            self.heap.clear()
            self.following.clear()
            self._forget()
            self.now += self.random.choice([0.0, 5.0, 300.0])
            turn = self._resume

    def _survived(self, turn: Callable[[], tuple[Job, tuple[do.Effect, ...]]]) -> bool:
        try:
            self.job, effects = turn()
            for effect in effects:
                self._maybe_crash()
                _DO[type(effect)](self, effect)
                self._maybe_crash()
        except Crash:
            return False
        return True

    def _forget(self) -> None:
        """What was not written down is not known any more."""
        self.crashes += 1
        for n, kept in self.books.attempts.items():
            if kept.stage is Stage.SENDING:
                self.words[n].said, self.words[n].torn = "maybe", True
                self.words[n].unsure = True
        for word in self.words:
            word.not_before = 0.0  # nor is how long a backend wanted to be left alone
        self.made = False
        self.in_line.clear()  # nor is its place in the line

    def _attempts(self) -> tuple[Attempt, ...]:
        return () if self.job is None else self.job.attempts

    def _resume(self) -> tuple[Job, tuple[do.Effect, ...]]:
        return resume(self.books.record(), self.now, self.random.random())

    def _maybe_crash(self) -> None:
        self.effects += 1
        by_chance = self.crashes_left > 0 and self.random.random() < self.crash_chance
        if self.effects == self.crash_at or by_chance:
            self.crashes_left -= 1
            raise Crash

    def _later(self, event: ev.Event, seconds: float) -> None:
        self.serial += 1
        heapq.heappush(self.heap, (self.now + seconds, self.serial, event))

    # -- effects -------------------------------------------------------------------------------

    def reserve(self, e: do.Reserve) -> None:
        assert self.now >= self.in_line.pop(e.n, 0.0), "its turn has come"
        elsewhere = e.option.stands_in or any(a.n != e.n for a in self._attempts())
        assert e.moved == (elsewhere and e.option.reserve_microusd > 0), "who moves is told"
        if e.moved and self.random.random() < self.crowded:
            self.turns += 1
            self.in_line[e.n] = self.now + self.random.choice([1.0, 40.0, 300.0])
            self._later(ev.InLine(e.n, e.call, self.in_line[e.n], self.now), 0.01)
            return
        if self.random.random() < self.blocking:
            self.blocked.add(e.n)
            until = self.now + self.random.choice([5.0, 50.0, 500.0])
            self._later(ev.Blocked(e.n, e.call, until, self.now), 0.01)
            return
        self.blocked.discard(e.n)
        try:
            self.books.reserve(e.n, e.option)
        except OverLimit:
            self.poor.add(e.n)
            self._later(ev.OverBudget(e.n, e.call, DENIED, self.now), 0.01)
            return
        self._maybe_crash()
        self._later(ev.Reserved(e.n, e.call, self.now), 0.01)

    def write(self, e: do.Write) -> None:
        self.books.write(e.n, e.stage, e.handle, e.at)

    def submit(self, e: do.Submit) -> None:
        self._may_submit(e.n)
        remote, word = self.remotes[e.n], self.words[e.n]
        remote.submits += 1
        word.said = "maybe"
        temper = remote.temper
        if remote.accepted_at is None and remote.happens(temper.refuses):
            trouble = self.random.choice([BUSY, BUSY, DOWN, DOWN, BAD])
            if trouble is BUSY:
                trouble = replace(BUSY, retry_after_s=self.random.choice([1.0, 20.0, 20.0, 900.0]))
            if remote.happens(temper.lies):
                remote.lied = True
                remote.accept(self.now)
            self._later(self._no(e, trouble), 0.1)
        elif remote.happens(temper.loses):
            if self.random.random() < 0.7:
                remote.accept(self.now)
            self._later(self._lost(e), self.random.choice([0.1, 30.0]))
        else:
            remote.accept(self.now)
            self._maybe_crash()
            self._later(ev.Accepted(e.n, e.call, f"job{e.n}", self.now), 0.1)

    def _may_submit(self, n: int) -> None:
        """The heart of it: what must hold at the moment of each submit."""
        assert not self.in_line, "nothing else is sent while it waits for its turn"
        assert self.books.attempts[n].stage is Stage.SENDING, "written down before it is sent"
        assert n in self.books.costs, "its money is held"
        assert n not in self.books.settled, "its money is held still"
        assert not self.books.cancel, "nothing is sent after a cancel"
        assert not self.user_cancelled or self.crashes, "nothing is sent after a cancel"
        assert self.fatal is None, "what is the job's own fault, or paid for, is not run again"
        assert self.now >= self.words[n].not_before, "Retry-After is honoured"
        option, word = self.options[n], self.words[n]
        assert option.consented or self.agreeable, "the user agreed to the price"
        within = self.books.most is None or self.books.counted <= self.books.most
        free = not option.reserve_microusd
        assert within or free or self.agreeable, "the job's own limit, with what failed before"
        again = word.said in {"nothing", "refused"} or (word.said == "maybe" and option.replays)
        assert again, f"the same backend again, which {word.said}"
        assert self.remotes[n].submits < self.rules.sends + self.crashes * self.rules.sends
        for other, said in enumerate(self.words):
            if other != n and said.said in {"maybe", "accepted"}:
                assert self._forgiven(other), f"{other} may be alive: {said.said}"

    def _forgiven(self, n: int) -> bool:
        """Whether another may follow: the user agreed, or there is nothing to pay."""
        kept = self.books.attempts.get(n)
        free = self.options[n].reserve_microusd == 0
        return n in self.forgiven or (free and kept is not None and kept.stage is Stage.UNKNOWN)

    def look_up(self, e: do.LookUp) -> None:
        remote = self.remotes[e.n]
        assert remote.option.looks_up, "only where there is a look-up"
        if remote.happens(remote.temper.silent) or remote.happens(remote.temper.loses):
            self._later(self._lost(e), 1.0)
        elif remote.accepted_at is None:
            self._later(self._no(e, DOWN), 0.1)
        elif remote.happens(remote.temper.lies):
            remote.lied = True
            self._later(self._no(e, DOWN), 0.1)
        else:
            self._later(ev.Accepted(e.n, e.call, f"job{e.n}", self.now), 0.1)

    def follow(self, e: do.Follow) -> None:
        remote = self.remotes[e.n]
        assert e.handle == f"job{e.n}"
        assert remote.accepted_at is not None
        self.following[e.n] = (e.call, e.deadline_at)
        if remote.happens(remote.temper.silent):
            pause = self.random.choice([0.1, 10.0])
            self._later(ev.Gone(e.n, e.call, SILENT, self.now + pause, self.random.random()), pause)
        if remote.happens(remote.temper.meddled) and not remote.ended(self.now):
            # Somebody stops it on the vendor's own page.
            remote.stopped_at = remote.stopped_at or self.now
        if remote.starts_at is None or remote.starts_at > self.now:
            self._later(ev.Queued(e.n, self.now), 0.1)
        if remote.starts_at is not None:
            self._later(ev.Started(e.n, remote.starts_at), max(0.0, remote.starts_at - self.now))
        ends = [t for t in (remote.ends_at, remote.stopped_at) if t is not None]
        until = min([*ends, e.deadline_at])
        self._later(_Look(e.n, e.call), max(0.1, until - self.now))

    def stop(self, e: do.Stop) -> None:
        assert self.following.get(e.n, (None,))[0] == e.call, "what is stopped is followed"
        self.following[e.n] = (e.call, self.now)
        self._later(_Look(e.n, e.call), 0.1)

    def settle(self, e: do.Settle) -> None:
        self.books.settle(e.n, e.stage, e.microusd, e.trouble)
        self.settled_at.setdefault(e.n, self.now)

    def fetch(self, e: do.Fetch) -> None:
        if self.random.random() < self.unkind_storage:
            trouble = self.random.choice([NO_LINK, NO_LINK, NO_DISK])
            self._later(ev.FetchFailed(e.n, e.call, trouble, self.now, self.random.random()), 0.1)
        else:
            self._later(ev.Fetched(e.n, e.call, self.now), 0.1)

    def wait(self, e: do.Wait) -> None:
        assert e.until < self.now + 3600
        self._later(ev.Woke(e.n, e.call, max(e.until, self.now)), max(0.0, e.until - self.now))

    def ask(self, e: do.Ask) -> None:
        self.asked += 1
        answer = ev.Consented if self.agreeable else ev.Denied
        self._later(answer(e.call, self.now), self.random.choice([0.1, 60.0]))

    def mark_cancelled(self, _: do.MarkCancelled) -> None:
        self.books.cancel = True

    def told(self, e: do.Told) -> None:
        assert e.text

    def end(self, e: do.End) -> None:
        self.books.end(e.outcome)

    # -- what the router hears -----------------------------------------------------------------

    def _no(self, e: Any, trouble: Trouble) -> ev.Event:
        return ev.NotAccepted(e.n, e.call, trouble, self.now, self.random.random())

    def _lost(self, e: Any) -> ev.Event:
        return ev.Lost(e.n, e.call, SILENT, self.now, self.random.random())

    def _heard(self, event: ev.Event) -> bool:
        """Note what the router is told; a look at a followed job becomes its answer here."""
        if isinstance(event, _Look):
            answer = self._answer(event)
            if answer is not None:
                self._later(answer, 0.0)
            return False
        hear = _HEAR.get(type(event))
        if hear is not None:
            hear(self, event)
        if isinstance(event, (ev.Consented, ev.Denied)) and self.job is not None:
            self._answered(event)
        return True

    def _answered(self, event: ev.Event) -> None:
        if self.job is None or self.job.asking != event.call:  # type: ignore[union-attr]
            return
        if isinstance(event, ev.Denied):
            self.denials += 1
            return
        self.forgiven |= {n for n, a in self.books.attempts.items() if a.stage is Stage.UNKNOWN}

    def _answer(self, look: _Look) -> ev.Event | None:
        call, until = self.following.get(look.n, (0, 0.0))
        if call != look.call:
            return None
        remote, jitter = self.remotes[look.n], self.random.random()
        del self.following[look.n]
        if remote.ended(self.now):
            return self._ending(remote, look)
        if remote.stopped_at is not None and self.now < until:
            trouble = CANCELLED
            self.others_cancelled = True
            return ev.Stopped(look.n, call, True, trouble, self.now, jitter)
        confirmed = remote.stop(self.now)
        told = remote.billed() if confirmed and self.random.random() < 0.5 else None
        if confirmed and remote.lied and remote.stopped_at is None:
            told = None
            self._late_success(remote, look)
        return ev.Stopped(look.n, call, confirmed, LATE, self.now, jitter, told)

    def _late_success(self, remote: Remote, look: _Look) -> None:
        if remote.ends_at is None or not remote.success or self.random.random() < 0.3:
            return
        self.late += 1
        seconds = max(0.1, remote.ends_at - self.now)
        self._later(ev.Succeeded(look.n, look.call, self.now + seconds, remote.bill), seconds)

    def _ending(self, remote: Remote, look: _Look) -> ev.Event:
        bill = remote.bill if self.random.random() < 0.7 else None
        if remote.success:
            return ev.Succeeded(look.n, look.call, self.now, bill)
        assert remote.trouble is not None
        return ev.Failed(look.n, look.call, remote.trouble, self.now, bill)

    def _current(self, event: Any) -> bool:
        attempt = self.job.find(event.n) if self.job else None
        if attempt is None or self.books.outcome is not None:
            return False
        return attempt.call == event.call and bool(attempt.awaits)

    def hear_accepted(self, e: ev.Accepted) -> None:
        if self.words[e.n].said in {"maybe", "refused"}:
            self.words[e.n].said, self.words[e.n].unsure = "accepted", False

    def hear_no(self, e: ev.NotAccepted) -> None:
        if not self._current(e):
            return
        word, attempt = self.words[e.n], self.job.find(e.n) if self.job else None
        if word.unsure and attempt is not None and attempt.awaits == "submit":
            word.losses += 1  # the repeat was refused: nobody asked about what was sent before
            return
        word.said, word.last, word.unsure = "refused", e.trouble, False
        word.refusals += 1
        word.big_pause = (e.trouble.retry_after_s or 0) > self.rules.most_s
        word.not_before = e.at + (e.trouble.retry_after_s or 0) - 0.001

    def hear_lost(self, e: ev.Lost) -> None:
        self.words[e.n].losses += self._current(e)
        self.words[e.n].unsure |= self._current(e)

    def hear_gone(self, e: ev.Gone) -> None:
        if self._current(e):
            self.words[e.n].silences += 1
            self.fetch_failures += self.books.attempts[e.n].stage is Stage.DONE
            self.following.pop(e.n, None)

    def hear_stopped(self, e: ev.Stopped) -> None:
        if self._current(e):
            word = self.words[e.n]
            word.last = e.trouble
            word.said = "over" if e.confirmed else word.said
            word.unconfirmed += not e.confirmed

    def hear_succeeded(self, e: ev.Succeeded) -> None:
        self.words[e.n].said = "over"
        self.made = True

    def hear_failed(self, e: ev.Failed) -> None:
        if self._current(e):
            word = self.words[e.n]
            word.said, word.last = "over", e.trouble
            if e.trouble.code in {"execution_failed", "result_expired"}:
                self.fatal = e.trouble

    def hear_fetch_failed(self, e: ev.FetchFailed) -> None:
        if self._current(e):
            self.fetch_failures += 1
            self.fetch_hopeless |= not e.trouble.retryable

    # -- what must hold at the end -------------------------------------------------------------

    def check(self) -> None:
        books = self.books
        assert books.ends == 1
        for n, kept in books.attempts.items():
            assert kept.stage.value in {"refused", "failed", "stopped", "done", "unknown"}, kept
            assert n in books.settled, "no money is held for ever"
        honest = [r for r in self.remotes if not r.lied]
        paid = sum(r.paid_result() for r in honest if r.option.reserve_microusd)
        assert paid <= 1 + len(self.forgiven), f"{paid} paid results"
        for n, remote in enumerate(self.remotes):
            if not remote.lied:
                assert books.costs.get(n, 0) >= remote.billed(), "counted less than is billed"
        assert sum(r.billed() for r in honest) <= books.limit, "over the budget"
        submitted = [n for n, r in enumerate(self.remotes) if r.submits]
        keys = [self.options[n].key for n in submitted]
        assert len(keys) == len(set(keys)), "a backend was tried twice"
        for n in self.settled_at:
            assert self._in_time(n), f"option {n} ran for too long"
        outcome = books.outcome
        assert outcome is not None
        assert not self.made or outcome in {Outcome.DONE, Outcome.UNFETCHED}, "a result was lost"
        assert not self.must_succeed() or outcome is Outcome.DONE, "it could have succeeded"
        _ENDS[outcome](self)

    def _in_time(self, n: int) -> bool:
        """Whether a job that hangs cost no more than its deadline, where its backend is honest."""
        remote, option, temper = self.remotes[n], self.options[n], self.remotes[n].temper
        honest = temper.loses + temper.lies + temper.silent + temper.unconfirmed == 0
        if self.crashes or not honest or not option.cancels or remote.starts_at is None:
            return True
        return self.settled_at[n] <= remote.starts_at + option.deadline_s + 5

    def must_succeed(self) -> bool:
        """Whether the rules allowed all moves, and some backend works.

        Nobody cancelled it, no attempt's end is unknown for good reasons, no failure is the job's
        own, the files can be fetched; and a backend that works is within budget, consented to,
        and not cooling down.
        """
        unknown = [n for n, a in self.books.attempts.items() if a.stage is Stage.UNKNOWN]
        stuck = any(not self._forgiven(n) and self._warranted(n) for n in unknown)
        if self.books.cancel or self.user_cancelled or self.fatal or stuck:
            return False
        if self.fetch_hopeless or self.fetch_failures >= self.rules.fetches:
            return False
        return any(self._able(n) for n in range(len(self.options)))

    def _able(self, n: int) -> bool:
        agreed = self._agreed(n)
        shut = n in self.poor or n in self.blocked or self._twin(n) or n in self.forgiven
        lost = n in self.books.attempts and self.books.attempts[n].stage is Stage.UNKNOWN
        return self.remotes[n].temper.works and agreed and not shut and not lost

    def _agreed(self, n: int) -> bool:
        """Whether an option needed no yes, or had it: the job's limit counts what failed, too."""
        option, most = self.options[n], self.books.most
        kept = self.books.attempts.get(n)
        begun = kept is not None and kept.stage is not Stage.REFUSED  # that may be come back to
        free = begun or most is None or not option.reserve_microusd
        within = free or self.books.counted + option.reserve_microusd <= (most or 0)
        return (option.consented and within) or self.agreeable

    def end_done(self) -> None:
        done = [n for n, a in self.books.attempts.items() if a.stage is Stage.DONE]
        assert any(self.remotes[n].paid_result() for n in done)

    def end_unfetched(self) -> None:
        tries = self.fetch_failures >= self.rules.fetches
        excused = self.fetch_hopeless or self.crashes or self.books.cancel
        assert tries or excused, "the files were not tried for long enough"

    def end_cancelled(self) -> None:
        assert self.user_cancelled or self.others_cancelled

    def end_unknown(self) -> None:
        unknown = [n for n, a in self.books.attempts.items() if a.stage is Stage.UNKNOWN]
        assert unknown
        unknown = [n for n in unknown if n not in self.forgiven]
        for n in unknown:
            assert self._warranted(n), f"option {n} was given up too early"
        if self.denials == 0:
            for n in self._left():
                self._exhausted(n)

    def end_failed(self) -> None:
        if self.fatal is not None:
            return
        for n in range(len(self.options)):
            self._exhausted(n)

    def end_refused(self) -> None:
        assert not any(r.submits for r in self.remotes)
        for n in range(len(self.options)):
            self._exhausted(n)

    def _exhausted(self, n: int) -> None:
        """Whether everything that the rules allow was tried with an option."""
        if n in self.poor or n in self.blocked or self._twin(n) or self._forgiven(n):
            return
        if not self._agreed(n):
            return
        word, remote = self.words[n], self.remotes[n]
        assert remote.submits, f"option {n} was never tried"
        assert not remote.temper.works, f"option {n} works"
        if word.said == "refused" and word.last is not None and word.last.retryable:
            assert remote.submits >= self.rules.sends or word.big_pause or self.crashes

    def _twin(self, n: int) -> bool:
        keys = [o.key for o in self.options]
        return keys.count(keys[n]) > 1

    def _left(self) -> list[int]:
        tried = {self.options[n].key for n in self.books.attempts}
        skipped = self.poor | self.blocked
        return [n for n, o in enumerate(self.options) if o.key not in tried and n not in skipped]

    def _warranted(self, n: int) -> bool:
        """Whether an attempt's end is really beyond finding out."""
        option, word = self.options[n], self.words[n]
        if word.said == "maybe":  # sent, no answer
            if option.looks_up:
                return word.losses >= self.rules.looks or self.crashes > 0
            return word.torn or not option.replays or self._sent_enough(n)
        silent = word.silences >= self.rules.looks or word.silences >= self.rules.stops
        stops = word.unconfirmed + word.silences
        return silent or stops > (self.rules.stops if option.cancels else 0)

    def _sent_enough(self, n: int) -> bool:
        return self.remotes[n].submits >= self.rules.sends or self.user_cancelled


@dataclass(frozen=True)
class _Look:
    """A follower's look at the job that decides."""

    n: int
    call: int


def _option(r: Random, n: int) -> Option:
    return Option(
        backend=f"b{n}",
        reserve_microusd=r.choice([0, 1000, 18_000, 50_000]),
        start_microusd=r.choice([0, 0, 500]),
        expect_s=30.0,
        deadline_s=90.0,
        queue_s=r.choice([15.0, 40.0]),
        patience_s=r.choice([100.0, 600.0]),
        retry_s=r.choice([0.0, 10.0, 60.0]),
        cancels=r.random() < 0.7,
        looks_up=r.random() < 0.5,
        replays=r.random() < 0.3,
        consented=r.random() < 0.85,
        stands_in=r.random() < 0.1,
        engine="comfyui",
    )


def _temper(r: Random) -> Temper:
    kind = r.random()
    if kind < 0.3:
        return Temper()
    if kind < 0.4:
        return Temper(refuses=1.0)
    if kind < 0.5:
        return Temper(hangs=1.0, unconfirmed=r.choice([0.0, 0.5]))
    liar = r.choice([0.0, 0.0, 0.5])
    names = ("refuses", "loses", "hangs", "fails", "silent", "unconfirmed", "meddled")
    chances = (0.0, 0.0, 0.2, 0.6)
    return Temper(lies=liar, **{name: r.choice(chances) for name in names})


_DO: dict[type, Callable[[World, Any], None]] = {
    do.Reserve: World.reserve,
    do.Write: World.write,
    do.Submit: World.submit,
    do.LookUp: World.look_up,
    do.Follow: World.follow,
    do.Stop: World.stop,
    do.Settle: World.settle,
    do.Fetch: World.fetch,
    do.Wait: World.wait,
    do.Ask: World.ask,
    do.MarkCancelled: World.mark_cancelled,
    do.Told: World.told,
    do.End: World.end,
}
_HEAR: dict[type, Callable[[World, Any], None]] = {
    ev.Accepted: World.hear_accepted,
    ev.NotAccepted: World.hear_no,
    ev.Lost: World.hear_lost,
    ev.Gone: World.hear_gone,
    ev.Stopped: World.hear_stopped,
    ev.Succeeded: World.hear_succeeded,
    ev.Failed: World.hear_failed,
    ev.FetchFailed: World.hear_fetch_failed,
}
_ENDS: dict[Outcome, Callable[[World], None]] = {
    Outcome.DONE: World.end_done,
    Outcome.UNFETCHED: World.end_unfetched,
    Outcome.CANCELLED: World.end_cancelled,
    Outcome.UNKNOWN: World.end_unknown,
    Outcome.FAILED: World.end_failed,
    Outcome.REFUSED: World.end_refused,
}
