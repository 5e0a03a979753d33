"""How each provider behind the router is asked, and how its answers read.

A provider is used on its own (`auto`) only where a job can be followed by its id, or where the
answer brings the result within seconds:

    fal-ai        video and image by its queue: followed; has a cancel
    wavespeed     video and image: followed; no cancel
    together      video: followed; no cancel. image: comes with the answer
    replicate     image: comes with the answer. video: only if named, since through the router the
                  answer waits 60 s and a longer job may be beyond reach, yet billed
    hf-inference  image: comes with the answer
    novita        never: the request is held open for the whole video, and whoever loses that
                  connection has paid for a video that nobody can fetch

Bodies and paths are those of huggingface_hub 2.4.0 for the same wish.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import requests

from pennyreel.backends._hf_api import json_of, says
from pennyreel.backends._hf_offers import Offer

State = Literal["queued", "running", "done", "failed"]
Ask = Callable[..., requests.Response]
"""`ask(path, method="GET", refusal_ok=False)`: see `Router.look`."""

_PATH = re.compile(r"^[\w-][\w.-]*(/[\w-][\w.-]*)*$")


@dataclass(frozen=True)
class Wish:
    """What is asked for. None = as the model likes it."""

    text: str = field(repr=False)
    kind: str
    negative: str | None = field(default=None, repr=False)
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    seconds: float | None = None
    steps: int | None = None
    seed: int | None = None
    format: str | None = None


@dataclass(frozen=True)
class Call:
    """The POST that starts a job."""

    path: str
    body: dict[str, Any] = field(repr=False)
    headers: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    """What of the wish the provider is not told, for want of a common name for it."""

    def encode(self) -> bytes:
        """Return the body for the wire."""
        return json.dumps(self.body, ensure_ascii=False).encode("utf-8", "replace")


@dataclass(frozen=True)
class Output:
    """One file: its URL (https or data:), or its content in base64."""

    mime: str = ""
    url: str | None = field(default=None, repr=False)
    size: int = 0
    """In bytes; 0 = not told."""
    data: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Seen:
    """How a job is."""

    state: State
    outputs: tuple[Output, ...] = ()
    why: str = ""
    """Of a failure, in the provider's words."""


class Provider(Protocol):
    """One provider's language."""

    kinds: frozenset[str]
    """For which it is chosen without being named."""
    cancels: bool
    hides: bool
    """A job that it answers 404 for may be beyond the router's reach, and not gone."""

    def call(self, offer: Offer, wish: Wish, hub: str) -> Call:
        """Return the POST for a wish; `hub` is the Hub's address."""

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:
        """Return the job's id, or its end; None where the answer names neither."""

    def look(self, ask: Ask, job: str) -> Seen:
        """Look at a job; raises as `Router.look`."""

    def cancel(self, ask: Ask, job: str) -> None:
        """Ask for its end, where `cancels`; raises as `Router.look`."""


class Fal:
    """fal's queue.

    The router passes the queue on for pictures as for videos (hub-docs issue 2392 shows
    huggingface.co's own page doing so). That it passes PUT …/cancel on is UNVERIFIED: where it
    does not, a job counts as not stopped.
    """

    kinds = frozenset({"video", "image"})
    cancels = True
    hides = False

    def call(self, offer: Offer, wish: Wish, hub: str) -> Call:
        """Sizes are `image_size` for pictures; models of videos name them each its own way."""
        body = {"prompt": wish.text, **_common(wish)}
        ignored: tuple[str, ...] = ()
        if wish.kind == "image":
            body |= _present(output_format=_fal_format(wish.format))
            if wish.width and wish.height:
                body["image_size"] = {"width": wish.width, "height": wish.height}
        else:
            body |= _present(frames_per_second=wish.fps)
            ignored = _size(wish)
        if offer.adapter is not None:
            path = f"{hub}/{offer.model}/resolve/main/{offer.adapter}"
            body["loras"] = [{"path": path, "scale": 1}]
            if offer.provider_id == "fal-ai/lora" and wish.kind == "image":
                body["model_name"] = "stabilityai/stable-diffusion-xl-base-1.0"
        return Call(f"/{offer.provider_id}?_subdomain=queue", body, ignored=ignored)

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:
        """The id is the path that fal names for the result: it differs from the model's."""
        body = _object(json_of(reply))
        request = body.get("request_id")
        if not isinstance(request, str) or not _PATH.match(request):
            return None
        named = _path(body.get("response_url"))
        if named and named.endswith(f"/requests/{request}"):
            return named
        return f"{'/'.join(offer.provider_id.split('/')[:2])}/requests/{request}"

    def look(self, ask: Ask, job: str) -> Seen:
        """GET the status; once it is COMPLETED also the result, which tells a failure too."""
        body = _object(json_of(ask(f"/{job}/status?_subdomain=queue")))
        status = body.get("status")
        if status == "IN_QUEUE":
            return Seen("queued")
        if status in {"FAILED", "CANCELED", "CANCELLED"}:  # UNVERIFIED: fal documents none of them
            return Seen("failed", why=str(body.get("error") or status))
        if status != "COMPLETED":
            return Seen("running")
        if body.get("error"):
            return Seen("failed", why=str(body["error"]))
        reply = ask(f"/{job}?_subdomain=queue", refusal_ok=True)
        if reply.status_code >= 400:
            return Seen("failed", why=says(reply).removeprefix(": ") or str(reply.status_code))
        made = _object(json_of(reply))
        found = made.get("video") or made.get("images")
        return _done(found if isinstance(found, list) else [found])

    def cancel(self, ask: Ask, job: str) -> None:
        """PUT; 202 says only that it was heard, 400 that it had ended."""
        ask(f"/{job}/cancel?_subdomain=queue", "PUT", refusal_ok=True)


