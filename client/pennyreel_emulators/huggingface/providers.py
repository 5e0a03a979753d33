"""The providers behind the router, as far as text-to-video and text-to-image need them.

Shapes: huggingface_hub 2.4.0, `inference/_providers`, which is what reads them; fal's queue also
by fal.ai/docs (inference-api/queue), WaveSpeed's by wavespeed.ai/docs, Together's by
docs.together.ai/reference/get-videos-id.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from aiohttp import web

from pennyreel_emulators.huggingface.config import IMAGE, VIDEO
from pennyreel_emulators.huggingface.media import mp4, png
from pennyreel_emulators.huggingface.store import Job, Refused, Store

_FAL_WORDS = {"queued": "IN_QUEUE", "running": "IN_PROGRESS"}
_FAL_REQUEST = re.compile(r"^(?P<app>.*)/requests/(?P<id>[^/]+)(?P<call>/status|/cancel|)$")


class Fal:
    """fal's queue, and its direct call for pictures.

    Clients of the real router put /fal-ai before the paths that fal names; huggingface_hub leaves
    that out for any other host. Both are served.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes."""
        app.router.add_post("/fal-ai/{path:.+}", self._post)
        app.router.add_get("/fal-ai/{path:.+}", self._get)
        app.router.add_put("/fal-ai/{path:.+}", self._cancel)

    async def _post(self, request: web.Request) -> web.Response:
        provider_id, body = request.match_info["path"], await read(request)
        if request.query.get("_subdomain") != "queue":
            job = self._store.accept("fal-ai", provider_id, IMAGE, body)
            return web.json_response(self._output(job))
        task = IMAGE if _serves(self._store, "fal-ai", provider_id, IMAGE) else VIDEO
        job = self._store.accept("fal-ai", provider_id, task, body)
        return web.json_response({"status": "IN_QUEUE", "queue_position": 0, **_fal_urls(job)})

    async def _get(self, request: web.Request) -> web.Response:
        job_id, call = self._named(request)
        if call == "/status":
            return self._status(self._store.look("fal-ai", job_id))
        job = self._store.get("fal-ai", job_id)
        if job.state in {"queued", "running"}:
            return web.json_response({"detail": "Request is still in progress"}, status=400)
        if job.state == "done":
            return web.json_response(self._output(job))
        detail = [{"loc": ["body"], "msg": job.plan.error, "type": "emulated_failure"}]
        return web.json_response({"detail": detail}, status=422)

    def _status(self, job: Job) -> web.Response:
        if job.state == "cancelled":
            # That a removed request is forgotten is UNVERIFIED.
            raise Refused(404, {"detail": "Request not found"})
        if job.state in {"queued", "running"}:
            told = job.plan.status or _FAL_WORDS[job.state]
            return web.json_response({"status": told, "logs": None, **_fal_urls(job)}, status=202)
        body: dict[str, Any] = {"status": "COMPLETED", "logs": None, **_fal_urls(job)}
        if job.state == "failed":
            body |= {"error": job.plan.error, "error_type": "emulated_failure"}
        return web.json_response(body)

    async def _cancel(self, request: web.Request) -> web.Response:
        job_id, call = self._named(request)
        job = self._store.get("fal-ai", job_id)
        if call != "/cancel" or job.plan.cancel == "unsupported":
            raise Refused(405, {"error": "Method not allowed"})
        if job.state in {"done", "failed"}:
            return web.json_response({"status": "ALREADY_COMPLETED"}, status=400)
        job.cancelled = job.plan.cancel == "obeyed"
        return web.json_response({"status": "CANCELLATION_REQUESTED"}, status=202)

    def _named(self, request: web.Request) -> tuple[str, str]:
        found = _FAL_REQUEST.match(request.match_info["path"])
        # Without it the router would ask fal.run, which knows no queue.
        if found is None or request.query.get("_subdomain") != "queue":
            raise Refused(404, {"detail": "Path not found"})
        return found["id"], found["call"]

    def _output(self, job: Job) -> dict[str, Any]:
        urls = self._store.urls(job)
        if job.task == IMAGE:
            return {"images": [{"url": u, "content_type": "image/png"} for u in urls], "seed": 1}
        video = {
            "url": urls[0],
            "content_type": "video/mp4",
            "file_name": "video.mp4",
            "file_size": len(mp4()),
        }
        return {"video": video, "seed": 1}


class WaveSpeed:
    """WaveSpeed's predictions."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes: with the router's prefix, and without as huggingface_hub looks."""
        app.router.add_post("/wavespeed/api/v3/{path:.+}", self._post)
        for prefix in ("", "/wavespeed"):
            app.router.add_get(prefix + "/api/v3/predictions/{id}", self._get)
            app.router.add_get(prefix + "/api/v3/predictions/{id}/result", self._get)

    async def _post(self, request: web.Request) -> web.Response:
        provider_id, body = request.match_info["path"], await read(request)
        task = IMAGE if _serves(self._store, "wavespeed", provider_id, IMAGE) else VIDEO
        job = self._store.accept("wavespeed", provider_id, task, body)
        return self._answer(job, "created")

    async def _get(self, request: web.Request) -> web.Response:
        job = self._store.look("wavespeed", request.match_info["id"])
        words = {"queued": "created", "running": "processing", "done": "completed"}
        return self._answer(job, _word(job, words, "failed"))

    def _answer(self, job: Job, status: str) -> web.Response:
        data = {
            "id": job.id,
            "model": job.provider_id,
            "status": status,
            "outputs": self._store.urls(job) if status == "completed" else [],
            "urls": {"get": f"https://api.wavespeed.ai/api/v3/predictions/{job.id}/result"},
            "error": job.plan.error if status == "failed" else "",
        }
        return web.json_response({"code": 200, "message": "success", "data": data})


class Together:
    """Together's videos, which are followed, and its pictures, which come with the answer."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes."""
        app.router.add_post("/together/v2/videos", self._video)
        app.router.add_get("/together/v2/videos/{id}", self._get)
        app.router.add_post("/together/v1/images/generations", self._image)

    async def _video(self, request: web.Request) -> web.Response:
        body = await read(request)
        job = self._store.accept("together", str(body.get("model")), VIDEO, body)
        return web.json_response(self._view(job, "queued"))

    async def _get(self, request: web.Request) -> web.Response:
        job = self._store.look("together", request.match_info["id"])
        words = {"queued": "queued", "running": "in_progress", "done": "completed"}
        return web.json_response(self._view(job, _word(job, words, "failed")))

    def _view(self, job: Job, status: str) -> dict[str, Any]:
        body: dict[str, Any] = {
            "id": job.id,
            "object": "video",
            "model": job.provider_id,
            "status": status,
            "created_at": 1_790_000_000,
        }
        if status == "completed":
            body["outputs"] = {"cost": 0.2, "video_url": self._store.urls(job)[0]}
        if status == "failed":
            body["error"] = {"message": job.plan.error, "code": "emulated_failure"}
        return body

    async def _image(self, request: web.Request) -> web.Response:
        body = await read(request)
        job = self._store.accept("together", str(body.get("model")), IMAGE, body)
        picture = base64.b64encode(png(*size(body))).decode()
        data = [{"index": 0, "b64_json": picture}]
        return web.json_response({"id": job.id, "model": job.provider_id, "data": data})


