"""The Gemini API by key: Interactions, the files they leave, and the models.

Source: google-genai 3.6 (its Interactions types), ai.google.dev. Paths are taken with /v1 and
/v1beta. What an interaction without a video looks like is UNVERIFIED.
"""

from __future__ import annotations

import base64
import re
from typing import Any

from aiohttp import web

from pennyreel_emulators.google.config import OmniModel
from pennyreel_emulators.google.http import (
    Refused,
    accepted,
    body_of,
    check_fields,
    deliver,
    turn_away,
)
from pennyreel_emulators.google.store import Job, Store

_FIELDS = frozenset(
    {
        "model",
        "input",
        "response_format",
        "generation_config",
        "background",
        "store",
        "stream",
        "labels",
        "previous_interaction_id",
        "safety_settings",
        "service_tier",
        "webhook_config",
        "system_instruction",
    }
)
_FORMAT = frozenset(
    {
        "type",
        "aspect_ratio",
        "duration",
        "resolution",
        "delivery",
        "gcs_uri",
    }
)
_TASKS = frozenset(
    {
        "text_to_video",
        "image_to_video",
        "reference_to_video",
        "edit",
        "extend",
        "upscale",
    }
)
_STATUS = {"done": "completed", "filtered": "completed"}


class Interactions:
    """Handlers of the Gemini API."""

    def __init__(self, store: Store, origin: Any) -> None:
        self._store = store
        self._origin = origin

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes."""
        base = "/{version:v1|v1beta}"
        app.router.add_post(base + "/interactions", self._create)
        app.router.add_get(base + "/interactions/{id}", self._get)
        app.router.add_delete(base + "/interactions/{id}", self._delete)
        app.router.add_post(base + "/interactions/{id}/cancel", self._cancel)
        app.router.add_get(base + "/files/{id}:download", self._download)
        app.router.add_get(base + "/models", self._models)
        app.router.add_get(base + "/models/{model}", self._model)
        app.router.add_get("/signed-storage/{id}", self._signed)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        body = await body_of(request, _FIELDS)
        plan = self._store.plan()
        turn_away(plan)
        name = str(body.get("model"))
        model = self._known(name)
        wish = _wish(body, model)
        number = self._store.number()
        job = Job(id=f"v1_emulated{number}", model=name, plan=plan, **wish)
        self._store.jobs[job.id] = job
        if not body.get("background"):
            job.looks = plan.looks
        return accepted(plan, self._view(job))

    async def _get(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        broken = job.broken()
        if broken is not None:
            raise Refused(broken, "The service is currently unavailable.")
        view = self._view(job)
        job.look()
        return web.json_response(view)

    async def _delete(self, request: web.Request) -> web.StreamResponse:
        self._job(request).deleted = True
        return web.json_response({})

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        job = self._job(request)
        if job.state != "running":  # "only applies to interactions that are still running"
            raise Refused(400, "The interaction is not running.")  # UNVERIFIED: or 200
        job.cancel()
        return web.json_response(self._view(job))

    async def _download(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        job = self._store.jobs.get(request.match_info["id"])
        if job is None or job.deleted:
            raise Refused(403, "You do not have permission to access the File or it may not exist.")
        if request.query.get("alt") != "media":
            raise Refused(400, "Media download needs alt=media.")
        if self._store.config.redirects:
            raise web.HTTPFound(f"{self._origin()}/signed-storage/{job.id}?signature=EMULATED")
        return await deliver(request, job.content, cut=job.cut())

    async def _signed(self, request: web.Request) -> web.StreamResponse:
        """Storage behind a signed URL: a key that arrives here has leaked."""
        if has_credential(request):
            raise Refused(400, "Only one auth mechanism allowed.")
        job = self._store.jobs.get(request.match_info["id"])
        if job is None or request.query.get("signature") != "EMULATED":
            raise Refused(403, "Access denied.")
        return await deliver(request, job.content, cut=job.cut())

    async def _models(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        models = [{"name": f"models/{name}"} for name in self._store.config.omni]
        return web.json_response({"models": models})

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._check_key(request)
        name = request.match_info["model"]
        self._known(name)
        return web.json_response({"name": f"models/{name}", "displayName": name})

    def _known(self, name: str) -> OmniModel:
        model = self._store.config.omni.get(name)
        if model is None:
            raise Refused(404, f"models/{name} is not found or is no longer available.")
        return model

    def _job(self, request: web.Request) -> Job:
        self._check_key(request)
        job = self._store.jobs.get(request.match_info["id"])
        if job is None or job.deleted or job.state == "forgotten":
            raise Refused(404, "Interaction not found.")
        return job

    def _check_key(self, request: web.Request) -> None:
        """The key comes in a header. Google also takes ?key=, which ends up in logs: not here."""
        key = request.headers.get("x-goog-api-key", "")
        if not key:
            raise Refused(403, "Method doesn't allow unregistered callers.")
        if key not in self._store.keys:
            raise Refused(
                400,
                "API key not valid. Please pass a valid API key.",
                reason="API_KEY_INVALID",
            )

    def _view(self, job: Job) -> dict[str, Any]:
        state = job.state
        status = _STATUS.get(state, state)
        if state == "running":
            status = job.plan.status or ("queued" if job.looks == 0 else "in_progress")
        view: dict[str, Any] = {
            "id": job.id,
            "model": job.model,
            "object": "interaction",
            "status": status,
            "created": "2026-11-20T10:00:00Z",
            "updated": "2026-11-20T10:00:30Z",
        }
        if state == "done":
            view["steps"] = [{"type": "model_output", "content": [self._video(job)]}]
            view["usage"] = {"total_output_tokens": 5792 * job.seconds}
        elif state == "filtered":
            blocked = {"code": 3, "message": "The output was blocked by safety filters."}
            view["steps"] = [{"type": "model_output", "content": [], "error": blocked}]
        elif state == "failed":
            view["errors"] = [{"code": "internal", "message": job.plan.error}]
        return view

    def _video(self, job: Job) -> dict[str, Any]:
        how = job.delivery if job.plan.delivery == "asked" else job.plan.delivery
        video: dict[str, Any] = {"type": "video", "mime_type": "video/mp4"}
        if how == "uri":
            here = f"{self._origin()}/v1beta/files/{job.id}:download?alt=media"
            video["uri"] = job.plan.file_url or here
        else:
            video["data"] = base64.b64encode(job.content).decode()
        return video


def has_credential(request: web.Request) -> bool:
    """Whether a key or a token came with the request, in whatever way."""
    return bool(
        {"x-goog-api-key", "authorization"} & {h.lower() for h in request.headers}
        or {"key", "access_token"} & request.query.keys()
    )


def _wish(body: dict[str, Any], model: OmniModel) -> dict[str, Any]:
    """Return what is wanted, or refuse it."""
    _check_input(body.get("input"))
    wanted = body.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") != "video":
        raise Refused(400, "This model needs a response_format of type video.")
    check_fields(wanted, _FORMAT, "response_format")
    task = ((body.get("generation_config") or {}).get("video_config") or {}).get("task")
    if task is not None and task not in _TASKS:
        raise Refused(400, f"Invalid value at 'generation_config.video_config.task': {task}")
    found = re.fullmatch(r"(\d+)s", str(wanted.get("duration", "8s")))
    seconds = int(found[1]) if found else 0
    if not model.least_s <= seconds <= model.most_s:
        raise Refused(400, f"duration must be from {model.least_s}s to {model.most_s}s.")
    resolution = wanted.get("resolution", "720p")
    if resolution not in model.resolutions:
        raise Refused(400, f"Unsupported resolution: {resolution}")
    if wanted.get("aspect_ratio", "16:9") not in {"16:9", "9:16"}:
        raise Refused(400, "Unsupported aspect_ratio.")
    if body.get("background") and body.get("store") is False:
        raise Refused(400, "background needs store.")
    delivery = wanted.get("delivery", "inline")
    return {"seconds": seconds, "resolution": resolution, "delivery": delivery}


def _check_input(given: object) -> None:
    """A text, a list of parts, or a list of steps that hold them: google-genai sends the last."""
    if isinstance(given, str) and given.strip():
        return
    if isinstance(given, list) and given and all(_is_step(s) for s in given):
        given = [part for step in given for part in step["content"]]
    if not isinstance(given, list) or not given:
        raise Refused(400, "input is empty.")
    for part in given:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and part.get("text"):
            continue
        media = kind in {"image", "video"} and part.get("mime_type")
        if media and ("uri" in part or _is_base64(part.get("data"))):
            continue
        raise Refused(400, "input has a part that is neither text nor media.")


def _is_step(raw: object) -> bool:
    return (
        isinstance(raw, dict)
        and raw.get("type") == "user_input"
        and isinstance(raw.get("content"), list)
    )


def _is_base64(text: object) -> bool:
    try:
        return bool(base64.b64decode(str(text), validate=True))
    except ValueError:
        return False
