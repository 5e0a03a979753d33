"""Gemini Omni Flash by API key: clips with sound, made by the Interactions API.

One POST submits an interaction that runs in the background; after that only reads and the cancel.
Veo is another backend: it has another account, another bill and no cancel, and since October 2026
no API key reaches it. Source: google-genai 3.6; ai.google.dev.
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
from pennyreel.backends._google_backend import GoogleBackend
from pennyreel.backends._google_follow import POLL_S, Look
from pennyreel.backends._google_results import dicts, origin, versioned
from pennyreel.backends.base import Prompt, Work, pause
from pennyreel.backends.polling import DOWN_GRACE_S
from pennyreel.config import GEMINI_URL, Secret, Settings, is_loopback
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Need, Span, Unit, Usage
from pennyreel.types import Handle
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Result

CONFIRM_S = 20.0
"""So long we look for a cancelled job's end."""

_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ENDED = frozenset({"completed", "failed", "cancelled", "incomplete", "budget_exceeded"})
_WAITING = frozenset({"requires_action", "requires_continuation", "idle"})
"""It waits for us, and we have nothing to say: such a job never ends by itself."""

_KEY_HEADER = "x-goog-api-key"
_SERVICE = Service(
    name="Gemini",
    key_hint="Set GEMINI_API_KEY to a key that aistudio.google.com/apikey shows.",
    model_hint="Set PENNYREEL_GEMINI_MODEL to an Omni model that ai.google.dev lists.",
    url_setting="GOOGLE_GEMINI_BASE_URL",
    pay_hint="Set up billing for the key's project: aistudio.google.com/apikey",
    look_hint="look at the usage that aistudio.google.com shows before you run it again.",
)


