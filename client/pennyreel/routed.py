"""A job on its way through the router: its events, its result, its end, however often it moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pennyreel import types
from pennyreel.backends.base import Backend, Work
from pennyreel.books import LedgerBooks
from pennyreel.chronicle import TICK_S, Chronicle, let_go
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.fetching import Fetching
from pennyreel.money.ledger import Ledger
from pennyreel.routing.breakers import Breakers
from pennyreel.routing.driver import Driver, Ended, Left
from pennyreel.routing.failures import failure, left
from pennyreel.routing.machine import Ask, Option, Outcome
from pennyreel.routing.machine import Told as RouterTold
from pennyreel.routing.pacing import Pace
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


@dataclass(frozen=True)
class Parts:
    """What a job is driven with."""

    ledger: Ledger
    books: LedgerBooks
    breakers: Breakers
    pace: Pace
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
        """Use `Client.start`, `Client.submit` or `Client.resume`."""
        self.id = job_id
        self._work, self._parts = work, parts
        self._out_dir, self._deadline = out_dir, deadline
        self._chronicle = Chronicle(*([] if first is None else [first]))
        self._made = _Made(handle=first.handle if isinstance(first, types.Submitted) else None)
        self._problem: BaseException | None = None
        self._end: RunResult | None = None
        self._over = threading.Event()
        self._kept = threading.Event()
        self._detaching = self._detached = False
        self._late: Deadline | None = None
        self._last_call = False
        self._begun = False
        self._cancelled = False
        parts.books.on_accepted = self._accepted
        self._driver = self._drive()
        self._thread = threading.Thread(
            target=self._run, name=f"pennyreel-route-{job_id[:8]}", daemon=True
        )
        self._keeper = threading.Thread(
            target=self._keep, name=f"pennyreel-keep-{job_id[:8]}", daemon=True
        )

    def start(self) -> RoutedJob:
        """Begin, where it has not begun."""
        with self._chronicle.changed:
            begun, self._begun = self._begun, True
        if not begun:
            with suppress(PennyreelError):
                self._cancelled = self._parts.books.cancelled(self.id)
            self._keeper.start()
            self._thread.start()
        return self

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly, or was let go."""
        return self._over.is_set()

    @property
    def handle(self) -> Handle | None:
        """Of the attempt that runs or has won, once it is accepted."""
        with self._chronicle.changed:
            return self._made.handle

    def accepted(self, timeout_s: float | None = None) -> Handle:
        """Wait until a backend has it, and return the handle that finds it again.

        After `detach`, until it is let go.

        Raises:
            PennyreelError: it has ended badly, on every backend that might have it.
            TimeoutError: no backend has it within `timeout_s`; it goes on.

        """
        self.start()
        limit, changed = Deadline(timeout_s), self._chronicle.changed
        with changed:
            while not self._over.is_set() and (self._detaching or self._made.handle is None):
                if limit.expired:
                    raise TimeoutError(f"no backend has job {self.id} within {timeout_s:g} s")
                changed.wait(limit.left(TICK_S))
            handle = self._made.handle
        if self._problem is not None and not self._detached:
            raise self._problem
        if handle is None:  # pragma: no cover - what ended well was accepted
            raise RuntimeError("a job ended well without a handle")
        return handle

    def detach(self) -> None:
        """Let go of it as soon as a backend has it, without stopping it; returns at once.

        `accepted` waits for that. What it may cost stays reserved, and anybody can go on with it:
        `Client.handle`, `pennyreel result`, `pennyreel jobs resume`. What is made by then ends
        here.
        """
        self._detaching = True
        self._driver.detach()
        self.start()

    def events(self) -> Iterator[JobEvent]:
        """Yield what happens, from the beginning, until Finished or Detached; raises nothing."""
        self.start()
        return self._chronicle.read()

    def result(self, timeout_s: float | None = None) -> RunResult:
        """Wait for the end and return what it made, saved on this disk.

        Raises:
            PennyreelError: it failed everywhere; `info.detail["attempts"]` has each attempt. Or it
                was let go.
            TimeoutError: it has not ended within `timeout_s`; it goes on.

        """
        self.start()
        limit = Deadline(timeout_s)
        while not self._over.wait(limit.left(TICK_S)):
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
        while not self._over.wait(TICK_S):
            pass
        left = self._parts.ledger.open_attempts(self.id)
        return not left

    def _drive(self) -> Driver:
        parts = self._parts
        ears = Ears(
            told=self._told,
            event=self._chronicle.tell,
            ask=self._asked,
        )
        return Driver(
            self.id,
            Order(self._work, self._fetch, parts.price, self._deadline),
            books=parts.books,
            backends=parts.backends,
            breakers=parts.breakers,
            pace=parts.pace,
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
        self._finish(problem)

    def _finish(self, problem: BaseException | None) -> None:
        """Tell all who wait."""
        info = problem.info if isinstance(problem, PennyreelError) else None
        last: JobEvent = types.Finished("done" if info is None else info.code, info)
        if self._detached and self._made.handle is not None:
            last = types.Detached(self._made.handle)
        self._problem = problem
        with self._chronicle.changed:
            self._over.set()
            self._chronicle.tell(last)

    def _give_back(self) -> None:
        """Let others drive it; where it has not ended, also what is left of it."""
        self._kept.set()
        self._keeper.join()  # it would claim again what is given back here
        ended = False
        with suppress(PennyreelError):  # then the lease ends by itself
            self._parts.breakers.let_go()
        with suppress(PennyreelError):  # then the claims end by themselves
            ended = self._parts.ledger.job(self.id).outcome is not None
            for attempt in () if ended else self._parts.ledger.open_attempts(self.id):
                self._parts.ledger.unclaim(attempt.attempt_id)
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
        """Return the error of a job that was let go, or left at its deadline: it is open still."""
        if self._late is None:
            self._detached = True
            return let_go(self.id)
        still = self._parts.ledger.open_attempts(self.id)
        return left(self.id, str(self._deadline.error("the job")), still)

    def _keep(self) -> None:
        """Keep the job ours, and end it at its deadline, or when another process says so."""
        renewed = time.monotonic()
        while not self._kept.wait((self._late or self._deadline).left(LOOK_S)):
            if self._late is None and self._deadline.expired:
                self._end_late()
            elif self._late is not None and self._late.expired:
                self._leave()
            with suppress(PennyreelError):  # a ledger that is away for a moment
                # Once: what is made for all that, and paid for, is fetched.
                if not self._cancelled and self._parts.books.cancelled(self.id):
                    self._cancelled = True
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
        tell = self._chronicle.tell
        self._chronicle.executed()
        limit = Deadline(None)  # it is made and paid for
        fetching = Fetching(backend, handle, self._out_dir, limit, cancel, again, tell)
        for text in result.warnings:
            tell(types.Warned(text))
        artifacts = fetching.all(result)
        with self._chronicle.changed:
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
        return RunResult(
            job_id=self.id,
            backend=ended.handle.backend,
            handle=ended.handle,
            artifacts=self._made.artifacts,
            timings=self._chronicle.timings(),
            remote_timings=dict(remote.timings),
            gpu=None if remote.gpu is None else remote.gpu.model_dump(exclude_none=True),
            attempts=tuple(
                Attempt(a.backend, a.attempt_id, a.code or a.state) for a in job.attempts
            ),
            warnings=self._chronicle.warnings,
            seed=remote.seed,
            metadata=dict(remote.metadata),
            cost_microusd=job.spent + job.reserved,
            replayed=remote.replayed,
        )

    def _told(self, told: RouterTold) -> None:
        self._chronicle.tell(types.Told(told.text, told.code))

    def _accepted(self, told: str) -> None:
        handle = Handle.parse(told)
        with self._chronicle.changed:
            self._made.handle = handle
            self._chronicle.tell(types.Submitted(handle))
