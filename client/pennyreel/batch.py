"""Many jobs, a few at a time: in order, each result or its error, and nothing left running.

`Client.generate_many` and `AsyncClient.generate_many` share what is asked and when to stop; `run`
is the waiting in threads.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

from pennyreel import spelling
from pennyreel.errors import Code, JobCancelled, PennyreelError, error
from pennyreel.options import findings
from pennyreel.spelling import Finding
from pennyreel.types import JobEvent, RunResult

Wish: TypeAlias = str | Mapping[str, Any]
"""A prompt; or a prompt with wishes and terms of its own: {"prompt": …, "seed": 7, "fps": 8}."""

Outcome: TypeAlias = RunResult | PennyreelError
"""What has become of one wish."""

OnEvent = Callable[[int, JobEvent], None]
OnEnd = Callable[[int, Outcome], None]

CONCURRENCY = 4
_TICK_S = 0.5


class Following(Protocol):
    """A job that has begun."""

    def events(self) -> Iterator[JobEvent]:
        """What happens."""

    def result(self) -> RunResult:
        """What it made."""

    def cancel(self) -> bool:
        """Stop it; whether it is known to have stopped."""


def spelled(
    wishes: Iterable[Wish], options: Mapping[str, Any], known: Iterable[str]
) -> list[tuple[str, dict[str, Any]]]:
    """Return each wish as its prompt and options, its own before those of all.

    Raises:
        BadRequest: naming each wish, counted from 1, that has no prompt, an unknown name, or a
            value that makes no sense.

    """
    spelling.check(options)
    names = {*known, "prompt"}
    found: list[tuple[str, dict[str, Any]]] = []
    wrong: list[Finding] = []
    for number, wish in enumerate(wishes, 1):
        own = {"prompt": wish} if isinstance(wish, str) else wish
        told = misspelt(own, names) or findings(own["prompt"], {**options, **own})
        wrong += numbered(told, number)
        if not told:
            own = dict(own)
            found.append((own.pop("prompt"), {**options, **own}))
    if wrong:
        hint = f"It may have: {', '.join(sorted(map(str, names)))}"
        raise spelling.refused(wrong, what="wish", hint=hint)
    return found


def misspelt(wish: Any, names: Collection[str]) -> list[Finding]:
    """Return what keeps this from being a wish at all: it is none, or has other names than these.

    A finding goes on where "wish 3" ends.
    """
    if not isinstance(wish, Mapping):
        return [Finding("", " is neither a prompt nor names with values")]
    odd = [Finding(str(n), f" has an unknown {str(n)[:40]!r}") for n in wish if n not in names]
    if not odd and not isinstance(wish.get("prompt"), str):
        return [Finding("prompt", " has no prompt that is a text")]
    return odd


def numbered(found: Iterable[Finding], number: int) -> list[Finding]:
    """Return findings with their wish's number, each to go on where "wish 3" ends."""
    return [
        one._replace(number=number, told=one.told if one.told[0] == " " else f": {one.told}")
        for one in found
    ]


def checked(concurrency: int) -> int:
    """Return how many jobs may run at once; raise BadRequest where it is none."""
    if concurrency < 1:
        raise error(Code.BAD_REQUEST, f"concurrency must be at least 1, not {concurrency}")
    return concurrency


def stops(outcome: Outcome) -> bool:
    """Whether the jobs after this one would be refused like it: a budget has nothing left."""
    if not isinstance(outcome, PennyreelError):
        return False
    detail = outcome.info.detail
    tried: Any = detail.get("attempts") or ()
    if outcome.code == Code.BUDGET_EXCEEDED.value:
        return True
    if any(one.get("code") == Code.BUDGET_EXCEEDED.value for one in tried):
        return True
    return outcome.code == Code.CONSENT_REQUIRED.value and "--day-limit" in outcome.hint


def not_sent(why: PennyreelError) -> PennyreelError:
    """Return the outcome of a wish that was not sent, since an earlier one was refused."""
    return error(Code(why.code), f"not sent, as the budget refused a job: {why}", hint=why.hint)


def run(
    starts: Sequence[Callable[[], Following]],
    *,
    concurrency: int = CONCURRENCY,
    on_event: OnEvent | None = None,
    on_end: OnEnd | None = None,
    on_stop: Callable[[], None] | None = None,
    regardless: bool = False,
) -> list[Outcome]:
    """Start each job, so many at a time, and return what became of each, in their order.

    Args:
        starts: sends one job, and returns it.
        concurrency: of jobs.
        on_event: called in this thread with a job's place, from 0, and each event.
        on_end: the same, with its result or error.
        on_stop: called before what runs is cancelled.
        regardless: go on after a budget's refusal: the others run already, and are paid for.

    Else after a budget's refusal nothing more is sent. Ctrl-C, or an exception out of a callback,
    cancels what runs and waits until that is confirmed; `on_end` still hears of each; then it is
    passed on.

    """
    work = _Batch(starts, on_event, on_end, on_stop, regardless=regardless)
    return work.run(checked(concurrency))


