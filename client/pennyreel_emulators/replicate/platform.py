"""The emulated Replicate: two origins on loopback, in a thread of their own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from pennyreel_emulators.replicate.api import Api
from pennyreel_emulators.replicate.config import Behaviour, Config, Fault
from pennyreel_emulators.replicate.delivery import Delivery
from pennyreel_emulators.replicate.http import Faults, Limiter, Recorded
from pennyreel_emulators.replicate.store import Bill, Store

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")


class ReplicatePlatform:
    """Replicate's API and its origin of files. Use it as a context manager, from any thread.

    `clock` (seconds) times predictions, retention and rate limits. Held requests (Prefer: wait)
    go by real time.
    """

    def __init__(
        self, config: Config | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.config = config or Config()
        self._store = Store(self.config, clock)
        self._faults = Faults()
        limits = (Limiter(self.config.creates, clock), Limiter(self.config.others, clock))
        self._api = Api(self._store, self._faults, self._urls, limits)
        self._delivery = Delivery(lambda: self._store, self._faults)
        self._ports = (0, 0)
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing: asyncio.Event | None = None

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

    @property
    def host_url(self) -> str:
        """What `replicate.Client(base_url=…)` of 1.x takes: the host alone."""
        return f"http://{self.config.host}:{self._ports[0]}"

    @property
    def base_url(self) -> str:
        """The API's own base, with its /v1."""
        return f"{self.host_url}/v1"

    @property
    def delivery_url(self) -> str:
        """The origin of files, as it is reached here."""
        return f"http://{self.config.host}:{self._ports[1]}"

    @property
    def requests(self) -> tuple[Recorded, ...]:
        """What the API was asked, oldest first."""
        return self._ask(lambda: tuple(self._api.requests))

    @property
    def downloads(self) -> tuple[Recorded, ...]:
        """What the origin of files was asked."""
        return self._ask(lambda: tuple(self._delivery.requests))

    @property
    def tokens_leaked(self) -> int:
        """How many requests brought a token to the origin of files, where none belongs."""
        return sum("authorization" in r.headers for r in self.downloads)

    @property
    def accepted(self) -> tuple[str, ...]:
        """Ids of all predictions that were accepted, oldest first."""
        return self._ask(lambda: tuple(p.id for p in reversed(self._store.newest())))

    @property
    def billed(self) -> tuple[Bill, ...]:
        """What they cost so far; one that never started costs nothing."""
        return self._ask(lambda: tuple(self._store.bills()))

    def status(self, prediction: str) -> str:
        """A prediction's real status, whatever it is told as."""
        found = self._ask(lambda: self._store.get(prediction))
        if found is None:
            raise KeyError(prediction)
        return self._ask(lambda: self._store.status(found))

    def script(self, *behaviours: Behaviour) -> None:
        """Say what becomes of the next predictions, one each."""
        self._ask(lambda: self._store.behaviours.extend(behaviours))

    def fault(self, operation: str, fault: Fault | None = None) -> None:
        """Answer so in place of `operation`: create, get, list, cancel, account, version, file …"""
        self._ask(lambda: self._faults.add(operation, fault or Fault()))

    def configure(self, **changes: Any) -> None:
        """Change the config while it runs: `configure(credit=False)`. Rate limits stay."""
        self.config = replace(self.config, **changes)
        self._ask(lambda: setattr(self._store, "config", self.config))

    def start(self) -> None:
        """Serve; returns when requests are answered."""
        if self._thread is not None:
            raise RuntimeError("the platform has been started already")
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(ready,), name="replicate-platform", daemon=True
        )
        self._thread.start()
        ready.result()

    def close(self) -> None:
        """End requests and the thread."""
        if self._thread is None:
            return
        if self._loop is not None and self._closing is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()

    def _urls(self) -> tuple[str, str]:
        return self.host_url, self.config.delivery_url or self.delivery_url

    def _run(self, ready: Future[None]) -> None:
        try:
            asyncio.run(self._main(ready))
        except BaseException as failure:
            if ready.done():
                raise
            ready.set_exception(failure)

    async def _main(self, ready: Future[None]) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        apps = (self._api.application(), self._delivery.application())
        runners = [web.AppRunner(app, access_log=None, shutdown_timeout=0.5) for app in apps]
        try:
            ports = []
            for runner, port in zip(runners, (self.config.port, 0), strict=True):
                await runner.setup()
                await web.TCPSite(runner, self.config.host, port).start()
                ports.append(runner.addresses[0][1])
            self._ports = (ports[0], ports[1])
            ready.set_result(None)
            await self._closing.wait()
        finally:
            for runner in runners:
                await runner.cleanup()

    def _ask(self, question: Callable[[], T]) -> T:
        """Run a function on the platform's thread; before its start and after its end, here."""
        if self._loop is None or self._thread is None or not self._thread.is_alive():
            return question()

        async def answer() -> T:
            return question()

        return asyncio.run_coroutine_threadsafe(answer(), self._loop).result()
