"""The emulated Hugging Face: Hub and router on one port, the providers' files on another."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aiohttp import web

from pennyreel_emulators._served import Served, listening
from pennyreel_emulators.huggingface.config import IMAGE, HubConfig, Plan
from pennyreel_emulators.huggingface.hub import Hub
from pennyreel_emulators.huggingface.media import mp4, png
from pennyreel_emulators.huggingface.providers import (
    Direct,
    Fal,
    Replicate,
    Together,
    WaveSpeed,
)
from pennyreel_emulators.huggingface.store import Garbled, Job, Lost, Refused, Store

T = TypeVar("T")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Call:
    """One request and its answer's status (0: it was lost). Headers' names are in lower case."""

    method: str
    path: str
    status: int
    headers: dict[str, str] = field(repr=False)
    body: Any = field(default=None, repr=False)


class HuggingFace(Served):
    """Use it as a context manager, from any thread.

    `plan(Plan(...))` says what happens to the next job; without one all goes well.
    """

    _thread_name = "huggingface"

    def __init__(self, config: HubConfig | None = None) -> None:
        super().__init__()
        self.config = config or HubConfig()
        self._store = Store(self.config)
        self._hub = Hub(self.config)
        self._calls: list[Call] = []
        self._fetched: list[Call] = []
        self._refused = False
        self._ports = (0, 0)

    @property
    def url(self) -> str:
        """The Hub (`HF_ENDPOINT`) and the router; /{provider}/… are the router's paths."""
        return f"http://{self.config.host}:{self._ports[0]}"

    @property
    def billed(self) -> int:
        """How many jobs were accepted: each costs money, whatever became of it."""
        return self._ask(lambda: len(self._store.jobs))

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The accepted jobs, oldest first."""
        return self._ask(lambda: tuple(self._store.jobs.values()))

    @property
    def calls(self) -> tuple[Call, ...]:
        """What Hub and router were asked, oldest first."""
        return self._ask(lambda: tuple(self._calls))

    @property
    def submits(self) -> int:
        """How many calls that can cost money have arrived, whatever was answered."""
        return len([c for c in self.calls if c.method == "POST"])

    @property
    def fetched(self) -> tuple[Call, ...]:
        """What the files' host was asked; a token (400) must never be among it."""
        return self._ask(lambda: tuple(self._fetched))

    @property
    def files_url(self) -> str:
        """That host."""
        return self._store.files_url

    def plan(self, plan: Plan, times: int = 1) -> None:
        """Say what happens to the next jobs."""
        self._ask(lambda: self._store.plans.extend([plan] * times))

    def always(self, plan: Plan) -> None:
        """Say what happens to all jobs from now on that have no plan of their own."""
        self._ask(lambda: setattr(self._store, "usual", plan))

    def revoke(self) -> None:
        """Let the token be a wrong one."""
        self._ask(lambda: setattr(self, "_refused", True))

    def let_end(self) -> None:
        """End every job that runs, as its plan has it; `never` becomes done."""
        self._ask(self._end_all)

    def forget_jobs(self) -> None:
        """The providers know no job any more; the bill stays."""

        def forget() -> None:
            for job in self._store.jobs.values():
                job.provider = "forgotten"

        self._ask(forget)

    def serve(self, model: str, **served: Any) -> None:
        """Change who serves a model: `serve("owner/name", **{"fal-ai": Served(…)})`."""

        def change() -> None:
            self._hub.models = {**self._hub.models, model: served}

        self._ask(change)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        apps = (self._application(), self.config.port), (self._files(), 0)
        async with listening(self.config.host, *apps) as (hub, files):
            self._ports = (hub, files)
            self._store.files_url = f"http://{self.config.host}:{files}"
            yield

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._record, self._authorize])
        for part in (Fal, WaveSpeed, Together, Replicate, Direct):
            part(self._store).add_routes(app)
        self._hub.add_routes(app)
        return app

    def _files(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._file)
        return app

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """A result. A token has no business here."""
        response = await self._send_file(request)
        raw = await request.read()
        self._fetched.append(_call(request, response.status, raw))
        return response

    async def _send_file(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" in request.headers:
            return web.Response(status=400, text="this host wants no token")
        parts = request.path.split("/")
        job = self._store.jobs.get(parts[2]) if len(parts) == 5 else None
        if job is None or job.plan.file == "gone":
            return web.Response(status=404)
        content, mime = (png(), "image/png") if job.task == IMAGE else (mp4(), "video/mp4")
        job.transfers += 1
        if job.plan.file == "cut" and job.transfers == 1:
            return await _cut(request, content)
        if job.plan.file == "short":
            content = content[:-1]
        return web.Response(body=content, content_type=mime)

    @web.middleware
    async def _record(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Write each call down, and make answers of our exceptions."""
        raw = await request.read()
        try:
            response = await handler(request)
        except Refused as refused:
            response = web.json_response(
                refused.body, status=refused.status, headers=refused.headers
            )
        except Garbled:
            response = web.Response(text="<html>", content_type="text/html")
        except Lost:
            self._calls.append(_call(request, 0, raw))
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        except web.HTTPException as known:
            self._calls.append(_call(request, known.status, raw))
            raise
        self._calls.append(_call(request, response.status, raw))
        return response

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """The Hub shows models to anybody; a wrong token it refuses even there."""
        sent = request.headers.get("Authorization")
        public = request.path.startswith("/api/models/")
        right = sent == f"Bearer {self.config.token}" and not self._refused
        if not right and not (public and sent is None):
            raise Refused(401, {"error": "Invalid username or password."})
        return await handler(request)

    def _end_all(self) -> None:
        for job in self._store.jobs.values():
            job.looks_left = 0
            if job.plan.end == "never":
                job.plan = Plan()


def _call(request: web.Request, status: int, raw: bytes) -> Call:
    try:
        body = json.loads(raw) if raw else None
    except ValueError:
        body = None
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Call(request.method, request.raw_path, status, headers, body)


async def _cut(request: web.Request, content: bytes) -> web.StreamResponse:
    """Begin an answer and break it off."""
    response = web.StreamResponse(headers={"Content-Length": str(len(content))})
    await response.prepare(request)
    await response.write(content[: len(content) // 2])
    if request.transport is not None:
        request.transport.close()
    return response
