"""A reverse proxy on loopback that breaks what passes it: the platform, S3 or a server of files.

What it does is real: it closes its listening socket, cuts connections in mid-body, answers in the
server's place, or keeps an answer. Everything else it passes on unchanged.
"""

from __future__ import annotations

import asyncio
import io
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from typing_extensions import Self

Match = Callable[[str, str, bytes], bool]
"""Of method, path with query, and body (empty where the rule asks for no body)."""

_HOP = {"connection", "content-length", "content-encoding", "transfer-encoding", "keep-alive"}
MOST = 256 * 1024**2
LARGE = 1 << 19


@dataclass(eq=False)
class Rule:
    """What happens to the next `times` requests that match."""

    match: Match
    action: str
    times: int = 1
    status: int = 500
    body: bytes = b""
    go_on: threading.Event = field(default_factory=threading.Event)
    """Ends a `hold` (before it is passed on) and a `keep` (the answer is there, and kept)."""

    hits: int = 0
    hit: threading.Event = field(default_factory=threading.Event)


def to(part: str, method: str = "") -> Match:
    """Match requests whose path has `part`."""
    return lambda m, path, _: part in path and (not method or m == method)


class Gateway:
    """Stands before `target`, a base URL that may be set later."""

    def __init__(self, target: str = "", port: int = 0) -> None:
        self.target = target
        self.port = port
        self.rules: list[Rule] = []
        self.seen: list[tuple[float, str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway")
        self._runner: web.AppRunner | None = None
        self._client: aiohttp.ClientSession | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def add(self, match: Match, action: str, **more: Any) -> Rule:
        """Add a rule.

        answer: in the server's place. hold: pass it on only when told. abort: cut the connection
        when the request has come. cut: in its middle, of whose body `match` sees nothing. lose:
        cut instead of the answer. keep: answer only when told.
        """
        rule = Rule(match, action, **more)
        self.rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules and let go of what they hold."""
        rules, self.rules = self.rules, []
        for rule in rules:
            rule.go_on.set()

    def shut(self) -> None:
        """Close the listening socket and cut every connection: it is refused from now on."""
        self._do(self._shut())

    def open(self) -> None:
        """Listen, at the same port as before."""
        self._do(self._open())

    def count(self, part: str, since: float = 0.0) -> int:
        """Return how many requests came whose path has `part`."""
        return sum(1 for at, _, path in self.seen if part in path and at >= since)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _start(self) -> None:
        self._client = aiohttp.ClientSession(
            auto_decompress=False, connector=aiohttp.TCPConnector(limit=0)
        )

    async def _open(self) -> None:
        if self._runner is not None:
            return
        app = web.Application(client_max_size=MOST)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.05
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()
        self.port = self._runner.addresses[0][1]

    async def _shut(self) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            for connection in list(runner.server.connections if runner.server else ()):
                if connection.transport is not None:
                    connection.transport.abort()
            await runner.cleanup()

    async def _end(self) -> None:
        await self._shut()
        if self._client is not None:
            await self._client.close()
        await asyncio.sleep(0)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((time.monotonic(), request.method, request.path_qs))
        cut = self._rule(request, b"", only="cut")
        if cut is not None:
            await request.content.read(65536)  # some of it has come, the rest never does
            return _abort(request)
        body = await request.read()
        rule = self._rule(request, body)
        if rule is None:
            return await self._forward(request, body)
        if rule.action == "answer":
            return web.Response(status=rule.status, body=rule.body)
        if rule.action == "abort":
            return _abort(request)
        if rule.action == "hold":
            await _wait(rule.go_on)
        reply = await self._forward(request, body)
        if rule.action == "keep":
            await _wait(rule.go_on)
        return _abort(request) if rule.action == "lose" else reply

    def _rule(self, request: web.Request, body: bytes, only: str = "") -> Rule | None:
        for rule in self.rules:
            early = rule.action == "cut"
            if rule.hits >= rule.times or early != bool(only):
                continue
            if rule.match(request.method, request.path_qs, body):
                rule.hits += 1
                rule.hit.set()
                return rule
        return None

    async def _forward(self, request: web.Request, body: bytes) -> web.StreamResponse:
        assert self._client is not None
        headers = CIMultiDict(
            (name, value) for name, value in request.headers.items() if name.lower() not in _HOP
        )
        try:
            async with self._client.request(
                request.method,
                self.target + request.raw_path,
                headers=headers,
                data=io.BytesIO(body) if len(body) > LARGE else body,
                allow_redirects=False,
            ) as reply:
                content = await reply.read()
                kept = CIMultiDict(
                    (name, value)
                    for name, value in reply.headers.items()
                    if name.lower() not in _HOP - {"content-encoding"}
                )
                return web.Response(status=reply.status, headers=kept, body=content)
        except aiohttp.ClientError:
            return _abort(request)


def _abort(request: web.Request) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _wait(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.01)
