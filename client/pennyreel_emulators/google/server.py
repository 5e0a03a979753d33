"""The emulated Google APIs: one server on loopback, in a thread of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from aiohttp import web

from pennyreel_emulators._served import Served, listening
from pennyreel_emulators.google.config import GoogleConfig, Plan
from pennyreel_emulators.google.http import translate_errors
from pennyreel_emulators.google.interactions import Interactions, has_credential
from pennyreel_emulators.google.oauth import OAuth
from pennyreel_emulators.google.store import Charge, Seen, Store
from pennyreel_emulators.google.vertex import Vertex

if TYPE_CHECKING:
    from aiohttp.typedefs import Middleware


class GoogleApis(Served):
    """Gemini, Vertex, OAuth and storage at one address. Use it as a context manager."""

    _thread_name = "google-emulated"

    def __init__(self, config: GoogleConfig | None = None) -> None:
        super().__init__()
        self.config = config or GoogleConfig()
        self._store = Store(self.config)
        self._port = 0

    @property
    def base_url(self) -> str:
        """What GOOGLE_GEMINI_BASE_URL and GOOGLE_VERTEX_BASE_URL are set to."""
        return f"http://{self.config.host}:{self._port}"

    @property
    def token_url(self) -> str:
        """The `token_uri` of a credentials file."""
        return f"{self.base_url}/token"

    def script(self, *plans: Plan) -> None:
        """Give the next submits these plans, one each."""
        self._store.plans.extend(plans)

    def revoke(self) -> None:
        """Refuse the API key, and every access token given so far."""
        self._store.keys.clear()
        self._store.tokens.clear()

    def stopped(self, job: str) -> bool:
        """Whether a job was cancelled before its end."""
        return self._store.jobs[job].stopped

    def content(self, job: str) -> bytes:
        """The video of a job."""
        return self._store.jobs[job].content

    @property
    def requests(self) -> tuple[Seen, ...]:
        """Every request, oldest first."""
        return tuple(self._store.seen)

    @property
    def submits(self) -> tuple[Seen, ...]:
        """Every request that could have cost money, accepted or not."""
        return tuple(
            r
            for r in self.requests
            if r.method == "POST" and r.path.endswith(("/interactions", ":predictLongRunning"))
        )

    @property
    def accepted(self) -> tuple[str, ...]:
        """Ids of the jobs that were accepted."""
        return tuple(self._store.jobs)

    @property
    def charges(self) -> tuple[Charge, ...]:
        """What Google would bill."""
        return self._store.charges()

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        app = self._application()
        async with listening(self.config.host, (app, self.config.port)) as (self._port,):
            yield

    def _application(self) -> web.Application:
        # 0: no limit of the framework's.
        app = web.Application(middlewares=[self._record(), translate_errors], client_max_size=0)
        Interactions(self._store, lambda: self.base_url).add_routes(app)
        Vertex(self._store).add_routes(app)
        OAuth(self._store, lambda: self.base_url).add_routes(app)
        return app

    def _record(self) -> Middleware:
        @web.middleware
        async def record(request: web.Request, handler: Any) -> web.StreamResponse:
            try:
                body = json.loads(await request.read()) if request.path != "/token" else None
            except ValueError:
                body = None
            seen = Seen(
                request.method, request.path, request.query_string, has_credential(request), body
            )
            self._store.seen.append(seen)
            answer: web.StreamResponse = await handler(request)
            return answer

        return record