class _Batch:
    """Threads send and follow; the caller's thread is told."""

    def __init__(
        self,
        starts: Sequence[Callable[[], Following]],
        on_event: OnEvent | None,
        on_end: OnEnd | None,
        on_stop: Callable[[], None] | None,
        *,
        regardless: bool,
    ) -> None:
        self._starts, self._regardless = starts, regardless
        self._on_event = on_event or (lambda *_: None)
        self._on_end = on_end or (lambda *_: None)
        self._on_stop = on_stop or (lambda: None)
        self._news: queue.Queue[tuple[int, JobEvent | Outcome | _Broken]] = queue.Queue()
        self._lock = threading.Lock()
        self._next = 0
        self._left = False
        self._refused: PennyreelError | None = None
        self._running: dict[int, Following] = {}
        self._confirmed: dict[int, bool] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._threads: list[threading.Thread] = []

    def run(self, concurrency: int) -> list[Outcome]:
        for _ in range(min(concurrency, len(self._starts))):
            thread = threading.Thread(target=self._work, name="pennyreel-batch", daemon=True)
            self._threads.append(thread)
        try:
            for thread in self._threads:
                thread.start()
            while len(self._outcomes) < len(self._starts):
                with suppress(queue.Empty):  # bounded, so that Ctrl-C works on Windows
                    self._hear(*self._news.get(timeout=_TICK_S))
        except BaseException:
            self._stop()
            raise
        for thread in self._threads:
            thread.join()
        return [self._outcomes[n] for n in range(len(self._starts))]

    def _hear(self, n: int, said: JobEvent | Outcome | _Broken) -> None:
        if isinstance(said, _Broken):
            raise said.problem
        if isinstance(said, (RunResult, PennyreelError)):
            self._outcomes[n] = said
            self._on_end(n, said)
        else:
            self._on_event(n, said)

    def _work(self) -> None:
        while (n := self._take()) is not None:
            self._news.put((n, self._one(n)))

    def _take(self) -> int | None:
        with self._lock:
            if self._left or self._next >= len(self._starts):
                return None
            self._next += 1
            return self._next - 1

    def _one(self, n: int) -> Outcome | _Broken:
        if self._refused is not None:
            return not_sent(self._refused)
        try:
            outcome: Outcome = self._follow(n, self._starts[n]())
        except PennyreelError as problem:
            outcome = problem
        except BaseException as problem:  # noqa: BLE001 - the caller's thread raises it
            return _Broken(problem)
        finally:
            with self._lock:
                self._running.pop(n, None)
        if not self._regardless and isinstance(outcome, PennyreelError) and stops(outcome):
            self._refused = self._refused or outcome
        return outcome

    def _follow(self, n: int, job: Following) -> RunResult:
        with self._lock:
            self._running[n] = job
            left = self._left
        if left:  # it was on its way when the rest was cancelled
            self._cancel(n, job)
        for event in job.events():
            self._news.put((n, event))
        return job.result()

    def _cancel(self, n: int, job: Following) -> None:
        with suppress(PennyreelError):  # then it is not confirmed
            self._confirmed[n] = job.cancel()

    def _stop(self) -> None:
        """Cancel what runs, wait for it, and tell how each ended."""
        with self._lock:
            self._left = True
            running = dict(self._running)
        self._on_stop()
        stopping = [
            threading.Thread(target=self._cancel, args=(n, job), daemon=True)
            for n, job in running.items()
        ]
        for thread in stopping:
            thread.start()
        for thread in [*stopping, *self._threads]:
            while thread.is_alive():
                thread.join(_TICK_S)
        while not self._news.empty():
            n, said = self._news.get_nowait()
            if isinstance(said, JobCancelled):
                said = self._cancelled(n, said)
            if isinstance(said, (RunResult, PennyreelError)):
                self._on_end(n, said)

    def _cancelled(self, n: int, problem: PennyreelError) -> PennyreelError:
        confirmed = self._confirmed.get(n, False)
        return error(Code.CANCELLED, str(problem), detail={"confirmed_stopped": confirmed})


class _Broken:
    """What no job raises: it ends the batch."""

    def __init__(self, problem: BaseException) -> None:
        self.problem = problem