class Replicate:
    """Replicate: the answer waits up to a minute for the output.

    Whether the router passes GETs of predictions on is not known (UNVERIFIED): it does here.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes."""
        app.router.add_post("/replicate/v1/models/{owner}/{name}/predictions", self._official)
        app.router.add_post("/replicate/v1/predictions", self._version)
        app.router.add_get("/replicate/v1/predictions/{id}", self._get)

    async def _official(self, request: web.Request) -> web.Response:
        named = f"{request.match_info['owner']}/{request.match_info['name']}"
        return self._accept(request, named, await read(request))

    async def _version(self, request: web.Request) -> web.Response:
        body = await read(request)
        ending = f":{body.get('version')}"
        for models in self._store.config.models.values():
            entry = models.get("replicate")
            if entry is not None and entry.provider_id.endswith(ending):
                return self._accept(request, entry.provider_id, body)
        raise Refused(422, {"title": "Invalid version or not permitted", "status": 422})

    def _accept(self, request: web.Request, named: str, body: dict[str, Any]) -> web.Response:
        task = IMAGE if _serves(self._store, "replicate", named, IMAGE) else VIDEO
        job = self._store.accept("replicate", named, task, body)
        if request.headers.get("Prefer", "").startswith("wait") and job.plan.looks <= 1:
            job.looks_left = 0
        return web.json_response(self._view(job), status=201)

    async def _get(self, request: web.Request) -> web.Response:
        return web.json_response(
            self._view(self._store.look("replicate", request.match_info["id"]))
        )

    def _view(self, job: Job) -> dict[str, Any]:
        words = {"queued": "starting", "running": "processing", "done": "succeeded"}
        urls = self._store.urls(job)
        output: Any = urls if job.task == IMAGE else urls[0]
        return {
            "id": job.id,
            "model": job.provider_id,
            "status": _word(job, words, job.state),
            "output": output if job.state == "done" else None,
            "error": job.plan.error if job.state == "failed" else None,
        }


class Direct:
    """Providers that answer with the result itself: Novita's videos, hf-inference's pictures."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes."""
        app.router.add_post("/novita/v3/hf/{path:.+}", self._novita)
        app.router.add_post("/hf-inference/models/{path:.+}", self._picture)

    async def _novita(self, request: web.Request) -> web.Response:
        provider_id, body = request.match_info["path"], await read(request)
        job = self._store.accept("novita", provider_id, VIDEO, body)
        return web.json_response({"video": {"video_url": self._store.urls(job)[0]}})

    async def _picture(self, request: web.Request) -> web.Response:
        provider_id, body = request.match_info["path"], await read(request)
        self._store.accept("hf-inference", provider_id, IMAGE, body)
        wanted = body.get("parameters") or {}
        return web.Response(body=png(*size(wanted)), content_type="image/png")


async def read(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request's body; raises `Refused`."""
    try:
        body = await request.json()
    except ValueError:
        raise Refused(400, {"error": "the body is not JSON"}) from None
    if not isinstance(body, dict):
        raise Refused(400, {"error": "the body is no object"})
    return body


def size(wanted: dict[str, Any]) -> tuple[int, int]:
    """The picture's size in pixels, kept small."""
    return min(2048, int(wanted.get("width") or 64)), min(2048, int(wanted.get("height") or 64))


def _serves(store: Store, provider: str, provider_id: str, task: str) -> bool:
    entries = (models.get(provider) for models in store.config.models.values())
    return any(e is not None and (e.provider_id, e.task) == (provider_id, task) for e in entries)


def _word(job: Job, words: dict[str, str], otherwise: str) -> str:
    if job.plan.status is not None and job.state in {"queued", "running"}:
        return job.plan.status
    return words.get(job.state, otherwise)


def _fal_urls(job: Job) -> dict[str, str]:
    """fal names the owner and the app only, not the endpoint's whole path."""
    app = "/".join(job.provider_id.split("/")[:2])
    base = f"https://queue.fal.run/{app}/requests/{job.id}"
    return {
        "request_id": job.id,
        "response_url": base,
        "status_url": f"{base}/status",
        "cancel_url": f"{base}/cancel",
    }
