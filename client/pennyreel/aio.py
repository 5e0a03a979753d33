"""The client for asyncio: the same names as `Client`, awaited.

The work is the sync client's, in short-lived threads; what waits for a job waits in the event loop.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from typing_extensions import Self, Unpack

from pennyreel import batch
from pennyreel.client import Client, OnEvent
from pennyreel.config import Settings
from pennyreel.errors import PennyreelError
from pennyreel.options import GenerateOptions, RouteOptions
from pennyreel.types import Detached, Finished, Handle, Health, JobEvent, Progressed, RunResult

if TYPE_CHECKING:  # these bring requests along, which costs a tenth of a second
    from pennyreel.backends.base import Backend
    from pennyreel.dispatch import Dispatch
    from pennyreel.jobs import Job
    from pennyreel.routed import RoutedJob
    from pennyreel.routing.machine import Ask
    from pennyreel.routing.quote import Quote
    from pennyreel.workload import Workflow

_T = TypeVar("_T")


class AsyncJob:
    """One job, of one event loop: what `Job` and `RoutedJob` have, awaited."""

    def __init__(self, job: Job | RoutedJob) -> None:
        """Use `AsyncClient.start`, `submit`, `resume` or `handle`."""
        self._job = job
        self._events: list[JobEvent] = []
        self._news = asyncio.Event()
        self._end: tuple[RunResult | None, BaseException | None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def id(self) -> str:
        """Its id."""
        return self._job.id

    @property
    def handle(self) -> Handle | None:
        """Of the attempt that runs or has won, once it is accepted."""
        return self._job.handle

    @property
    def done(self) -> bool:
        """Whether it has ended, well or badly. Only known once somebody follows it."""
        return self._job.done

    async def accepted(self, timeout_s: float | None = None) -> Handle:
        """Wait until a backend has it; see `RoutedJob.accepted`."""
        return await in_thread(lambda: self._job.accepted(timeout_s))

    async def detach(self) -> None:
        """Let go of it as soon as a backend has it; see `RoutedJob.detach`."""
        await in_thread(self._job.detach)

    async def events(self) -> AsyncIterator[JobEvent]:
        """Yield what happens, from the beginning, until Finished or Detached; raises nothing."""
        self._follow()
        seen = 0
        while True:
            while len(self._events) == seen:
                await self._wait()
            event = self._events[seen]
            seen += 1
            yield event
            if isinstance(event, (Finished, Detached)):
                return

    async def result(self, timeout_s: float | None = None) -> RunResult:
        """Wait for the end and return what it made, saved on this disk.

        A task that is cancelled while it waits here only stops waiting, as does one whose
        `timeout_s` has passed: call `cancel` to stop the job.

        Raises:
            PennyreelError: how it ended; as `Job.result` and `RoutedJob.result`.
            TimeoutError: it has not ended within `timeout_s`; it goes on.

        """
        self._follow()
        try:
            await asyncio.wait_for(self._ended(), timeout_s)
        except asyncio.TimeoutError:  # Python 3.10's is not the builtin one
            raise TimeoutError(f"job {self.id} has not ended within {timeout_s:g} s") from None
        result, problem = self._end or (None, None)
        if problem is not None:
            raise problem
        if result is None:  # pragma: no cover - one of the two is set
            raise RuntimeError("a job ended without a result")
        return result

    async def cancel(self) -> bool:
        """Stop it; return whether it is known that nothing of it runs any more."""
        return await in_thread(self._job.cancel)

    async def _ended(self) -> None:
        while self._end is None:
            await self._wait()

    async def _wait(self) -> None:
        await self._news.wait()

    def _follow(self) -> None:
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
            name = f"pennyreel-await-{self.id[:8]}"
            threading.Thread(target=self._read, name=name, daemon=True).start()

    def _read(self) -> None:
        """Hand on the job's events and its end, in a thread that ends with the job."""
        for event in self._job.events():
            if not self._post(self._heard, event):
                return
        end: tuple[RunResult | None, BaseException | None]
        try:
            end = self._job.result(), None
        except BaseException as problem:  # noqa: BLE001 - it belongs to who waits
            end = None, problem
        self._post(self._over, end)

    def _post(self, function: Callable[[Any], None], value: Any) -> bool:
        """Have the loop call it; False: the loop is closed, and nobody waits any more."""
        assert self._loop is not None  # noqa: S101 - `_follow` has set it
        try:
            self._loop.call_soon_threadsafe(function, value)
        except RuntimeError:
            return False
        return True

    def _heard(self, event: JobEvent) -> None:
        if isinstance(event, Progressed) and event.preview is not None:
            self._forget_preview()
        self._events.append(event)
        self._wake()

    def _forget_preview(self) -> None:
        """Drop the last picture: only the newest is kept, or a long job would fill the memory."""
        for number in range(len(self._events) - 1, -1, -1):
            old = self._events[number]
            if isinstance(old, Progressed) and old.preview is not None:
                self._events[number] = replace(old, preview=None)
                return

    def _over(self, end: tuple[RunResult | None, BaseException | None]) -> None:
        self._end = end
        self._wake()

    def _wake(self) -> None:
        """Wake all that wait now; who looks later waits for the next news."""
        self._news.set()
        self._news = asyncio.Event()


