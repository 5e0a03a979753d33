"""Veo on Vertex ("Agent Platform"): a long-running prediction, and the looks at it.

Source: google-genai 3.6 (bodies that it sends, answers that it parses), cloud.google.com. Paths
are taken with /v1 and /v1beta1. There is no cancel: what is accepted is made, and billed.
"""

from __future__ import annotations

import base64
import re
import uuid
from typing import Any

from aiohttp import web

from pennyreel_emulators.google.config import VeoModel
from pennyreel_emulators.google.http import (
    Refused,
    accepted,
    body_of,
    check_fields,
    deliver,
    turn_away,
)
from pennyreel_emulators.google.store import Job, Store

_PARAMETERS = frozenset(
    {
        "sampleCount",
        "storageUri",
        "fps",
        "durationSeconds",
        "seed",
        "aspectRatio",
        "resolution",
        "personGeneration",
        "pubsubTopic",
        "negativePrompt",
        "enhancePrompt",
        "generateAudio",
        "compressionQuality",
        "resizeMode",
    }
)
_INSTANCE = frozenset(
    {
        "prompt",
        "image",
        "lastFrame",
        "referenceImages",
        "video",
        "mask",
    }
)
_VIDEO = "type.googleapis.com/cloud.ai.large_models.vision.GenerateVideoResponse"
_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]+(/.*)?")


class Vertex:
    """Handlers of the Vertex API and of the bucket that it writes to."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes."""
        version = "/{version:v1|v1beta1}"
        model = version + (
            "/projects/{project}/locations/{location}/publishers/google/models/{model}"
        )
        app.router.add_post(model + ":predictLongRunning", self._predict)
        app.router.add_post(model + ":fetchPredictOperation", self._fetch)
        app.router.add_get(version + "/publishers/google/models/{model}", self._model)
        app.router.add_get("/storage/v1/b/{bucket}/o/{object}", self._object)

    async def _predict(self, request: web.Request) -> web.StreamResponse:
        model = self._admit(request)
        body = await body_of(request, frozenset({"instances", "parameters", "labels"}))
        plan = self._store.plan()
        turn_away(plan)
        wish = _wish(body, model)
        place = request.path.partition("/projects/")[2].rpartition(":")[0]
        name = f"projects/{place}/operations/{uuid.uuid4()}"
        job = Job(id=name, model=request.match_info["model"], plan=plan, **wish)
        self._store.jobs[name] = job
        return accepted(plan, {"name": name})

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        body = await body_of(request, frozenset({"operationName"}))
        job = self._store.jobs.get(str(body.get("operationName")))
        if job is None or job.state == "forgotten":
            raise Refused(404, "The operation was not found.")
        broken = job.broken()
        if broken is not None:
            raise Refused(broken, "The service is currently unavailable.")
        return web.json_response(self._view(job))

    async def _model(self, request: web.Request) -> web.StreamResponse:
        self._check_token(request)
        name = request.match_info["model"]
        self._known(name)
        return web.json_response(
            {"name": f"publishers/google/models/{name}", "launchStage": "GA", "versionId": "001"}
        )

    async def _object(self, request: web.Request) -> web.StreamResponse:
        """Cloud Storage's JSON API: the content of one object."""
        self._check_token(request)
        where = f"gs://{request.match_info['bucket']}/{request.match_info['object']}"
        if request.query.get("alt") != "media" or where not in self._store.stored:
            raise Refused(404, f"No such object: {where}")
        job = self._store.stored[where]
        return await deliver(request, job.content, cut=job.cut())

    def _admit(self, request: web.Request) -> VeoModel:
        self._check_token(request)
        info, config = request.match_info, self._store.config
        if (info["project"], info["location"]) != (config.project, config.location):
            raise Refused(
                403,
                "Permission 'aiplatform.endpoints.predict' denied on resource "
                f"'//aiplatform.googleapis.com/projects/{info['project']}/locations/"
                f"{info['location']}' (or it may not exist).",
            )
        return self._known(info["model"])

    def _known(self, name: str) -> VeoModel:
        model = self._store.config.veo.get(name)
        if model is None:
            raise Refused(404, f"Publisher Model `publishers/google/models/{name}` not found.")
        return model

    def _check_token(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self._store.tokens:
            raise Refused(
                401,
                "Request had invalid authentication credentials. Expected OAuth 2 access token.",
                reason="ACCESS_TOKEN_TYPE_UNSUPPORTED",
            )

    def _view(self, job: Job) -> dict[str, Any]:
        state = job.look()
        if state == "running":
            return {"name": job.id}
        view: dict[str, Any] = {"name": job.id, "done": True}
        if state in {"failed", "incomplete", "cancelled"}:
            code = 1 if state == "cancelled" else job.plan.error_code
            return {**view, "error": {"code": code, "message": job.plan.error}}
        response: dict[str, Any] = {"@type": _VIDEO}
        if state == "filtered":
            response["raiMediaFilteredCount"] = 1
            response["raiMediaFilteredReasons"] = ["17301594: Celebrity"]
        else:
            response["videos"] = [self._video(job)]
        return {**view, "response": response}

    def _video(self, job: Job) -> dict[str, Any]:
        if job.delivery == "inline":
            data = base64.b64encode(job.content).decode()
            return {"bytesBase64Encoded": data, "mimeType": "video/mp4"}
        where = f"{job.delivery.rstrip('/')}/{job.id.rpartition('/')[2]}/sample_0.mp4"
        self._store.stored[where] = job
        return {"gcsUri": where, "mimeType": "video/mp4"}


def _wish(body: dict[str, Any], model: VeoModel) -> dict[str, Any]:
    """Return what is wanted, or refuse it."""
    instances = body.get("instances")
    if not isinstance(instances, list) or len(instances) != 1 or not instances[0].get("prompt"):
        raise Refused(400, "One instance with a prompt is needed.")
    check_fields(instances[0], _INSTANCE, "instances[0]")
    image = instances[0].get("image")
    if image is not None and not (image.get("mimeType") and len(image) == 2):
        raise Refused(400, "image needs mimeType and bytesBase64Encoded or gcsUri.")
    parameters = body.get("parameters") or {}
    check_fields(parameters, _PARAMETERS, "parameters")
    seconds = parameters.get("durationSeconds", 8)
    resolution = parameters.get("resolution", "720p")
    if seconds not in model.lengths:
        raise Refused(400, f"Unsupported output video duration {seconds} seconds.")
    if resolution not in model.resolutions:
        raise Refused(400, f"Unsupported resolution: {resolution}")
    if resolution in model.full_length_only and seconds != max(model.lengths):
        raise Refused(400, f"{resolution} needs {max(model.lengths)} seconds.")
    if parameters.get("aspectRatio", "16:9") not in {"16:9", "9:16"}:
        raise Refused(400, "Unsupported aspectRatio.")
    if parameters.get("sampleCount", 1) != 1:
        raise Refused(400, "This emulation makes one sample.")
    _check_seed(parameters.get("seed"))
    return {
        "seconds": seconds,
        "resolution": resolution,
        "audio": bool(parameters.get("generateAudio", True)),
        "delivery": _storage(parameters.get("storageUri")),
    }


def _check_seed(seed: object) -> None:
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise Refused(400, "seed must be a uint32.")


def _storage(uri: object) -> str:
    if uri is None:
        return "inline"
    if not _BUCKET.fullmatch(str(uri)):
        raise Refused(400, "storageUri must be like gs://bucket/folder.")
    return str(uri)
