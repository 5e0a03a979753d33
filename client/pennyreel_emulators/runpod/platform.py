"""The emulated RunPod platform: one server on loopback, in a thread of its own."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiohttp import web

from pennyreel_emulators._served import Served, listening
from pennyreel_emulators.runpod.client_api import ClientApi
from pennyreel_emulators.runpod.config import PlatformConfig
from pennyreel_emulators.runpod.endpoint import Endpoint
from pennyreel_emulators.runpod.events import Event
from pennyreel_emulators.runpod.http import UnknownEndpoint, translate_errors
from pennyreel_emulators.runpod.jobs import Post
from pennyreel_emulators.runpod.limits import RateLimiter
from pennyreel_emulators.runpod.process import Guardian
from pennyreel_emulators.runpod.webhooks import Webhooks
from pennyreel_emulators.runpod.worker_api import WorkerApi
from pennyreel_emulators.runpod.workers import WorkerInfo

T = TypeVar("T")

KEEP_EVENTS = 50_000
_GPU = "EMULATED"


class RunPodPlatform(Served):
    """Both sides of RunPod serverless. Use it as a context manager, from any thread.

    `on_event(event)` and `on_log(endpoint, worker_id, line)` are called on the platform's thread:
    they must be quick, must not raise, and must not call the platform. `clock` (seconds) times
    jobs, retention and rate limits; processes and held polls go by real time.
    """

    _thread_name = "runpod-platform"

    def __init__(
        self,
        config: PlatformConfig,
        *,
        on_event: Callable[[Event], None] | None = None,
        on_log: Callable[[str, str, str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.config = config
        self._on_event = on_event
        self._on_log = on_log
        self._clock = clock
        self._events: deque[Event] = deque(maxlen=KEEP_EVENTS)
        self._endpoints: dict[str, Endpoint] = {}
        self._port = 0
        self._home = ""

    @property
    def port(self) -> int:
        """The port of the server, once started."""
        return self._port

    @property
    def base_url(self) -> str:
        """What `RUNPOD_ENDPOINT_BASE_URL` is set to: `http://127.0.0.1:<port>/v2`."""
        return f"http://{self.config.host}:{self._port}/v2"

    @property
    def events(self) -> tuple[Event, ...]:
        """What has happened, oldest first; the last 50 000."""
        return self._ask(lambda: tuple(self._events))

    def start(self) -> None:
        """Start the server and the fleets; returns when requests are served."""
        if self.config.log_dir is not None:
            self.config.log_dir.mkdir(parents=True, exist_ok=True)
        super().start()

    def posts(self, job_id: str) -> tuple[Post, ...]:
        """Every post workers made about the job, oldest first, even after it is forgotten."""
        return self._ask(
            lambda: next((p for e in self._endpoints.values() if (p := e.store.posts(job_id))), ())
        )

    def workers(self, endpoint: str) -> tuple[WorkerInfo, ...]:
        """The fleet's workers, ended ones first."""
        return self._ask(lambda: f.infos() if (f := self._endpoints[endpoint].fleet) else ())

    def logs(self, worker_id: str) -> tuple[str, ...]:
        """The last 500 lines a worker wrote."""
        return self._ask(lambda: self._logs(worker_id))

    def configure(self, endpoint: str, **changes: Any) -> None:
        """Change an endpoint's settings while it runs: `configure("ep", workers_max=0)`."""
        self._ask(lambda: self._endpoints[endpoint].configure(changes))

    def stop_worker(self, endpoint: str, worker_id: str, reason: str = "scale-down") -> None:
        """Stop one worker of the fleet as the platform would: SIGTERM, grace, SIGKILL."""
        self._ask(
            lambda: f.stop(worker_id, reason) if (f := self._endpoints[endpoint].fleet) else None
        )

    def worker_environment(self, endpoint: str, worker_id: str) -> dict[str, str]:
        """The variables RunPod gives a worker; add them to the environment of one you start.

        HOME is a folder of the platform's, because a ~/.runpod/config.toml would override the key.
        """
        base = f"{self.base_url}/{endpoint}"
        return {
            "HOME": self._home,
            "RUNPOD_AI_API_KEY": self.config.worker_key,
            "RUNPOD_ENDPOINT_ID": endpoint,
            "RUNPOD_LOG_LEVEL": "INFO",
            "RUNPOD_PING_INTERVAL": str(self.config.endpoints[endpoint].ping_interval_ms),
            "RUNPOD_POD_HOSTNAME": f"{worker_id}-emulated",
            "RUNPOD_POD_ID": worker_id,
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
            # The worker fills in $ID (worker, or job) and $RUNPOD_POD_ID itself.
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu={_GPU}",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu={_GPU}",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu={_GPU}",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu={_GPU}",
        }

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        webhooks = Webhooks(self.config.webhook_retry_s, self.config.webhook_timeout_s)
        for name in self.config.endpoints:
            self._endpoints[name] = Endpoint(name, self.config, self._clock, self._emit, webhooks)
        served = (self._application(), self.config.port)
        server = listening(self.config.host, served, backlog=1024)
        with tempfile.TemporaryDirectory(
            prefix="runpod-emulated-", ignore_cleanup_errors=True
        ) as self._home:
            try:
                async with server as (self._port,), self._fleets():
                    yield
            finally:
                await webhooks.close()

    @asynccontextmanager
    async def _fleets(self) -> AsyncIterator[None]:
        guardian: Guardian | None = None
        try:
            guardian = self._start_fleets()
            yield
        finally:
            for endpoint in self._endpoints.values():
                endpoint.release()
            fleets = [e.fleet for e in self._endpoints.values() if e.fleet is not None]
            try:
                # The server still answers: workers that drain a job can post it.
                await asyncio.gather(*(fleet.close(self.config.close_grace_s) for fleet in fleets))
            finally:
                if guardian is not None:
                    guardian.close()

    async def _work(self, closing: asyncio.Event) -> None:
        while not closing.is_set():
            for endpoint in self._endpoints.values():
                endpoint.tick()
            try:
                await asyncio.wait_for(closing.wait(), self.config.tick_s)
            except asyncio.TimeoutError:
                continue

    def _application(self) -> web.Application:
        # 0: no limit of the framework's; ours are read as they come.
        app = web.Application(middlewares=[translate_errors], client_max_size=0)
        limiter = RateLimiter(self.config.rate_limits, self.config.requests_per_worker, self._clock)
        ClientApi(self._find, self.config.api_key, self.config.limits, limiter).add_routes(app)
        WorkerApi(self._find, self.config.worker_key).add_routes(app)
        return app

    def _find(self, request: web.Request) -> Endpoint:
        name = request.match_info["endpoint"]
        if name not in self._endpoints:
            raise UnknownEndpoint(name)
        return self._endpoints[name]

    def _start_fleets(self) -> Guardian | None:
        fleets = [e for e in self._endpoints.values() if e.config.command]
        if not fleets:
            return None
        guardian = Guardian(self._home)
        for endpoint in fleets:
            endpoint.start_fleet(
                guardian,
                partial(self._whole_environment, endpoint.id),
                partial(self._log, endpoint.id),
            )
        return guardian

    def _whole_environment(self, endpoint: str, worker_id: str) -> dict[str, str]:
        """Ours, but for RUNPOD_ variables that belong to somebody else's account or worker."""
        config = self.config.endpoints[endpoint]
        inherited = {
            name: value
            for name, value in os.environ.items()
            if config.inherit_environment and not name.startswith("RUNPOD_")
        }
        return {
            **inherited,
            "PYTHONUNBUFFERED": "1",
            **self.worker_environment(endpoint, worker_id),
            **config.env,
        }

    def _emit(self, event: Event) -> None:
        self._events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def _log(self, endpoint: str, worker_id: str, line: str) -> None:
        if self.config.log_dir is not None:
            with Path(self.config.log_dir, f"{worker_id}.log").open("a", encoding="utf-8") as log:
                log.write(line + "\n")
        if self._on_log is not None:
            self._on_log(endpoint, worker_id, line)

    def _logs(self, worker_id: str) -> tuple[str, ...]:
        fleets = [e.fleet for e in self._endpoints.values() if e.fleet is not None]
        return next((lines for f in fleets if (lines := f.logs(worker_id)) is not None), ())
