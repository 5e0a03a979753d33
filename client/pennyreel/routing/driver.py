"""Runs the machine for one job against real backends. No rule is in here.

    effects of the machine -> calls of books, breakers and backends -> events for the machine

One thread drives a job; one more follows the attempt that is accepted.
"""

from __future__ import annotations

import heapq
import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from pennyreel.backends.base import Backend
from pennyreel.errors import PennyreelError
from pennyreel.routing import hearing
from pennyreel.routing.breakers import Breakers
from pennyreel.routing.follower import Follower
from pennyreel.routing.judging import blocked, judge
from pennyreel.routing.machine import effects as do
from pennyreel.routing.machine import events as ev
from pennyreel.routing.machine import resume, rules, step
from pennyreel.routing.machine.states import Job, Option, Outcome, Trouble
from pennyreel.routing.pacing import Pace
from pennyreel.routing.ports import Backends, Books, Clock, Ears, Order, RealClock
from pennyreel.types import Handle
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import new_attempt_id

_TICK_S = 0.5
_JOIN_S = 5.0
_LEAVE_S = 1.0
_NOT_THERE = Trouble("backend_unavailable", "it does not have the job", retryable=True)


@dataclass(frozen=True)
class Ended:
    """How a job ended."""

    job_id: str
    outcome: Outcome
    winner: Option | None = None
    handle: Handle | None = None
    troubles: tuple[tuple[Option, Trouble], ...] = ()
    """Of each option that was tried or passed over, in the order of trying."""
    resumed: bool = False
    """It had ended before."""


class Left(Exception):
    """Nobody waits for the job any longer. It has not ended, and its books are open."""


@dataclass(frozen=True)
class _Leave:
    """Someone said so, among the events."""

    when: Callable[[Job], bool]


