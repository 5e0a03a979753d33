"""The side of the platform that workers see: job-take, job-stop, job-done, job-stream, ping.

Routes and shapes are those of the SDK's worker loop (runpod 1.12.0: rp_job, rp_http, rp_ping).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from typing import Any

from aiohttp import web

from pennyreel_emulators.runpod.endpoint import Endpoint
from pennyreel_emulators.runpod.http import Unauthorized, failure, parse_json, read_body
from pennyreel_emulators.runpod.jobs import BadRequest

# A batch is asked for with the number of free slots; nothing says that there is an upper bound.
MAX_BATCH = 1000
# A streamed chunk is posted whole and split by the platform; its post has the bound of a result.
_WORKER_ID = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class WorkerApi:
    """Handlers for requests of workers."""

    def __init__(self, endpoint: Callable[[web.Request], Endpoint], worker_key: str) -> None:
        self._find = endpoint
        self._key = worker_key

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes."""
        base = "/v2/{endpoint}"
        app.router.add_get(base + "/job-take/{worker}", self._take)
        app.router.add_get(base + "/job-take-batch/{worker}", self._take_batch)
        app.router.add_get(base + "/job-stop/{worker}", self._stop)
        app.router.add_post(base + "/job-done/{worker}/{job}", self._done)
        app.router.add_post(base + "/job-stream/{worker}/{job}", self._stream)
        app.router.add_get(base + "/ping/{worker}", self._ping)

    async def _take(self, request: web.Request) -> web.StreamResponse:
        endpoint, worker = self._authorize(request)
        endpoint.worker_polls(worker)
        return await endpoint.polls.take(request, worker, 1, batch=False)

    async def _take_batch(self, request: web.Request) -> web.StreamResponse:
        endpoint, worker = self._authorize(request)
        try:
            count = int(request.query.get("batch_size", "1"))
        except ValueError:
            count = 0
        if not 1 <= count <= MAX_BATCH:
            raise BadRequest("batch_size must be a positive number")
        endpoint.worker_polls(worker)
        return await endpoint.polls.take(request, worker, count, batch=True)

    async def _stop(self, request: web.Request) -> web.StreamResponse:
        endpoint, worker = self._authorize(request)
        return await endpoint.polls.stops(request, worker)

    async def _done(self, request: web.Request) -> web.StreamResponse:
        """Progress and results, to the same URL. The content type lies: the body is JSON."""
        endpoint, worker = self._authorize(request)
        job_id = request.match_info["job"]
        raw = await read_body(request, endpoint.store.result_limit(job_id))
        body = None if raw is None else _object(raw)
        size = endpoint.store.result_limit(job_id) + 1 if raw is None else len(raw)
        endpoint.roster.heard(worker)
        posted = endpoint.store.post(job_id, worker, body, size)
        if posted.stop_pod:
            endpoint.stop_pod(worker)
        if posted.refusal is not None:
            return failure(400, posted.refusal)
        return web.json_response({})

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        endpoint, worker = self._authorize(request)
        job_id = request.match_info["job"]
        raw = await read_body(request, endpoint.store.result_limit(job_id))
        if raw is None:
            raise BadRequest("the chunk is larger than a result may be")
        endpoint.roster.heard(worker)
        endpoint.store.add_chunk(job_id, worker, _object(raw).get("output"))
        return web.json_response({})

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        """The heartbeat. `job_id` (a,b) names the jobs the worker believes it holds."""
        endpoint, worker = self._authorize(request)
        endpoint.roster.heard(worker, ping=True)
        return web.json_response({})

    def _authorize(self, request: web.Request) -> tuple[Endpoint, str]:
        """Workers send their key raw, without Bearer (rp_ping, http_client.get_auth_header)."""
        sent = request.headers.get("Authorization", "")
        if not hmac.compare_digest(sent.encode(), self._key.encode()):
            raise Unauthorized
        worker = request.match_info["worker"]
        # Also catches a worker that has left $RUNPOD_POD_ID or $ID in its URL.
        if not _WORKER_ID.fullmatch(worker):
            raise BadRequest(f"not a worker id: {worker}")
        endpoint = self._find(request)
        endpoint.polls.heard(request)
        return endpoint, worker


def _object(raw: bytes) -> dict[str, Any]:
    body = parse_json(raw)
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    return body
