"""How an emulation runs: it serves on loopback in a thread of its own, and is used from any."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, TypeVar

from aiohttp import web

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class Served(ABC):
    """Starts and ends with `with`, or by `start` and `close`. Subclasses say what is served."""

    _thread_name: ClassVar[str] = "emulated"

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def start(self) -> None:
        """Serve; returns when requests are answered. Raises what keeps it from that."""
        if self._thread is not None:
            raise RuntimeError("it has been started already")
        ready: Future[None] = Future()
        # A daemon: without close() the interpreter still ends.
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name=self._thread_name, daemon=True
        )
        self._thread.start()
        try:
            ready.result()
        except BaseException:
            self._thread.join()
            raise

    def close(self) -> None:
        """End requests and the thread. Raises what broke the emulation, if anything did."""
        if self._thread is None:
            return
        loop, closing = self._loop, self._closing
        if loop is not None and closing is not None and self._thread.is_alive():
            loop.call_soon_threadsafe(closing.set)
        self._thread.join()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    @abstractmethod
    def _serving(self) -> AbstractAsyncContextManager[None]:
        """Return what requests are answered within."""

    async def _work(self, closing: asyncio.Event) -> None:
        """Do what there is to do besides, until it is to close."""
        await closing.wait()

    def _ask(self, question: Callable[[], T]) -> T:
        """Run a function on the thread that serves; before its start and after its end, here."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return question()

        async def answer() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()

    def _run(self, ready: Future[None]) -> None:
        """The thread: an event loop of its own, from the first breath to the last."""
        try:
            asyncio.run(self._main(ready))
        except BaseException as failure:  # noqa: BLE001 - handed to the thread that waits for it
            if ready.done():
                self._failure = failure
            else:
                ready.set_exception(failure)

    async def _main(self, ready: Future[None]) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        async with self._serving():
            ready.set_result(None)
            await self._work(self._closing)


@asynccontextmanager
async def listening(
    host: str, *served: tuple[web.Application, int], backlog: int = 128
) -> AsyncIterator[list[int]]:
    """Answer for each application at its port (0: a free one); gives the ports."""
    runners = [web.AppRunner(app, access_log=None, shutdown_timeout=0.5) for app, _ in served]
    try:
        for runner, (_, port) in zip(runners, served, strict=True):
            await runner.setup()
            await web.TCPSite(runner, host, port, backlog=backlog).start()
        yield [runner.addresses[0][1] for runner in runners]
    finally:
        for runner in runners:
            await runner.cleanup()