class AsyncClient:
    """Runs prompts and workflows from asyncio. Also an async context manager.

    Cancelling a task that waits in `generate`, `run`, `subscribe` or `generate_many` cancels its
    jobs, and waits until that is confirmed. So does cancelling one that is just sending a job,
    which nobody would have a name for.
    """

    def __init__(
        self, backend: str | None = None, *, hooks: Iterable[object] = (), **settings: Any
    ) -> None:
        """Read the settings; nothing is sent. See `Client`."""
        self._client = Client(backend, hooks=hooks, **settings)
        self._stopping: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def settings(self) -> Settings:
        """What it was made with."""
        return self._client.settings

    @property
    def dispatch(self) -> Dispatch:
        """The ledger's side of the client. Its calls block: use `asyncio.to_thread`."""
        return self._client.dispatch

    async def run(
        self,
        workflow: Workflow,
        *,
        on_event: OnEvent | None = None,
        **options: Unpack[RouteOptions],
    ) -> RunResult:
        """Run a workflow and wait for its files; see `Client.run`."""
        return await self._wait(await self.submit(workflow, **options), on_event)

    async def subscribe(
        self, workflow: Workflow, on_event: OnEvent, **options: Unpack[RouteOptions]
    ) -> RunResult:
        """Do as `run`, with the events' receiver at the front."""
        return await self._wait(await self.submit(workflow, **options), on_event)

    async def submit(self, workflow: Workflow, **options: Unpack[RouteOptions]) -> AsyncJob:
        """Send a workflow or template; see `Client.submit`."""
        return await self._sent(lambda: self._client.submit(workflow, **options))

    async def generate(
        self, prompt: str, *, on_event: OnEvent | None = None, **options: Unpack[GenerateOptions]
    ) -> RunResult:
        """Make a video or an image from a prompt; see `Client.generate`.

        `on_event` is called in the event loop; `ask` is called in a thread.
        """
        return await self._wait(await self.start(prompt, **options), on_event)

    async def generate_many(
        self,
        wishes: Iterable[batch.Wish],
        *,
        concurrency: int = batch.CONCURRENCY,
        on_event: batch.OnEvent | None = None,
        on_end: batch.OnEnd | None = None,
        **options: Unpack[GenerateOptions],
    ) -> list[batch.Outcome]:
        """Make many, a few at a time; see `Client.generate_many`. Callbacks run in the loop."""
        spelled = batch.spelled(wishes, options, GenerateOptions.__annotations__)
        left = list(enumerate(spelled))[::-1]
        outcomes: dict[int, batch.Outcome] = {}
        refused: list[PennyreelError] = []

        async def work() -> None:
            while left:
                n, (prompt, given) = left.pop()
                outcome: batch.Outcome
                try:
                    if refused:
                        raise batch.not_sent(refused[0])
                    told = None if on_event is None else _placed(on_event, n)
                    outcome = await self.generate(prompt, on_event=told, **given)
                except PennyreelError as problem:
                    outcome = problem
                    if batch.stops(problem):
                        refused.append(problem)
                outcomes[n] = outcome
                if on_end is not None:
                    on_end(n, outcome)

        many = min(batch.checked(concurrency), len(left))
        await _all([asyncio.ensure_future(work()) for _ in range(many)])
        return [outcomes[n] for n in range(len(spelled))]

    async def start(self, prompt: str, **options: Unpack[GenerateOptions]) -> AsyncJob:
        """Send a prompt; see `Client.start`."""
        return await self._sent(lambda: self._client.start(prompt, **options))

    async def again(self, job_id: str, **options: Unpack[RouteOptions]) -> AsyncJob:
        """Send what a job asked for once more; see `Client.again`."""
        return await self._sent(lambda: self._client.again(job_id, **options))

    async def resume(
        self,
        job_id: str,
        *,
        timeout_s: float | None = None,
        out_dir: Path | str | None = None,
        ask: Callable[[Ask], bool] | None = None,
    ) -> AsyncJob:
        """Go on with a job whose client has ended, or has let it go; see `Client.resume`."""

        def go_on() -> RoutedJob:
            return self._client.resume(job_id, timeout_s=timeout_s, out_dir=out_dir, ask=ask)

        return AsyncJob(await in_thread(go_on))

    async def quote(self, prompt: str, **options: Unpack[GenerateOptions]) -> Quote:
        """Return what a prompt would cost and take on every backend; see `Client.quote`."""
        return await in_thread(lambda: self._client.quote(prompt, **options))

    async def quote_workflow(self, workflow: Workflow, **options: Unpack[RouteOptions]) -> Quote:
        """Return what a workflow would cost and take; see `Client.quote_workflow`."""
        return await in_thread(lambda: self._client.quote_workflow(workflow, **options))

    async def handle(
        self,
        handle: str | Handle,
        *,
        timeout_s: float | None = None,
        out_dir: Path | str | None = None,
        ask: Callable[[Ask], bool] | None = None,
    ) -> AsyncJob:
        """Return the job that a handle, or a job's id, names; see `Client.handle`."""

        def find() -> Job | RoutedJob:
            return self._client.handle(handle, timeout_s=timeout_s, out_dir=out_dir, ask=ask)

        return AsyncJob(await in_thread(find))

    async def cancel(self, handle: str | Handle) -> bool:
        """Stop a job by its handle or id; see `Client.cancel`."""
        return await in_thread(lambda: self._client.cancel(handle))

    async def backends(self) -> list[Health]:
        """Ask every configured backend how it is, at no cost. Never raises."""
        return await in_thread(self._client.backends)

    async def health(self, name: str) -> Health:
        """Ask one backend how it is, at no cost. Never raises."""
        return await in_thread(lambda: self._client.health(name))

    async def backend(self, name: str, target: str | None = None) -> Backend:
        """Return a backend by name, opened once. Its calls block."""
        return await in_thread(lambda: self._client.backend(name, target))

    async def close(self) -> None:
        """Wait for what is being cancelled, and let connections go. Jobs go on."""
        await asyncio.gather(*self._stopping, return_exceptions=True)
        await in_thread(self._client.close)

    async def _wait(self, job: AsyncJob, on_event: OnEvent | None) -> RunResult:
        try:
            async for event in job.events():
                if on_event is not None:
                    on_event(event)
            return await job.result()
        except BaseException:
            if not job.done:
                await self._finish(_stop(job.cancel))
            raise

    async def _sent(self, send: Callable[[], Job | RoutedJob]) -> AsyncJob:
        call = asyncio.ensure_future(in_thread(send))
        try:
            return AsyncJob(await asyncio.shield(call))
        except asyncio.CancelledError:
            await self._finish(_unsend(call))
            raise

    async def _finish(self, ending: Coroutine[Any, Any, None]) -> None:
        """See it through; a second cancel leaves it to go on by itself, until `close`."""
        task = asyncio.ensure_future(ending)
        self._stopping.add(task)
        task.add_done_callback(self._stopping.discard)
        await asyncio.shield(task)


