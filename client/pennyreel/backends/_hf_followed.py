"""fal, WaveSpeed and Together: jobs have an id, and whoever has it can look at them.

Bodies and paths are those of huggingface_hub 2.4.0 for the same wish; fal's queue also by
fal.ai/docs (inference-api/queue), WaveSpeed's by wavespeed.ai/docs (get-result), Together's
videos by docs.together.ai/reference (create-videos, get-videos-id).
"""

from __future__ import annotations

import requests

from pennyreel.backends._hf_api import json_of, says
from pennyreel.backends._hf_offers import Offer
from pennyreel.backends._hf_words import (
    PLAIN_PATH,
    Ask,
    Call,
    Output,
    Seen,
    Wish,
    as_object,
    common,
    done,
    plain_path,
    present,
    read,
    size_text,
)


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
        body = {"prompt": wish.text, **common(wish)}
        ignored: tuple[str, ...] = ()
        if wish.kind == "image":
            body |= present(output_format=_fal_format(wish.format))
            if wish.width and wish.height:
                body["image_size"] = {"width": wish.width, "height": wish.height}
        else:
            body |= present(frames_per_second=wish.fps)
            ignored = size_text(wish)
        if offer.adapter is not None:
            path = f"{hub}/{offer.model}/resolve/main/{offer.adapter}"
            body["loras"] = [{"path": path, "scale": 1}]
            if offer.provider_id == "fal-ai/lora" and wish.kind == "image":
                body["model_name"] = "stabilityai/stable-diffusion-xl-base-1.0"
        return Call(f"/{offer.provider_id}?_subdomain=queue", body, ignored=ignored)

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:
        """The id is the path that fal names for the result: it differs from the model's."""
        body = as_object(json_of(reply))
        request = body.get("request_id")
        if not isinstance(request, str) or not PLAIN_PATH.match(request):
            return None
        named = plain_path(body.get("response_url"))
        if named and named.endswith(f"/requests/{request}"):
            return named
        return f"{'/'.join(offer.provider_id.split('/')[:2])}/requests/{request}"

    def look(self, ask: Ask, job: str) -> Seen:
        """GET the status; once it is COMPLETED also the result, which tells a failure too."""
        body = read(ask(f"/{job}/status?_subdomain=queue"))
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
        made = read(reply)
        found = made.get("video") or made.get("images")
        return done(found if isinstance(found, list) else [found])

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
        body = {"prompt": wish.text, **common(wish)}
        ignored = size_text(wish)
        if wish.kind == "image":
            body |= present(width=wish.width, height=wish.height)
            ignored = ()
        return Call(f"/api/v3/{offer.provider_id}", body, ignored=ignored)

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:  # noqa: ARG002
        """The id is the path that it names for the result."""
        body = as_object(json_of(reply))
        data = as_object(body.get("data"))
        named = plain_path(as_object(data.get("urls")).get("get"))
        if named:
            return named
        job = data.get("id")
        if isinstance(job, str) and PLAIN_PATH.match(job):
            return f"api/v3/predictions/{job}/result"
        return None

    def look(self, ask: Ask, job: str) -> Seen:
        """GET the prediction."""
        data = as_object(read(ask(f"/{job}")).get("data"))
        status = data.get("status")
        if status == "completed":
            return done(data.get("outputs"))
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
        body = {**common(wish), "model": offer.provider_id}
        body |= present(width=wish.width, height=wish.height)
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
        body |= present(fps=wish.fps)
        return Call("/v2/videos", {"prompt": wish.text, **body})

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:  # noqa: ARG002
        """A picture's content, or a video's id."""
        body = as_object(json_of(reply))
        if isinstance(body.get("data"), list):
            found = [as_object(d).get("b64_json") for d in body["data"]]
            return Seen(
                "done",
                tuple(Output("image/png", data=d) for d in found if isinstance(d, str) and d),
            )
        job = body.get("id")
        return job if isinstance(job, str) and PLAIN_PATH.match(job) else None

    def look(self, ask: Ask, job: str) -> Seen:
        """GET the video."""
        body = read(ask(f"/v2/videos/{job}"))
        status = body.get("status")
        if status == "completed":
            return done([as_object(body.get("outputs")).get("video_url")])
        if status in {"failed", "cancelled"}:
            return Seen("failed", why=str(as_object(body.get("error")).get("message") or status))
        return Seen("queued" if status == "queued" else "running")

    def cancel(self, ask: Ask, job: str) -> None:
        """There is none."""


def _fal_format(wanted: str | None) -> str | None:
    return {"jpg": "jpeg", "jpeg": "jpeg", "png": "png"}.get(wanted or "")
