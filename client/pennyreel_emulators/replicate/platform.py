"""The emulated Replicate: two origins on loopback, in a thread of their own."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

from pennyreel_emulators._served import Served, listening
from pennyreel_emulators.replicate.api import Api
from pennyreel_emulators.replicate.config import Behaviour, Config, Fault
from pennyreel_emulators.replicate.delivery import Delivery
from pennyreel_emulators.replicate.http import Faults, Limiter, Recorded
from pennyreel_emulators.replicate.store import Bill, Store

T = TypeVar("T")


class ReplicatePlatform(Served):
    """Replicate's API and its origin of files. Use it as a context manager, from any thread.

    `clock` (seconds) times predictions, retention and rate limits. Held requests (Prefer: wait)
    go by real time.
    """

    _thread_name = "replicate-platform"

    def __init__(
        self, config: Config | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self.config = config or Config()
        self._store = Store(self.config, clock)
        self._faults = Faults()
        limits = (Limiter(self.config.creates, clock), Limiter(self.config.others, clock))
        self._api = Api(self._store, self._faults, self._urls, limits)
        self._delivery = Delivery(lambda: self._store, self._faults)
        self._ports = (0, 0)

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

    def _urls(self) -> tuple[str, str]:
        return self.host_url, self.config.delivery_url or self.delivery_url

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        apps = (self._api.application(), self.config.port), (self._delivery.application(), 0)
        async with listening(self.config.host, *apps) as (api, files):
            self._ports = (api, files)
            yield
