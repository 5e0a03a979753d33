"""The side of the platform that clients see (docs: operation-reference, send-requests)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web

from pennyreel_emulators.runpod.config import Limits
from pennyreel_emulators.runpod.endpoint import Endpoint
from pennyreel_emulators.runpod.http import Unauthorized, parse_json, read_body
from pennyreel_emulators.runpod.jobs import BadRequest, Job
from pennyreel_emulators.runpod.limits import RateLimiter, TooMany


class ClientApi:
    """Handlers for requests of clients."""

    def __init__(
        self,
        endpoint: Callable[[web.Request], Endpoint],
        api_key: str,
        limits: Limits,
        limiter: RateLimiter,
    ) -> None:
        self._find = endpoint
        self._key = api_key
        self._limits = limits
        self._limiter = limiter

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes. /requests is left out: its shape is not published."""
        base = "/v2/{endpoint}"
        app.router.add_post(base + "/run", self._run)
        app.router.add_post(base + "/runsync", self._runsync)
        app.router.add_get(base + "/status/{job}", self._status)
        # The documentation's table of limits says GET/POST for both.
        app.router.add_post(base + "/status/{job}", self._status)
        app.router.add_get(base + "/stream/{job}", self._stream)
        app.router.add_post(base + "/stream/{job}", self._stream)
        app.router.add_post(base + "/cancel/{job}", self._cancel)
        app.router.add_post(base + "/retry/{job}", self._retry)
        app.router.add_post(base + "/purge-queue", self._purge)
        app.router.add_get(base + "/health", self._health)

    async def _run(self, request: web.Request) -> web.StreamResponse:
        with self._admit(request, "run") as endpoint:
            job = await self._submit(request, endpoint, sync=False)
            return _brief(job)

    async def _runsync(self, request: web.Request) -> web.StreamResponse:
        """Waits for the job; one that is not finished in time is answered with its status."""
        with self._admit(request, "runsync") as endpoint:
            wait = _number(request, "wait", self._limits.wait_ms, self._limits.wait_range_ms)
            job = await self._submit(request, endpoint, sync=True)
            await endpoint.ended(job.id, wait / 1000)
            return web.json_response(endpoint.store.get(job.id).view())

    async def _status(self, request: web.Request) -> web.StreamResponse:
        with self._admit(request, "status") as endpoint:
            job_id = request.match_info["job"]
            if "ttl" in request.query:
                # "remove a job result sooner than the default retention" (operations page); that
                # it counts from the job's end is UNVERIFIED.
                ttl = _number(request, "ttl", 0, (1, self._limits.ttl_range_ms[1]))
                endpoint.store.limit_retention(job_id, ttl / 1000)
            return web.json_response(endpoint.store.get(job_id).view())

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Chunks since the last call. The SDK reads `status` and `stream[].output`."""
        with self._admit(request, "stream") as endpoint:
            job = endpoint.store.get(request.match_info["job"])
            chunks = endpoint.store.read_stream(job.id)
            stream = [{"metrics": {}, "output": chunk} for chunk in chunks]
            return web.json_response({"status": job.status.value, "stream": stream})

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        with self._admit(request, "cancel") as endpoint:
            return _brief(endpoint.store.cancel(request.match_info["job"]))

    async def _retry(self, request: web.Request) -> web.StreamResponse:
        with self._admit(request, "retry") as endpoint:
            answer = _brief(endpoint.store.retry(request.match_info["job"]))
            endpoint.polls.match()
            return answer

    async def _purge(self, request: web.Request) -> web.StreamResponse:
        with self._admit(request, "purge-queue") as endpoint:
            return web.json_response({"removed": endpoint.store.purge(), "status": "completed"})

    async def _health(self, request: web.Request) -> web.StreamResponse:
        with self._admit(request, "health") as endpoint:
            return web.json_response(endpoint.health())

    async def _submit(self, request: web.Request, endpoint: Endpoint, *, sync: bool) -> Job:
        limit = self._limits.runsync_bytes if sync else self._limits.run_bytes
        raw = await read_body(request, limit)
        if raw is None:
            # That it is a 400, and its words, are UNVERIFIED.
            raise BadRequest(f"the request body is larger than {limit} bytes")
        body: Any = parse_json(raw)
        if endpoint.queue_full():
            raise TooMany("too many jobs in the queue")
        job = endpoint.store.submit(body, sync=sync)
        endpoint.polls.match()
        return job

    @contextmanager
    def _admit(self, request: web.Request, operation: str) -> Iterator[Endpoint]:
        """Authorize, find the endpoint, count the request for as long as it is open."""
        sent = request.headers.get("Authorization", "")
        # The SDK sends Bearer; the curl samples of the operation reference send the bare key.
        key = sent.removeprefix("Bearer ")
        if not hmac.compare_digest(key.encode(), self._key.encode()):
            raise Unauthorized
        endpoint = self._find(request)
        running = len(endpoint.store.holders())
        with self._limiter.admit(key, endpoint.id, operation, running):
            yield endpoint


def _brief(job: Job) -> web.Response:
    return web.json_response({"id": job.id, "status": job.status.value})


def _number(request: web.Request, name: str, default: int, bounds: tuple[int, int]) -> int:
    """A query parameter in milliseconds; out of bounds is 400 (UNVERIFIED: perhaps clamped)."""
    low, high = bounds
    try:
        value = int(request.query.get(name, default))
    except ValueError:
        value = low - 1
    if not low <= value <= high:
        raise BadRequest(f"{name} must be a number of milliseconds from {low} to {high}")
    return value