class Driver:
    """Drives one job to its end: `run`, called once. All else may come from any thread."""

    def __init__(
        self,
        job_id: str,
        order: Order,
        *,
        books: Books,
        backends: Backends,
        breakers: Breakers,
        pace: Pace,
        ears: Ears | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Keep all of it; the books have the job's record, with its options."""
        self._job_id, self._order, self._books = job_id, order, books
        self._backends, self._breakers, self._pace = backends, breakers, pace
        self._secrets = order.work.secrets()
        self._ears, self._clock = ears or Ears(), clock or RealClock()
        self._events: queue.SimpleQueue[ev.Event | _Leave] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, ev.Woke]] = []
        self._serial = 0
        self._followers: dict[int, Follower] = {}
        self._opened: dict[int, Backend] = {}
        self._fetching = CancelToken()
        self._options: tuple[Option, ...] = ()
        self._end: do.End | None = None

    def run(self) -> Ended:
        """Drive the job to its end, from where the books have it; raises Left where it is left."""
        record = self._books.record(self._job_id)
        self._options = record.options
        if record.outcome is not None:
            return Ended(self._job_id, record.outcome, resumed=True)
        job, effects = resume(record, self._clock.now(), self._clock.jitter())
        leaving: Callable[[Job], bool] = _never
        try:
            self._do(effects)
            while self._end is None:
                event = self._next()
                if isinstance(event, _Leave):
                    leaving = event.when
                else:
                    job, effects = step(job, event)
                    self._do(effects)
                if self._end is None and leaving(job) and self._events.empty():
                    raise Left  # what was heard is in the books
        finally:
            self._close()
        return self._ended(job, self._end)

    def cancel(self) -> None:
        """The user does not want the job any more; `run` ends when it is known to have stopped."""
        self._events.put(ev.CancelAsked(self._clock.now()))
        self._fetching.cancel()

    def leave(self, *, at_once: bool = False) -> None:
        """Wait no longer, but for the answer to a call that is under way, unless `at_once`.

        Nothing is given up: what is not known stays open in the books, for a `run` to go on with.
        """
        self._events.put(_Leave((lambda _: True) if at_once else rules.only_waits))

    def detach(self) -> None:
        """Let go of the job as soon as a backend has it: nothing is stopped, the books stay open.

        What is made by then is fetched, and ends here.
        """
        self._events.put(_Leave(rules.runs_by_itself))

    def _do(self, effects: tuple[do.Effect, ...]) -> None:
        for effect in effects:
            _DO[type(effect)](self, effect)

    def _next(self) -> ev.Event | _Leave:
        """Wait for what happens next; bounded, so that Ctrl-C works on Windows."""
        while True:
            now = self._clock.now()
            if self._timers and self._timers[0][0] <= now:
                return replace(heapq.heappop(self._timers)[2], at=now)
            left = self._timers[0][0] - now if self._timers else _TICK_S
            with suppress(queue.Empty):
                return self._events.get(timeout=max(0.001, min(_TICK_S, left)))

    def _post(self, event: ev.Event) -> None:
        """Have the machine hear this, and the breaker what it says of the backend."""
        event = hearing.discreet(event, self._secrets)
        if not isinstance(event, (ev.Consented, ev.Denied, ev.CancelAsked)):
            key, token = self._options[event.n].key, self._token(event.n)
            judge(self._breakers, key, token, event, self._clock.jitter())
        self._events.put(event)

    def _token(self, n: int) -> str:
        return f"{self._job_id}:{n}"

    def _open(self, n: int) -> Backend:
        if n not in self._opened:
            self._opened[n] = self._backends.open(self._options[n])
        return self._opened[n]

    def _try(self, n: int, call: Callable[[Backend], ev.Event], heard: Any, number: int) -> None:
        """Call a backend; whatever it raises is heard as an event."""
        try:
            event = call(self._open(n))
        except Exception as problem:  # noqa: BLE001 - hearing has one rule for each
            event = heard(problem, n, number, self._clock.now(), self._clock.jitter())
        self._post(event)

    # -- effects -------------------------------------------------------------------------------

    def reserve(self, e: do.Reserve) -> None:
        """Ask the breaker, then for a turn, then the budget."""
        now, key, token = self._clock.now(), e.option.key, self._token(e.n)
        admitted = self._breakers.admit(key, token, now)
        if not admitted.allowed:
            cooling = blocked(e.option, admitted, now)
            self._events.put(ev.Blocked(e.n, e.call, admitted.until, now, cooling))
            return
        if not self._its_turn(e, now):
            self._breakers.released(key, token)
            return
        try:
            self._books.reserve(self._job_id, e.n, e.option, new_attempt_id())
        except PennyreelError as problem:
            self._breakers.released(key, token)
            self._events.put(ev.OverBudget(e.n, e.call, hearing.trouble(problem), now))
            return
        self._events.put(ev.Reserved(e.n, e.call, self._clock.now()))

    def _its_turn(self, e: do.Reserve, now: float) -> bool:
        """Whether a job that moves may go there now; else it is told when."""
        if not e.moved:
            return True
        told = self._pace.ask(e.option.key, now, e.option.patience_s, self._clock.jitter())
        if told.now:
            return True
        line: ev.Event = ev.InLine(e.n, e.call, told.at, now)
        if not told.waits:
            line = ev.Blocked(e.n, e.call, told.at, now, self._pace.full())
        self._events.put(line)
        return False

    def write(self, e: do.Write) -> None:
        """Keep it."""
        self._books.write(self._job_id, e.n, e.stage, e.handle, e.at)

    def submit(self, e: do.Submit) -> None:
        """Send it, with the attempt's id and the option's deadline for the server."""
        try:
            self._open(e.n)
        except Exception as problem:  # noqa: BLE001 - whatever it is, nothing was sent
            now, jitter = self._clock.now(), self._clock.jitter()
            self._post(ev.NotAccepted(e.n, e.call, hearing.trouble(problem), now, jitter))
            return
        option, order, work = self._options[e.n], self._order, self._order.work
        limit = min(work.timeout_s or option.deadline_s, option.deadline_s)
        attempt_id = self._books.attempt_id(self._job_id, e.n)
        # As long as its follower waits for it at most.
        queue_s = option.patience_s if option.cancels else option.queue_s
        sent = replace(work, attempt_id=attempt_id, timeout_s=limit, queue_s=queue_s)

        def call(backend: Backend) -> ev.Event:
            handle = backend.submit(sent, Deadline(order.deadline.left(option.deadline_s)))
            return ev.Accepted(e.n, e.call, str(handle), self._clock.now())

        self._try(e.n, call, hearing.of_submit, e.call)

    def look_up(self, e: do.LookUp) -> None:
        """Find it by its id. Only a plain "no" is one."""

        def call(backend: Backend) -> ev.Event:
            now, jitter = self._clock.now(), self._clock.jitter()
            found = backend.lookup(self._books.attempt_id(self._job_id, e.n))
            if found is None:
                return ev.NotAccepted(e.n, e.call, _NOT_THERE, now, jitter)
            return ev.Accepted(e.n, e.call, str(found), now)

        def lost(problem: Exception, n: int, number: int, at: float, jitter: float) -> ev.Event:
            return ev.Lost(n, number, hearing.trouble(problem), at, jitter)

        self._try(e.n, call, lost, e.call)

    def follow(self, e: do.Follow) -> None:
        """Begin to follow it in a thread of its own."""
        try:
            backend = self._open(e.n)
        except Exception as problem:  # noqa: BLE001 - the job was accepted, whatever it is
            told = hearing.trouble(problem)
            self._post(ev.Gone(e.n, e.call, told, self._clock.now(), self._clock.jitter()))
            return
        option, order = self._options[e.n], self._order

        def spent(problem: Exception) -> int | None:
            usage = hearing.usage_of(problem, backend.usage(order.work.need))
            return None if usage is None else order.price(option, usage)

        self._followers[e.n] = Follower(
            e,
            backend,
            self._clock,
            post=self._post,
            hear=self._ears.event,
            bill=lambda result: order.price(option, backend.billed(order.work.need, result)),
            spent=spent,
        )

    def stop(self, e: do.Stop) -> None:
        """Tell its follower."""
        self._followers[e.n].stop()

    def settle(self, e: do.Settle) -> None:
        """Keep its end and its cost."""
        self._books.settle(self._job_id, e.n, e.stage, e.microusd, e.trouble)

    def fetch(self, e: do.Fetch) -> None:
        """Save the files."""
        follower = self._followers[e.n]

        def call(backend: Backend) -> ev.Event:
            self._order.fetch(backend, follower.handle, follower.made, self._fetching)
            return ev.Fetched(e.n, e.call, self._clock.now())

        self._try(e.n, call, hearing.of_fetch, e.call)

    def wait(self, e: do.Wait) -> None:
        """Wake it later."""
        self._serial += 1
        heapq.heappush(self._timers, (e.until, self._serial, ev.Woke(e.n, e.call, e.until)))

    def ask(self, e: do.Ask) -> None:
        """Ask, and wait for the answer."""
        answer = ev.Consented if self._ears.ask(e) else ev.Denied
        self._events.put(answer(e.call, self._clock.now()))

    def mark_cancelled(self, _: do.MarkCancelled) -> None:
        """Keep it."""
        self._books.mark_cancelled(self._job_id)

    def told(self, e: do.Told) -> None:
        """Pass it on."""
        self._ears.told(e)

    def end(self, e: do.End) -> None:
        """Keep it, and stop."""
        self._books.end(self._job_id, e.outcome, e.winner, e.troubles)
        self._end = e

    def _close(self) -> None:
        """Let go. Jobs go on where theirs has not ended: only the end stops what is left."""
        for follower in self._followers.values():
            if self._end is not None:
                follower.stop()
                follower.thread.join(_JOIN_S)
            else:  # one that is in a call sees it after that
                follower.leave()
                follower.thread.join(_LEAVE_S)
        for backend in self._opened.values():
            backend.close()

    def _ended(self, job: Job, end: do.End) -> Ended:
        won = None if end.winner is None else job.find(end.winner)
        return Ended(
            self._job_id,
            end.outcome,
            None if won is None else self._options[won.n],
            None if won is None or won.handle is None else Handle.parse(won.handle),
            tuple((self._options[n], trouble) for n, trouble in end.troubles),
        )


def _never(_: Job) -> bool:
    return False


_DO: dict[type, Callable[[Driver, Any], None]] = {
    do.Reserve: Driver.reserve,
    do.Write: Driver.write,
    do.Submit: Driver.submit,
    do.LookUp: Driver.look_up,
    do.Follow: Driver.follow,
    do.Stop: Driver.stop,
    do.Settle: Driver.settle,
    do.Fetch: Driver.fetch,
    do.Wait: Driver.wait,
    do.Ask: Driver.ask,
    do.MarkCancelled: Driver.mark_cancelled,
    do.Told: Driver.told,
    do.End: Driver.end,
}