class GeminiBackend(GoogleBackend):
    """One Omni model of the Gemini API."""

    name = "gemini"
    service = _SERVICE
    goes_on = "Gemini did not confirm that it stopped"

    def __init__(
        self,
        model: str,
        key: Secret,
        *,
        base_url: str = GEMINI_URL,
        resolution: str = "720p",
        poll_s: tuple[float, float] = POLL_S,
        down_grace_s: float = DOWN_GRACE_S,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        """Keep the address; nothing is sent. `resolution` is for jobs that name no size."""
        if not _MODEL.fullmatch(model):
            raise error(Code.BAD_REQUEST, f"{model[:100]!r} is no name of a model")
        if resolution not in clips.TIERS:
            raise error(
                Code.NOT_CONFIGURED,
                f"gemini.resolution is {resolution[:20]!r}",
                hint=f"Set it to one of {', '.join(clips.TIERS)}.",
            )
        api = GoogleApi(
            versioned(base_url, "v1"),
            key,
            header=_KEY_HEADER,
            service=_SERVICE,
            held=lambda: (key,),
        )
        super().__init__(
            model,
            model,
            api,
            described=f"/models/{model}",
            poll_s=poll_s,
            down_grace_s=down_grace_s,
        )
        self._key = key
        # 1.1 makes 10 s at most, 1.2 makes 15 s.
        lengths = Span(3, 10 if "omni-1.1" in model else 15)
        self._makes = clips.Catalogue(tuple(clips.TIERS), resolution, lambda _: lengths)
        self._confirm_s = confirm_s
        self._local = is_loopback(base_url)

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        """Build for the configured model, or for another of the same key."""
        if not settings.gemini_api_key:
            raise error(
                Code.NOT_CONFIGURED,
                "no key of the Gemini API is set",
                hint="Set GEMINI_API_KEY (aistudio.google.com/apikey, a paid project), or use "
                "another backend: pennyreel doctor",
            )
        return cls(
            target or settings.gemini_model,
            settings.gemini_api_key,
            base_url=settings.gemini_base_url,
            resolution=settings.gemini_resolution,
        )

    def abilities(self) -> Abilities:
        """Return what Omni Flash does. Sound is always on; there is no seed."""
        span = self._makes.lengths("720p")
        return Abilities(
            kinds=frozenset({"video"}),
            prompts=True,
            sizes=tuple(self._makes.sizes()),
            seconds=span,
            frames=Span(most=(span.most or 0) * clips.FPS),
            formats=frozenset({"mp4"}),
            audio=True,
            image_input=True,
            cancels=True,  # that it ends the bill as well is UNVERIFIED
            quality=2,
        )

    def usage(self, need: Need) -> Usage:
        """Return the seconds that will really be made, at their tier."""
        clip = self._makes.clip(need)
        sku = f"gemini/{self.target.removeprefix('gemini-')}/{clip.resolution}"
        return Usage(sku, Unit.OUTPUT_SECOND, float(clip.seconds))

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """POST the interaction, once."""
        limit = deadline or Deadline(None)
        return self._send("/interactions", self._body(work, limit), work, limit, named="id")

    def _body(self, work: Work, limit: Deadline) -> dict[str, Any]:
        prompt, need = clips.wished(work, self.abilities(), self.name)
        clip = self._makes.clip(need)
        task = "text_to_video" if prompt.image is None else "image_to_video"
        return {
            "model": self.target,
            "input": _input(prompt, limit),
            "background": True,
            "generation_config": {"video_config": {"task": task}},
            "response_format": {
                "type": "video",
                "aspect_ratio": clip.aspect,
                "duration": f"{clip.seconds}s",
                "resolution": clip.resolution,
                "delivery": "uri",
            },
        }

    def _look(self, job_id: str) -> Look:
        body = self._api.read("GET", f"/interactions/{quote(job_id, safe='')}")
        status = body.get("status")
        if status in _ENDED or status in _WAITING:
            return Look("ended", body)
        # A status that we do not know means that it still runs.
        return Look("queued" if status == "queued" else "running", body)

    def _stop(self, job_id: str) -> Look | None:
        """Cancel, and look until the end is seen; None: not in time."""
        limit, wait, told = Deadline(self._confirm_s), self._poll_s[0], False
        while not limit.expired:
            try:
                told = told or self._told_to_stop(job_id)
                seen = self._look(job_id)
                if seen.stage == "ended":
                    return seen
            except Gone:
                return None  # what is not known there is not known to have stopped
            except (requests.RequestException, PennyreelError):
                pass
            pause(CancelToken(), min(wait, limit.left()))
            wait = min(self._poll_s[1], wait * 1.5)
        return None

    def _told_to_stop(self, job_id: str) -> bool:
        """POST the cancel. A refusal may mean that the job has ended: a look will tell."""
        try:
            self._api.read("POST", f"/interactions/{quote(job_id, safe='')}/cancel", {})
        except (requests.RequestException, PennyreelError):
            return False
        return True

    def _way_to(self, artifact: Artifact) -> tuple[Mapping[str, str] | None, bool]:
        if artifact.url is None:
            raise error(Code.OUTPUT_MISSING, f"Gemini tells of {artifact.name} but not where")
        own = origin(artifact.url) == origin(self._api.base_url)
        return ({_KEY_HEADER: self._key.reveal()} if own else None), self._local

    def _outcome(self, body: Mapping[str, Any], handle: Handle) -> Result:
        status = str(body.get("status"))
        detail = {"handle": str(handle), "status": status}
        if status == "cancelled":
            raise results.failed("Gemini", {"code": "cancelled"}, **detail)
        steps = [s for s in dicts(body.get("steps")) if s.get("type") == "model_output"]
        if status != "completed":
            raise results.failed("Gemini", _why(body, steps, status), **detail)
        videos = [c for s in steps for c in dicts(s.get("content")) if c.get("type") == "video"]
        made = [_artifact(v, n) for n, v in enumerate(videos, 1)]
        artifacts = tuple(a for a in made if a is not None)
        if videos and not artifacts:
            raise results.nowhere("Gemini", **detail)
        if not artifacts:
            why = _why(body, steps, "").get("message")
            raise results.filtered("Gemini", str(why or ""), **detail)
        return Result(
            attempt_id=handle.attempt_id,
            artifacts=artifacts,
            worker={"service": "gemini", "model": str(body.get("model") or self.target)},
        )


def _input(prompt: Prompt, limit: Deadline) -> Any:
    if prompt.image is None:
        return prompt.text
    mime, data = clips.image(prompt.image, limit)
    parts = [
        {"type": "text", "text": prompt.text},
        {"type": "image", "data": data, "mime_type": mime},
    ]
    return [{"type": "user_input", "content": parts}]


def _artifact(video: Mapping[str, Any], number: int) -> Artifact | None:
    if video.get("data"):
        return results.inline(str(video["data"]), number, video.get("mime_type"))
    if not video.get("uri"):
        return None
    url = str(video["uri"])
    if re.search(r"/files/[^/:?]+$", url):  # a file's description; its content is beside it
        url += ":download?alt=media"
    return results.addressed(url, number, video.get("mime_type"))


def _why(body: Mapping[str, Any], steps: list[dict[str, Any]], status: str) -> dict[str, Any]:
    """Return the first reason that is given, wherever it stands; else the status."""
    told = [*dicts(body.get("errors")), *dicts([s.get("error") for s in steps])]
    if told:
        return told[0]
    texts = [
        str(c.get("text") or "")
        for s in steps
        for c in dicts(s.get("content"))
        if c.get("type") == "text"
    ]
    waits = " (it waits for an answer that this client does not give)" if status in _WAITING else ""
    return {"code": status, "message": " ".join(texts).strip() or f"{status}{waits}"}
