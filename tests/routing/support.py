"""Backends that follow a script, and books in memory behind the router's own protocols."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pennyreel.backends.base import OnEvent, Work
from pennyreel.errors import Code, error
from pennyreel.need import Need, Unit, Usage
from pennyreel.routing.breaker import DEFAULT, Limits
from pennyreel.routing.breakers import Breakers
from pennyreel.routing.driver import Driver
from pennyreel.routing.machine import (
    Ask,
    JobRecord,
    Option,
    Outcome,
    Rules,
    Stage,
    Told,
    Trouble,
)
from pennyreel.routing.pacing import Pace
from pennyreel.routing.ports import Ears, Order
from pennyreel.types import Handle, JobEvent, Started
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result
from properties.router_books import Books as Strict
from properties.router_books import OverLimit

QUICK = Rules(base_s=0.01, most_s=0.05)


class Books:
    """`ports.Books` for one job, over the strict books of the property test."""

    def __init__(self, *options: Option, limit: int = 10**9, rules: Rules = QUICK) -> None:
        self.strict = Strict("job", options, limit, rules)
        self.ids: dict[int, str] = {}
        self.winner: int | None = None

    def record(self, job_id: str) -> JobRecord:
        return self.strict.record()

    def reserve(self, job_id: str, n: int, option: Option, attempt_id: str) -> None:
        try:
            self.strict.reserve(n, option)
        except OverLimit:
            raise error(Code.RATE_LIMITED, "the budget is spent", retryable=False) from None
        self.ids[n] = attempt_id

    def attempt_id(self, job_id: str, n: int) -> str:
        return self.ids[n]

    def write(
        self, job_id: str, n: int, stage: Stage, handle: str | None, at: float | None
    ) -> None:
        self.strict.write(n, stage, handle, at)

    def settle(
        self, job_id: str, n: int, stage: Stage, microusd: int | None, trouble: Trouble | None
    ) -> None:
        self.strict.settle(n, stage, microusd, trouble)

    def mark_cancelled(self, job_id: str) -> None:
        self.strict.cancel = True

    def end(
        self,
        job_id: str,
        outcome: Outcome,
        winner: int | None,
        troubles: tuple[tuple[int, Trouble], ...],
    ) -> None:
        self.winner = winner
        self.strict.end(outcome)


class Cell:
    """Breakers in memory, compared and swapped as the ledger does."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[dict[str, Any], int]] = {}
        self.lock = threading.Lock()

    def breaker(self, backend: str, /) -> tuple[dict[str, Any] | None, int]:
        return self.kept.get(backend, (None, 0))

    def put_breaker(self, backend: str, state: Mapping[str, Any], /, *, version: int) -> bool:
        with self.lock:
            if self.kept.get(backend, (None, 0))[1] != version:
                return False
            self.kept[backend] = (dict(state), version + 1)
            return True


Do = Callable[["ScriptedBackend"], None]


def fine(_: ScriptedBackend) -> None:
    """Nothing happens."""


def fails(code: Code, text: str = "so it is", **more: Any) -> Do:
    def do(_: ScriptedBackend) -> None:
        raise error(code, text, **more)

    return do


@dataclass
class ScriptedBackend:
    """Does what each call's next line says; the last line is repeated."""

    name: str
    submits: list[Do] = field(default_factory=lambda: [fine])
    follows: list[Do] = field(default_factory=lambda: [fine])
    lookups: list[Do] = field(default_factory=lambda: [fine])
    finds: bool = True
    hangs: bool = False
    """It runs until it is cancelled."""
    finishes: bool = False
    """Its cancel comes too late: the job is done."""
    confirms: bool = True
    log: list[str] = field(default_factory=list)
    works: list[Work] = field(default_factory=list)
    running: threading.Event = field(default_factory=threading.Event)
    cancelled: bool = False
    closed: bool = False
    tell: OnEvent = print
    """Of who follows it now."""
    target: str = ""
    bills: Usage = field(default_factory=lambda: Usage("x", Unit.RUN, 1))

    def _play(self, what: str, script: list[Do]) -> None:
        self.log.append(what)
        (script.pop(0) if len(script) > 1 else script[0])(self)

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        self.works.append(work)
        self._play("submit", self.submits)
        return Handle(self.name, "t", "j1", work.attempt_id)

    def lookup(self, attempt_id: str) -> Handle | None:
        self._play("lookup", self.lookups)
        return Handle(self.name, "t", "j1", attempt_id) if self.finds else None

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        self.tell = on_event
        self._play("follow", self.follows)
        on_event(Started())
        self.running.set()
        if self.hangs and not self.cancelled:
            self._wait(deadline, cancel)
        elif self.cancelled:
            raise error(Code.CANCELLED, "cancelled", detail={"confirmed_stopped": True})
        return Result(attempt_id=handle.attempt_id)

    def _wait(self, deadline: Deadline, cancel: CancelToken) -> None:
        woken = threading.Event()
        cancel.on_cancel(woken.set)
        woken.wait(deadline.left())
        code = Code.CANCELLED if cancel.cancelled else Code.TIMEOUT
        if self.finishes:
            self.hangs = False
        else:
            self.cancelled = self.confirms
        raise error(code, "stopped", detail={"confirmed_stopped": self.confirms})

    def usage(self, need: Need) -> Usage:
        return self.bills

    def billed(self, need: Need, result: Result) -> Usage:
        return Usage("x", Unit.RUN, 1)

    def close(self) -> None:
        self.closed = True


class Scene:
    """A driver with its books, backends and ears."""

    def __init__(
        self,
        *backends: ScriptedBackend,
        books: Books,
        cell: Cell | None = None,
        limits: Limits = DEFAULT,
        per_minute: int = 0,
    ) -> None:
        self.backends = {b.name: b for b in backends}
        self.books, self.cell = books, cell or Cell()
        self.told: list[str] = []
        self.heard: list[JobEvent] = []
        self.asked: list[Ask] = []
        self.agree = False
        self.fetches: list[Do] = [fine]
        self.fetched: list[Handle] = []
        work = Work("w" * 32, {}, timeout_s=None)
        self.driver = Driver(
            "job",
            Order(work, self._fetch, self._price),
            books=books,
            backends=self,
            breakers=Breakers(self.cell, limits),
            pace=Pace(self.cell, per_minute),
            ears=Ears(self._tell, self.heard.append, self._ask),
        )

    def _price(self, _: Option, usage: Usage) -> int:
        """A second costs ten."""
        if usage.unit is not Unit.GPU_SECOND:
            return 700
        return round(10 * ((usage.amount or 0.0) + usage.startup_s + usage.idle_s))

    def open(self, option: Option) -> Any:
        if option.backend not in self.backends:
            raise error(Code.NOT_CONFIGURED, "no key", hint="Set THE_KEY.")
        return self.backends[option.backend]

    def _tell(self, told: Told) -> None:
        self.told.append(told.text)

    def _ask(self, ask: Ask) -> bool:
        self.asked.append(ask)
        return self.agree

    def _fetch(self, backend: Any, handle: Handle, result: Result, cancel: CancelToken) -> None:
        do = self.fetches.pop(0) if len(self.fetches) > 1 else self.fetches[0]
        do(backend)
        cancel.check()
        self.fetched.append(handle)
