"""A job on its way through the router: its events, its result, its end, however often it moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pennyreel import types
from pennyreel.backends.base import Backend, Work
from pennyreel.books import LedgerBooks
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.fetching import Fetching
from pennyreel.heard import keep
from pennyreel.money.ledger import Ledger
from pennyreel.routing.breakers import Breakers
from pennyreel.routing.driver import Driver, Ended, Left
from pennyreel.routing.failures import failure, left
from pennyreel.routing.machine import Ask, Option, Outcome
from pennyreel.routing.machine import Told as RouterTold
from pennyreel.routing.ports import Backends, Ears, Order, Price
from pennyreel.spool import Held, Spool
from pennyreel.types import Artifact, Attempt, Handle, JobEvent, RunResult
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result

LOOK_S = 2.0
"""How often it is looked whether another process wants the job no more: `jobs cancel`."""

RENEW_S = 30.0
"""How often a job that is being driven says that it is; its claims last four times as long."""

CLAIM_S = 120.0
LEAVE_S = 5.0
"""After the deadline, how long a job may take to stop, or a lost one to be found."""

LAST_CALL_S = 30.0
"""How much longer the answer to a call is waited for that is under way then."""

_TICK_S = 0.5


@dataclass(frozen=True)
class Parts:
    """What a job is driven with."""

    ledger: Ledger
    books: LedgerBooks
    backends: Backends
    spool: Spool
    held: Held
    """The right to drive the job; given back when it has ended."""
    price: Price
    learn: Callable[[Option, Work, Result], None] = lambda *_: None
    """Told of each result that was made."""
    ask: Callable[[Ask], bool] | None = None


@dataclass
class _Made:
    """What has come of it so far."""

    artifacts: tuple[Artifact, ...] = ()
    result: Result | None = None
    handle: Handle | None = None
    events: list[JobEvent] = field(default_factory=list)


class RoutedJob:
    """One job. `events()` and `result()` may be used from any thread; both start it."""

    def __init__(
        self,
        job_id: str,
        work: Work,
        parts: Parts,
        *,
        out_dir: Path,
        deadline: Deadline,
        first: JobEvent | None = None,
    ) -> None:
        """Use `Client.generate`, `Client.route` or `Client.resume`."""
        self.id = job_id
        self._work, self._parts = work, parts
        self._out_dir, self._deadline = out_dir, deadline
        self._changed = threading.Condition()
        self._made = _Made(events=[] if first is None else [first])
        self._problem: BaseException | None = None
        self._end: RunResult | None = None
        self._over = threading.Event()
        self._late: Deadline | None = None
        self._last_call = False
        self._begun = False
        self._clock = _Clock()
        parts.books.on_accepted = lambda told: self._tell(types.Submitted(Handle.parse(told)))
        self._driver = self._drive()
        self._thread = threading.Thread(
            target=self._run, name=f"pennyreel-route-{job_id[:8]}", daemon=True
        )
        self._keeper = threading.Thread(
            target=self._keep, name=f"pennyreel-keep-{job_id[:8]}", daemon=True
        )

    def start(self) -> RoutedJob:
        """Begin, where it has not begun."""
        with self._changed:
            begun, self._begun = self._begun, True
        if not begun:
            self._thread.start()
            self._keeper.start()
        return self

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly."""
        return self._over.is_set()

    @property
    def handle(self) -> Handle | None:
        """Of the attempt that runs or has won, once it is accepted."""
        with self._changed:
            return self._made.handle

    def events(self) -> Iterator[JobEvent]:
        """Yield what happens, from the beginning, until Finished. Raises nothing of the job's."""
        self.start()
        seen = 0
        while True:
            with self._changed:
                while len(self._made.events) == seen:
                    self._changed.wait(_TICK_S)  # bounded, so that Ctrl-C works on Windows
                fresh = self._made.events[seen:]
            seen += len(fresh)
            yield from fresh
            if isinstance(fresh[-1], types.Finished):
                return

    def result(self, timeout_s: float | None = None) -> RunResult:
        """Wait for the end and return what it made, saved on this disk.

        Raises:
            PennyreelError: it failed everywhere; `info.detail["attempts"]` has each attempt.
            TimeoutError: it has not ended within `timeout_s`; it goes on.

        """
        self.start()
        limit = Deadline(timeout_s)
        while not self._over.wait(limit.left(_TICK_S)):
            if limit.expired:
                raise TimeoutError(f"job {self.id} has not ended within {timeout_s:g} s")
        if self._problem is not None:
            raise self._problem
        if self._end is None:  # pragma: no cover - one of the two is set
            raise RuntimeError("a job ended without a result")
        return self._end

    def cancel(self) -> bool:
        """Stop it; return whether it is known that nothing of it runs any more."""
        self._driver.cancel()
        self.start()
        while not self._over.wait(_TICK_S):
            pass
        left = self._parts.ledger.open_attempts(self.id)
        return not left

    def _drive(self) -> Driver:
        parts = self._parts
        ears = Ears(
            told=self._told,
            event=self._tell,
            ask=self._asked,
        )
        return Driver(
            self.id,
            Order(self._work, self._fetch, parts.price, self._deadline),
            books=parts.books,
            backends=parts.backends,
            breakers=Breakers(parts.ledger),
            ears=ears,
        )

    def _run(self) -> None:
        problem: BaseException | None = None
        if self._deadline.expired:  # before anything was sent: nothing is
            self._end_late()
        try:
            ended = self._driver.run()
            problem = self._failure(ended)
            if problem is None:
                self._end = self._result(ended)
            if ended.outcome is Outcome.DONE:
                self._parts.spool.remove(self.id)
        except Left:
            problem = self._left()
        except PennyreelError as failed:
            problem = failed
        except Exception as failed:  # noqa: BLE001 - whatever it is belongs to who waits
            # Its words may quote what they should not; whoever debugs finds them in the cause.
            problem = error(Code.INTERNAL, f"unforeseen: {type(failed).__name__}")
            problem.__cause__ = failed
        self._give_back()
        info = problem.info if isinstance(problem, PennyreelError) else None
        self._problem = problem
        self._tell(types.Finished("done" if info is None else info.code, info))
        self._over.set()

    def _give_back(self) -> None:
        """Let others drive it; where it has not ended, also what is left of it."""
        ended = False
        with suppress(PennyreelError):
            ended = self._parts.ledger.job(self.id).outcome is not None
        self._parts.held.release(ended=ended)

    def _failure(self, ended: Ended) -> PennyreelError | None:
        """Return the error that it ended with; a deadline's cancel is a timeout."""
        problem = failure(ended)
        if problem is None or self._late is None or ended.outcome is not Outcome.CANCELLED:
            return problem
        told = self._deadline.error("the job")
        still = self._parts.ledger.open_attempts(self.id)
        hint = problem.hint if still else None
        return error(Code.TIMEOUT, str(told), hint=hint, detail={"confirmed_stopped": not still})

    def _left(self) -> PennyreelError:
        """Return the error of a job that was left at its deadline; others may go on with it."""
        still = self._parts.ledger.open_attempts(self.id)
        for attempt in still:
            self._parts.ledger.unclaim(attempt.attempt_id)
        return left(self.id, str(self._deadline.error("the job")), still)

    def _keep(self) -> None:
        """Keep the job ours, and end it at its deadline, or when another process says so."""
        renewed = time.monotonic()
        while not self._over.wait((self._late or self._deadline).left(LOOK_S)):
            if self._late is None and self._deadline.expired:
                self._end_late()
            elif self._late is not None and self._late.expired:
                self._leave()
            with suppress(PennyreelError):  # a ledger that is away for a moment
                if self._parts.books.cancelled(self.id):
                    self._driver.cancel()
                if time.monotonic() - renewed >= RENEW_S:
                    renewed = time.monotonic()
                    self._renew()

    def _renew(self) -> None:
        for attempt in self._parts.ledger.open_attempts(self.id):
            self._parts.ledger.claim(attempt.attempt_id, CLAIM_S)

    def _end_late(self) -> None:
        self._late = Deadline(LEAVE_S)
        self._driver.cancel()

    def _leave(self) -> None:
        """Wait no longer than for what is under way, and then not even for that."""
        self._driver.leave(at_once=self._last_call)
        self._late, self._last_call = Deadline(LAST_CALL_S), True

    def _asked(self, question: Ask) -> bool:
        """Ask the user; a yes after an unknown attempt is one to paying for another."""
        agreed = self._parts.ask is not None and self._parts.ask(question)
        if agreed and question.unknown:
            self._parts.books.beside_unknown = True
        return agreed

    def _fetch(self, backend: Backend, handle: Handle, result: Result, cancel: CancelToken) -> None:
        again = f"pennyreel jobs fetch {self.id}"
        self._clock.executed()
        limit = Deadline(None)  # it is made and paid for
        fetching = Fetching(backend, handle, self._out_dir, limit, cancel, again, self._tell)
        for text in result.warnings:
            self._tell(types.Warned(text))
        artifacts = fetching.all(result)
        with self._changed:
            self._made.artifacts, self._made.result = artifacts, result
        option = self._option(handle)
        if option is not None:
            self._parts.learn(option, self._work, result)

    def _option(self, handle: Handle) -> Option | None:
        """Return what was chosen; a backend's handle may name another target than its option."""
        options = self._parts.books.record(self.id).options
        own = [o for o in options if o.backend == handle.backend]
        return next((o for o in own if o.target == handle.target), own[0] if own else None)

    def _result(self, ended: Ended) -> RunResult:
        if ended.handle is None or self._made.result is None:
            raise error(
                Code.RESULT_EXPIRED,
                f"job {self.id} had ended before",
                hint=f"See it: pennyreel jobs show {self.id}",
            )
        job, remote = self._parts.ledger.job(self.id), self._made.result
        with self._changed:
            warned = [e.text for e in self._made.events if isinstance(e, types.Warned)]
        return RunResult(
            job_id=self.id,
            backend=ended.handle.backend,
            handle=ended.handle,
            artifacts=self._made.artifacts,
            timings=self._clock.timings(),
            remote_timings=dict(remote.timings),
            gpu=None if remote.gpu is None else remote.gpu.model_dump(exclude_none=True),
            attempts=tuple(
                Attempt(a.backend, a.attempt_id, a.code or a.state) for a in job.attempts
            ),
            warnings=tuple(dict.fromkeys(warned)),
            seed=remote.seed,
            metadata=dict(remote.metadata),
            cost_microusd=job.spent + job.reserved,
            replayed=remote.replayed,
        )

    def _told(self, told: RouterTold) -> None:
        self._tell(types.Told(told.text, told.code))

    def _tell(self, event: JobEvent) -> None:
        with self._changed:
            if isinstance(event, types.Submitted):
                self._made.handle = event.handle
            if isinstance(event, types.Started):
                self._clock.started()
            keep(self._made.events, event)
            self._changed.notify_all()


class _Clock:
    """Measures a job's stages as they are seen from here; of several attempts, the last one's."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._started: float | None = None
        self._executed: float | None = None

    def started(self) -> None:
        """A worker has it."""
        self._started = time.monotonic()

    def executed(self) -> None:
        """Its result is told, its files are not here."""
        self._executed = self._executed or time.monotonic()

    def timings(self) -> dict[str, float]:
        """Seconds by stage; they add up to the total."""
        now = time.monotonic()
        executed = self._executed or now
        started = min(self._started or executed, executed)
        stages = {
            "queue": started - self._began,
            "execute": executed - started,
            "fetch": now - executed,
            "total": now - self._began,
        }
        return {name: round(seconds, 3) for name, seconds in stages.items()}
