"""Watches jobs for the hooks: reads their events beside their owner, and calls nobody who waits."""

from __future__ import annotations

import contextvars
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, Protocol

from pennyreel import types
from pennyreel.errors import Code, PennyreelError
from pennyreel.hooks import AttemptEnd, EventFacts, JobEnd, JobStart
from pennyreel.types import JobEvent

if TYPE_CHECKING:
    from pennyreel.money import records

GROUP = "pennyreel.hooks"
MOST_WAITING = 10_000
"""What a hook may be behind; then it misses what comes."""

CLOSE_S = 2.0
"""How long `close` waits for a hook to hear the rest."""

_LOG = logging.getLogger("pennyreel.hooks")


class Followed(Protocol):
    """A job whose events can be read beside its owner."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""

    def events(self) -> Iterator[JobEvent]:
        """What happens, from the beginning."""


Look = Callable[[str], "records.Job"]
"""Returns what the ledger has of a job."""


class Hooks:
    """The hooks of one client. Thread-safe; nothing begins before the first job."""

    def __init__(self, given: Iterable[object] = ()) -> None:
        """Keep those that were given; the others are looked for at the first job."""
        self._given = tuple(given)
        self._lock = threading.Lock()
        self._lines: list[_Line] | None = None
        self._watched: list[tuple[Followed, threading.Thread]] = []

    def watch(self, job: Followed, look: Look) -> None:
        """Tell the hooks of a job until its end. Never raises, and reads events only.

        Args:
            job: it may have begun.
            look: asks the ledger.

        """
        lines = self._open()
        if not lines:
            return
        watcher = _Watcher(job, look, lines, contextvars.copy_context())
        thread = threading.Thread(
            target=watcher.run, name=f"pennyreel-hooks-{job.id[:8]}", daemon=True
        )
        with self._lock:
            self._watched = [(j, t) for j, t in self._watched if t.is_alive()]
            self._watched.append((job, thread))
        thread.start()

    def close(self) -> None:
        """Let the hooks hear what has happened, for CLOSE_S at most, and end their threads."""
        limit = time.monotonic() + CLOSE_S
        with self._lock:
            watched, self._watched = self._watched, []
            lines, self._lines = self._lines, None
        for job, thread in watched:
            if job.done:  # others go on, and so does their watching
                thread.join(max(0.0, limit - time.monotonic()))
        for line in lines or ():
            line.end()
        for line in lines or ():
            line.join(max(0.0, limit - time.monotonic()))

    def _open(self) -> list[_Line]:
        with self._lock:
            if self._lines is None:
                self._lines = [_Line(h) for h in (*self._given, *_offered(), *_telemetry())]
            return self._lines


def _offered() -> Iterator[object]:
    """Return the hooks that installed packages bring."""
    for point in entry_points(group=GROUP):
        hook = _loaded(point)
        if hook is not None:
            yield hook


def _loaded(point: EntryPoint) -> object | None:
    try:
        made: object = point.load()()
        return made
    except Exception as problem:  # noqa: BLE001 - a job does not fail for a hook
        _LOG.warning("hook %s does not load (%s)", point.name, type(problem).__name__)
        return None


def _telemetry() -> Iterator[object]:
    """Return OpenTelemetry's, where this program has set it up.

    Who sets it up has imported it, so nothing is imported where nobody did.
    """
    if "opentelemetry" not in sys.modules:
        return
    with suppress(Exception):  # another version of it than we know
        from pennyreel import telemetry  # noqa: PLC0415 - see above

        if telemetry.configured():
            yield telemetry.OpenTelemetryHook()


class _Line:
    """One hook, its thread, and what it has yet to hear."""

    def __init__(self, hook: object) -> None:
        self._hook = hook
        self._name = type(hook).__name__
        self._calls: queue.Queue[tuple[str, Any, contextvars.Context | None] | None] = queue.Queue(
            MOST_WAITING
        )
        self._missed = 0
        self._blamed: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="pennyreel-hook", daemon=True)
        self._thread.start()

    def tell(self, method: str, facts: Any, context: contextvars.Context | None = None) -> None:
        """Have it called; what does not fit is left out."""
        try:
            self._calls.put_nowait((method, facts, context))
        except queue.Full:
            self._missed += 1
            if self._missed == 1:
                _LOG.warning("hook %s is too far behind and misses what comes", self._name)

    def end(self) -> None:
        """Have its thread end after what it has yet to hear."""
        with suppress(queue.Full):  # it hangs: its thread ends with the program
            self._calls.put_nowait(None)

    def join(self, seconds: float) -> None:
        """Wait for that."""
        self._thread.join(seconds)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            method, facts, context = call
            function = getattr(self._hook, method, None)
            if function is None:
                continue
            try:
                (context or contextvars.Context()).run(function, facts)
            except BaseException as problem:  # noqa: BLE001 - whatever a hook does, the job goes on
                self._blame(method, problem)

    def _blame(self, method: str, problem: BaseException) -> None:
        """Say once what it raised: the kind and the place, since its words may quote anything."""
        told = f"{self._name}.{method} raised {type(problem).__name__}"
        if told not in self._blamed:
            self._blamed.add(told)
            _LOG.warning("hook %s", told)


class _Watcher:
    """Reads one job's events and makes facts of them."""

    def __init__(
        self,
        job: Followed,
        look: Look,
        lines: list[_Line],
        context: contextvars.Context,
    ) -> None:
        self._job, self._look, self._lines, self._context = job, look, lines, context
        self._began = time.time()
        self._backend = ""
        self._started = False
        self._told: dict[str, AttemptEnd] = {}

    def run(self) -> None:
        try:
            for event in self._job.events():
                self._hear(event)
        except Exception as problem:  # noqa: BLE001 - watching harms nobody
            _LOG.warning("job %s is watched no more: %s", self._job.id, type(problem).__name__)

    def _hear(self, event: JobEvent) -> None:
        if isinstance(event, types.Chosen):
            self._backend = event.backend
        if isinstance(event, types.Submitted):
            self._backend = event.handle.backend
        if not self._started:
            self._started = True
            with suppress(PennyreelError):  # before it was watched, or by another program
                self._began = min(self._began, self._look(self._job.id).created_ms / 1000)
            start = JobStart(self._job.id, self._backend, self._began)
            for line in self._lines:
                line.tell("job_started", start, self._context.run(contextvars.copy_context))
        self._tell("event", self._facts(event))
        if isinstance(event, (types.Told, types.Submitted, types.Finished)):
            self._settle(event)
        if isinstance(event, types.Finished):
            self._tell("job_ended", self._end(event.outcome))
        if isinstance(event, types.Detached):
            self._tell("job_ended", self._end("detached"))

    def _facts(self, event: JobEvent) -> EventFacts:
        name = types.event_json(event)["event"]
        facts = EventFacts(self._job.id, name, self._backend, time.time())
        if isinstance(event, types.Told):
            return replace(facts, code=event.code)
        if isinstance(event, types.Progressed):
            return replace(facts, percent=event.percent, stage=event.stage)
        return facts

    def _settle(self, event: JobEvent) -> None:
        """Tell of the attempts that have ended since."""
        with suppress(PennyreelError):  # a ledger that is away: the next event asks again
            for one in self._look(self._job.id).attempts:
                over = one.state == "ended"
                if isinstance(event, types.Finished):
                    over = over or one.state == "unknown"
                if over and one.attempt_id not in self._told:
                    self._tell_attempt(_ended(one))

    def _tell_attempt(self, end: AttemptEnd) -> None:
        self._told[end.attempt_id] = end
        self._tell("attempt_ended", end)

    def _end(self, outcome: str) -> JobEnd:
        last = next(reversed(self._told.values()), None)
        return JobEnd(
            self._job.id,
            self._backend if last is None else last.backend,
            outcome,
            sum(one.cost_microusd for one in self._told.values()),
            self._began,
            time.time() - self._began,
            len(self._told),
        )

    def _tell(self, method: str, facts: Any) -> None:
        for line in self._lines:
            line.tell(method, facts)


def _ended(one: records.Attempt) -> AttemptEnd:
    unknown = one.state == "unknown"
    began = one.sent_ms or one.intended_ms
    end = one.ended_ms or one.unknown_ms or began
    return AttemptEnd(
        one.job_id,
        one.attempt_id,
        one.backend,
        (one.code or "") if not unknown else Code.UNKNOWN_OUTCOME.value,
        one.spent + one.reserved,
        began / 1000,
        max(0, end - began) / 1000,
    )