async def in_thread(function: Callable[[], _T]) -> _T:
    """Call it in a thread of its own, which ends with the call, in a copy of this context.

    asyncio's own pool would be full of waiting calls when somebody wants to cancel.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()
    context = contextvars.copy_context()

    def done(value: Any, problem: BaseException | None) -> None:
        if future.cancelled():
            return
        if problem is not None:
            future.set_exception(problem)
        else:
            future.set_result(value)

    def work() -> None:
        value, problem = None, None
        try:
            value = context.run(function)
        except BaseException as caught:  # noqa: BLE001 - it is raised where it is awaited
            problem = caught
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(done, value, problem)

    threading.Thread(target=work, name="pennyreel-call", daemon=True).start()
    return await future


async def _stop(cancel: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    with suppress(PennyreelError):  # what was raised first is what counts
        await cancel()


async def _unsend(call: asyncio.Future[Any]) -> None:
    """Cancel a job whose sending was given up."""
    with suppress(PennyreelError):
        job = await call
        await in_thread(job.cancel)


async def _all(tasks: list[asyncio.Future[None]]) -> None:
    """Wait for all; the first exception, or a cancel, cancels the others and waits for them.

    Not `gather`, which hands a cancel on by itself: a second one would leave without waiting.
    """
    if not tasks:
        return
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        running = [task for task in tasks if not task.done()]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running)
    problems = [task.exception() for task in tasks if not task.cancelled()]
    for problem in filter(None, problems):
        raise problem


def _placed(on_event: batch.OnEvent, n: int) -> OnEvent:
    return lambda event: on_event(n, event)
