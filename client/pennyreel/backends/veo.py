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

from pennyreel.backends import _google_clips as clips
from pennyreel.backends import _google_results as results
from pennyreel.backends._google_api import Gone, GoogleApi, Service
from pennyreel.backends._google_auth import Tokens, tokens
from pennyreel.backends._google_backend import GoogleBackend
from pennyreel.backends._google_follow import POLL_S, Look
from pennyreel.backends._google_results import dicts, origin, versioned
from pennyreel.backends.base import Work
from pennyreel.backends.polling import DOWN_GRACE_S
from pennyreel.config import Settings, is_loopback
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Need, Span, Unit, Usage
from pennyreel.types import Handle
from pennyreel_comfy.waiting import Deadline
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


class VeoBackend(GoogleBackend):
    """One Veo model in one project and region."""

    name = "veo"
    service = _SERVICE
    goes_on = "Veo has no cancel: it goes on, and is billed"
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
        poll_s: tuple[float, float] = POLL_S,
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
        self._token = token
        model = place["model"]
        self._path = (
            f"/projects/{quote(place['project'], safe=':')}/locations/{place['location']}"
            f"/publishers/google/models/{model}"
        )
        api = GoogleApi(
            versioned(base_url or _regional(place["location"]), "v1"),
            token,
            header="Authorization",
            service=_SERVICE,
            held=token.held,
            renew=token.renew,
        )
        super().__init__(
            target,
            model,
            api,
            described=f"/publishers/google/models/{model}",
            poll_s=poll_s,
            down_grace_s=down_grace_s,
        )
        self._storage_uri, self._storage_url = storage_uri, storage_url.rstrip("/")

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

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """POST the prediction, once."""
        limit = deadline or Deadline(None)
        path = f"{self._path}:predictLongRunning"
        return self._send(path, self._body(work, limit), work, limit, named="name")

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

    def _stop(self, name: str) -> Look | None:
        """Nothing stops Veo; return its last look if it has ended by itself."""
        try:
            seen = self._look(name)
        except (Gone, requests.RequestException, PennyreelError):
            return None
        return seen if seen.stage == "ended" else None

    def _way_to(self, artifact: Artifact) -> tuple[Mapping[str, str] | None, bool]:
        """What does not come inside the answer is in the user's own bucket."""
        if artifact.url is None or origin(artifact.url) != origin(self._storage_url):
            raise error(Code.OUTPUT_MISSING, f"Vertex tells of {artifact.name} but not where")
        headers = {"Authorization": f"Bearer {self._token().reveal()}"}
        return headers, is_loopback(self._storage_url)

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