class WaveSpeed:
    """WaveSpeed's predictions."""

    kinds = frozenset({"video", "image"})
    cancels = False
    hides = False

    def call(self, offer: Offer, wish: Wish, hub: str) -> Call:  # noqa: ARG002 - see Provider
        """Sizes are passed for pictures, as huggingface_hub passes them."""
        body = {"prompt": wish.text, **_common(wish)}
        ignored = _size(wish)
        if wish.kind == "image":
            body |= _present(width=wish.width, height=wish.height)
            ignored = ()
        return Call(f"/api/v3/{offer.provider_id}", body, ignored=ignored)

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:  # noqa: ARG002
        """The id is the path that it names for the result."""
        body = _object(json_of(reply))
        data = _object(body.get("data"))
        named = _path(_object(data.get("urls")).get("get"))
        if named:
            return named
        job = data.get("id")
        if isinstance(job, str) and _PATH.match(job):
            return f"api/v3/predictions/{job}/result"
        return None

    def look(self, ask: Ask, job: str) -> Seen:
        """GET the prediction."""
        data = _object(_object(json_of(ask(f"/{job}"))).get("data"))
        status = data.get("status")
        if status == "completed":
            return _done(data.get("outputs"))
        if status == "failed":
            return Seen("failed", why=str(data.get("error") or "no reason given"))
        return Seen("queued" if status == "created" else "running")

    def cancel(self, ask: Ask, job: str) -> None:
        """There is none."""


class Together:
    """Together's videos by their id, its pictures in the answer."""

    kinds = frozenset({"video", "image"})
    cancels = False
    hides = False

    def call(self, offer: Offer, wish: Wish, hub: str) -> Call:  # noqa: ARG002 - see Provider
        """Videos take a size, seconds (a text) and fps (docs.together.ai, create videos)."""
        body = {**_common(wish), "model": offer.provider_id}
        body |= _present(width=wish.width, height=wish.height)
        if "num_inference_steps" in body:
            body["steps"] = body.pop("num_inference_steps")
        if wish.kind == "image":
            return Call(
                "/v1/images/generations",
                {"prompt": wish.text, "response_format": "base64", **body},
            )
        if wish.seconds is not None:
            body.pop("num_frames", None)
            body["seconds"] = f"{wish.seconds:g}"
        body |= _present(fps=wish.fps)
        return Call("/v2/videos", {"prompt": wish.text, **body})

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:  # noqa: ARG002
        """A picture's content, or a video's id."""
        body = _object(json_of(reply))
        if isinstance(body.get("data"), list):
            found = [_object(d).get("b64_json") for d in body["data"]]
            return Seen("done", tuple(Output("image/png", data=d) for d in found if d))
        job = body.get("id")
        return job if isinstance(job, str) and _PATH.match(job) else None

    def look(self, ask: Ask, job: str) -> Seen:
        """GET the video."""
        body = _object(json_of(ask(f"/v2/videos/{job}")))
        status = body.get("status")
        if status == "completed":
            return _done([_object(body.get("outputs")).get("video_url")])
        if status in {"failed", "cancelled"}:
            return Seen("failed", why=str(_object(body.get("error")).get("message") or status))
        return Seen("queued" if status == "queued" else "running")

    def cancel(self, ask: Ask, job: str) -> None:
        """There is none."""


