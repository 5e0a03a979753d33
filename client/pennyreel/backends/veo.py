"""Veo 3.1 on Vertex: `veo`, the best there is, and `veo-fast`, at a quarter of its price.

They are two backends, since each has its own price and quality and a choice is made between
them. One POST submits; after that only looks. Veo has no cancel: what is accepted is made, and
billed. Source: google-genai 3.6; cloud.google.com/vertex-ai/generative-ai/docs/model-reference/veo.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import requests
from typing_extensions import Self

from pennyreel import _http
from pennyreel.backends import _google_clips as clips
from pennyreel.backends import _google_follow as following
from pennyreel.backends import _google_results as results
from pennyreel.backends._google_api import Gone, GoogleApi, Service
from pennyreel.backends._google_auth import Tokens, tokens
from pennyreel.backends._google_follow import Following, Look
from pennyreel.backends._google_results import dicts, origin, versioned
from pennyreel.backends.base import OnEvent, Work, pause, told_id
from pennyreel.backends.polling import DOWN_GRACE_S
from pennyreel.config import Settings, is_loopback
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Need, Span, Unit, Usage
from pennyreel.types import Handle, Health, Sink
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Result

STORAGE_URL = "https://storage.googleapis.com"
_PLACE = re.compile(
    r"(?P<project>[a-z0-9][a-z0-9.:-]{0,99})/(?P<location>[a-z][a-z0-9-]{0,39})/"
    r"(?P<model>[A-Za-z0-9][A-Za-z0-9._-]{0,99})"
)
_BUCKET = re.compile(r"gs://(?P<bucket>[a-z0-9][a-z0-9._-]+)(?P<object>/.*)?")
_LENGTHS = {"720p": Span(these=(4, 6, 8)), "1080p": Span(these=(8,)), "4k": Span(these=(8,))}
_MAKES = clips.Catalogue(("720p", "1080p", "4k"), "720p", _LENGTHS.__getitem__)
_SERVICE = Service(
    name="Vertex",
    key_hint="Check GOOGLE_APPLICATION_CREDENTIALS (or PENNYREEL_VERTEX_TOKEN, PENNYREEL_GCLOUD), "
    "that the account may use Vertex AI (roles/aiplatform.user), and that GOOGLE_CLOUD_PROJECT "
    "has its API enabled.",
    model_hint="Set PENNYREEL_VEO_MODEL or PENNYREEL_VEO_FAST_MODEL to a model that Vertex lists, "
    "and GOOGLE_CLOUD_LOCATION to a region that has it.",
    url_setting="GOOGLE_VERTEX_BASE_URL",
    pay_hint="Enable billing for GOOGLE_CLOUD_PROJECT: console.cloud.google.com/billing",
    look_hint="look at the project's bill and quota in console.cloud.google.com before you run "
    "it again.",
)


class VeoBackend:
    """One Veo model in one project and region."""

    name = "veo"
    quality = 3
    _setting = "veo_model"

    def __init__(
        self,
        target: str,
        token: Tokens,
        *,
        base_url: str | None = None,
        storage_uri: str | None = None,
        storage_url: str = STORAGE_URL,
        poll_s: tuple[float, float] = following.POLL_S,
        down_grace_s: float = DOWN_GRACE_S,
    ) -> None:
        """Keep the address; nothing is sent. `target` is PROJECT/LOCATION/MODEL."""
        place = _PLACE.fullmatch(target)
        if place is None:
            raise error(
                Code.BAD_REQUEST,
                f"{target[:200]!r} names no Veo model",
                hint="It looks like PROJECT/us-central1/veo-3.1-fast-generate-001.",
            )
        if storage_uri is not None and not _BUCKET.fullmatch(storage_uri):
            raise error(
                Code.NOT_CONFIGURED,
                "PENNYREEL_VERTEX_STORAGE names no bucket",
                hint="Write it like gs://bucket/folder, or unset it.",
            )
        self.target = target
        self._model = place["model"]
        self._token = token
        self._path = (
            f"/projects/{quote(place['project'], safe=':')}/locations/{place['location']}"
            f"/publishers/google/models/{self._model}"
        )
        address = base_url or _regional(place["location"])
        self._api = GoogleApi(
            versioned(address, "v1"),
            token,
            header="Authorization",
            service=_SERVICE,
            held=token.held,
            renew=token.renew,
        )
        self._storage_uri, self._storage_url = storage_uri, storage_url.rstrip("/")
        self._poll_s, self._down_grace_s = poll_s, down_grace_s

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        """Build for the configured project, region and model, or for those that `target` names."""
        if target is None and not settings.vertex_project:
            raise error(
                Code.NOT_CONFIGURED,
                "no Google Cloud project is set",
                hint="Set GOOGLE_CLOUD_PROJECT, or use another backend: pennyreel doctor",
            )
        place = (settings.vertex_project, settings.vertex_location, getattr(settings, cls._setting))
        return cls(
            target or "/".join(map(str, place)),
            tokens(settings),
            base_url=settings.vertex_base_url,
            storage_uri=settings.vertex_storage_uri,
            storage_url=settings.vertex_storage_url,
        )

    def abilities(self) -> Abilities:
        """Return what Veo 3.1 does. 1080p and 4k are 8 s always."""
        return Abilities(
            kinds=frozenset({"video"}),
            prompts=True,
            sizes=tuple(_MAKES.sizes()),
            seconds=_LENGTHS["720p"],
            frames=Span(most=8 * clips.FPS),
            formats=frozenset({"mp4"}),
            audio=True,
            image_input=True,
            negative_prompt=True,
            seed=True,
            quality=self.quality,
        )

    def usage(self, need: Need) -> Usage:
        """Return the seconds that will really be made, at their tier, with or without sound."""
        clip = _MAKES.clip(need)
        sound = "audio" if need.audio else "silent"
        sku = f"vertex/{self._model}/{clip.resolution}/{sound}"
        return Usage(sku, Unit.OUTPUT_SECOND, float(clip.seconds))

    def billed(self, need: Need, result: Result) -> Usage:  # noqa: ARG002 - success is billed whole
        """Return the same: what was ordered is what is billed."""
        return self.usage(need)

    def lookup(self, attempt_id: str) -> Handle | None:
        """Vertex lists no operations of Google's own models."""
        raise self._api.unknown(f"attempt {attempt_id} cannot be looked up")

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """POST the prediction, once."""
        limit = deadline or Deadline(None)
        body = self._body(work, limit)
        answer = self._api.submit(f"{self._path}:predictLongRunning", body, limit)
        name = told_id(answer.get("name"))
        if name is None:
            raise self._api.unknown("Vertex's answer names no operation")
        return Handle(self.name, self.target, name, work.attempt_id)

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Poll until the operation is done."""
        by = Following(
            service="Vertex",
            look=self._look,
            outcome=self._outcome,
            stop=self._last_look,
            goes_on="Veo has no cancel: it goes on, and is billed",
            poll_s=self._poll_s,
            down_grace_s=self._down_grace_s,
        )
        return following.follow(by, handle, on_event, deadline, cancel)

    def fetch(
        self,
        handle: Handle,  # noqa: ARG002 - the artifact says it all
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        """Write what came inside the answer, or GET it out of the user's own bucket."""
        if artifact.data is not None:
            results.write(artifact, sink)
            return
        if artifact.url is None or origin(artifact.url) != origin(self._storage_url):
            raise error(Code.OUTPUT_MISSING, f"Vertex tells of {artifact.name} but not where")
        _http.download(
            artifact.url,
            sink,
            local=is_loopback(self._storage_url),
            pause=lambda seconds: pause(cancel, seconds),
            headers={"Authorization": f"Bearer {self._token().reveal()}"},
            onward=True,
            deadline=deadline,
            cancel=cancel,
        )

    def cancel(self, handle: Handle) -> bool:
        """Nothing stops Veo; return whether it has ended by itself."""
        return self._last_look(handle.remote_id) is not None

    def health(self) -> Health:
        """GET the model's description, which costs nothing."""
        try:
            self._api.check(f"/publishers/google/models/{self._model}")
        except PennyreelError as problem:
            return Health(self.name, False, str(problem), problem.hint, self.target)
        return Health(self.name, True, f"{self._model} answers", "", self.target)

    def close(self) -> None:
        """Close connections; jobs go on."""
        self._api.close()

    def _body(self, work: Work, limit: Deadline) -> dict[str, Any]:
        prompt, need = clips.wished(work, self.abilities(), self.name)
        clip = _MAKES.clip(need)
        instance: dict[str, Any] = {"prompt": prompt.text}
        if prompt.image is not None:
            mime, data = clips.image(prompt.image, limit)
            instance["image"] = {"bytesBase64Encoded": data, "mimeType": mime}
        parameters: dict[str, Any] = {
            "sampleCount": 1,
            "durationSeconds": clip.seconds,
            "aspectRatio": clip.aspect,
            "resolution": clip.resolution,
            "generateAudio": prompt.audio,
        }
        if prompt.negative:
            parameters["negativePrompt"] = prompt.negative
        if work.seed is not None:
            parameters["seed"] = work.seed % 2**32  # ComfyUI's seeds have 64 bits
        if self._storage_uri is not None:
            parameters["storageUri"] = self._storage_uri
        return {"instances": [instance], "parameters": parameters}

    def _look(self, name: str) -> Look:
        body = self._api.read(
            "POST", f"{self._path}:fetchPredictOperation", {"operationName": name}
        )
        return Look("ended" if body.get("done") is True else "running", body)

    def _last_look(self, name: str) -> Look | None:
        try:
            seen = self._look(name)
        except (Gone, requests.RequestException, PennyreelError):
            return None
        return seen if seen.stage == "ended" else None

    def _outcome(self, body: Mapping[str, Any], handle: Handle) -> Result:
        detail = {"handle": str(handle)}
        problem = body.get("error")
        if isinstance(problem, dict) and problem:
            raise results.failed("Vertex", problem, **detail)
        response = body.get("response")
        response = response if isinstance(response, dict) else {}
        videos = dicts(response.get("videos"))
        made = [self._artifact(v, n) for n, v in enumerate(videos, 1)]
        artifacts = tuple(a for a in made if a is not None)
        if videos and not artifacts:
            raise results.nowhere("Vertex", **detail)
        if not artifacts:
            reasons = response.get("raiMediaFilteredReasons")
            told = "; ".join(map(str, reasons)) if isinstance(reasons, list) else ""
            raise results.filtered("Vertex", told, **detail)
        return Result(
            attempt_id=handle.attempt_id,
            artifacts=artifacts,
            worker={"service": "vertex", "model": self._model},
        )

    def _artifact(self, video: Mapping[str, Any], number: int) -> Artifact | None:
        mime = video.get("mimeType")
        if video.get("bytesBase64Encoded"):
            return results.inline(str(video["bytesBase64Encoded"]), number, mime)
        found = _BUCKET.fullmatch(str(video.get("gcsUri")))
        if found is None or not found["object"]:
            return None
        name = quote(found["object"].lstrip("/"), safe="")
        url = f"{self._storage_url}/storage/v1/b/{found['bucket']}/o/{name}?alt=media"
        return results.addressed(url, number, mime)


class VeoFastBackend(VeoBackend):
    """The faster and cheaper model."""

    name = "veo-fast"
    quality = 2
    _setting = "veo_fast_model"


def _regional(location: str) -> str:
    prefix = "" if location == "global" else f"{location}-"
    return f"https://{prefix}aiplatform.googleapis.com"