class Replicate:
    """Replicate, whose answer waits for the output, a minute at most.

    huggingface_hub gives up after that minute. A look at a prediction through the router is tried
    (UNVERIFIED that it is passed on); where it is not, the outcome stays unknown.
    """

    kinds = frozenset({"image"})
    cancels = False
    hides = True

    def call(self, offer: Offer, wish: Wish, hub: str) -> Call:  # noqa: ARG002 - see Provider
        """Official models by name, others by version."""
        model, _, version = offer.provider_id.partition(":")
        told = {"prompt": wish.text, **_common(wish)}
        if wish.kind == "image":
            told |= _present(width=wish.width, height=wish.height)
            if offer.adapter is not None:
                told["lora_weights"] = f"https://huggingface.co/{offer.model}"
        body: dict[str, Any] = {"input": told}
        path = f"/v1/models/{model}/predictions"
        if version:
            path, body["version"] = "/v1/predictions", version
        ignored = _size(wish) if wish.kind == "video" else ()
        return Call(path, body, {"Prefer": "wait"}, ignored)

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:  # noqa: ARG002
        """Its end, if it came within the minute, else its id."""
        body = _object(json_of(reply))
        seen = self._read(body)
        job = body.get("id")
        if seen.state in {"done", "failed"}:
            return seen
        return job if isinstance(job, str) and _PATH.match(job) else None

    def look(self, ask: Ask, job: str) -> Seen:
        """GET the prediction."""
        return self._read(_object(json_of(ask(f"/v1/predictions/{job}"))))

    def cancel(self, ask: Ask, job: str) -> None:
        """Not through the router."""

    def _read(self, body: dict[str, Any]) -> Seen:
        status, output = body.get("status"), body.get("output")
        if status in {"failed", "canceled"}:
            return Seen("failed", why=str(body.get("error") or status))
        if output is not None and status not in {"starting", "processing"}:
            return _done(output if isinstance(output, list) else [output])
        return Seen("queued" if status == "starting" else "running")


class HfInference:
    """Hugging Face's own servers: a picture is the answer."""

    kinds = frozenset({"image"})
    cancels = False
    hides = False

    def call(self, offer: Offer, wish: Wish, hub: str) -> Call:  # noqa: ARG002 - see Provider
        """The Hub's model id is in the path."""
        told = {**_common(wish), **_present(width=wish.width, height=wish.height)}
        body = {"inputs": wish.text, "parameters": told}
        return Call(f"/models/{offer.model}", body, {"Accept": "image/png"})

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:  # noqa: ARG002
        """Its bytes."""
        mime = reply.headers.get("Content-Type", "").partition(";")[0].strip()
        if not mime.startswith("image/") or not reply.content:
            return None
        data = base64.b64encode(reply.content).decode()
        return Seen("done", (Output(mime, data=data),))

    def look(self, ask: Ask, job: str) -> Seen:
        """There is nothing to look at."""
        raise NotImplementedError(job)

    def cancel(self, ask: Ask, job: str) -> None:
        """There is none."""


PROVIDERS: dict[str, Provider] = {
    "fal-ai": Fal(),
    "hf-inference": HfInference(),
    "replicate": Replicate(),
    "together": Together(),
    "wavespeed": WaveSpeed(),
}


def usable(provider: str, kind: str) -> bool:
    """Whether a provider may be chosen without being named."""
    return provider in PROVIDERS and kind in PROVIDERS[provider].kinds


def _common(wish: Wish) -> dict[str, Any]:
    """Return what huggingface_hub passes to every provider under the same name."""
    return _present(
        negative_prompt=wish.negative,
        num_frames=wish.frames if wish.kind == "video" else None,
        num_inference_steps=wish.steps,
        seed=wish.seed,
    )


def _present(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _size(wish: Wish) -> tuple[str, ...]:
    return (f"{wish.width}x{wish.height}",) if wish.width and wish.height else ()


def _fal_format(wanted: str | None) -> str | None:
    return {"jpg": "jpeg", "jpeg": "jpeg", "png": "png"}.get(wanted or "")


def _done(found: Any) -> Seen:
    """Read outputs: URLs, or objects that have one."""
    outputs = []
    for one in found if isinstance(found, list) else ():
        body = _object(one)
        url = body.get("url") if body else one
        if isinstance(url, str) and url:
            size = body.get("file_size")
            outputs.append(
                Output(
                    str(body.get("content_type") or ""),
                    url,
                    size if isinstance(size, int) and size > 0 else 0,
                )
            )
    return Seen("done", tuple(outputs))


def _path(url: object) -> str:
    """Return a URL's path without the first slash; '' where it is no plain one."""
    try:
        path = urlsplit(url).path.lstrip("/") if isinstance(url, str) else ""
    except ValueError:
        return ""
    return path if _PATH.match(path) else ""


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
