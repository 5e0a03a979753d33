"""Replicate and Hugging Face's own servers: the answer to the submit brings the result.

Bodies and paths are those of huggingface_hub 2.4.0 for the same wish.
"""

from __future__ import annotations

import base64
from typing import Any

import requests

from pennyreel.backends._hf_api import JobGone, json_of
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
    present,
    read,
    size_text,
)

_MINUTE_S = 60
"""What "wait" alone means."""

_SPARE_S = 5
"""Left for the answer's way."""


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
        told = {"prompt": wish.text, **common(wish)}
        if wish.kind == "image":
            told |= present(width=wish.width, height=wish.height)
            if offer.adapter is not None:
                told["lora_weights"] = f"https://huggingface.co/{offer.model}"
        body: dict[str, Any] = {"input": told}
        path = f"/v1/models/{model}/predictions"
        if version:
            path, body["version"] = "/v1/predictions", version
        ignored = size_text(wish) if wish.kind == "video" else ()
        return Call(path, body, {"Prefer": _wait(wish.patience_s)}, ignored)

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:  # noqa: ARG002
        """Its end, if it came within the minute, else its id."""
        body = as_object(json_of(reply))
        seen = self._read(body)
        job = body.get("id")
        if seen.state in {"done", "failed"}:
            return seen
        return job if isinstance(job, str) and PLAIN_PATH.match(job) else None

    def look(self, ask: Ask, job: str) -> Seen:
        """GET the prediction."""
        return self._read(read(ask(f"/v1/predictions/{job}")))

    def cancel(self, ask: Ask, job: str) -> None:
        """Not through the router."""

    def _read(self, body: dict[str, Any]) -> Seen:
        status, output = body.get("status"), body.get("output")
        if status in {"failed", "canceled"}:
            return Seen("failed", why=str(body.get("error") or status))
        if output is not None and status not in {"starting", "processing"}:
            return done(output if isinstance(output, list) else [output])
        return Seen("queued" if status == "starting" else "running")


class HfInference:
    """Hugging Face's own servers: a picture is the answer."""

    kinds = frozenset({"image"})
    cancels = False
    hides = False

    def call(self, offer: Offer, wish: Wish, hub: str) -> Call:  # noqa: ARG002 - see Provider
        """The Hub's model id is in the path."""
        told = {**common(wish), **present(width=wish.width, height=wish.height)}
        body = {"inputs": wish.text, "parameters": told}
        return Call(f"/models/{offer.model}", body, {"Accept": "image/png"})

    def accepted(self, offer: Offer, reply: requests.Response) -> str | Seen | None:  # noqa: ARG002
        """Its bytes."""
        mime = reply.headers.get("Content-Type", "").partition(";")[0].strip()
        if not mime.startswith("image/") or not reply.content:
            return None
        data = base64.b64encode(reply.content).decode()
        return Seen("done", (Output(mime, data=data),))

    def look(self, ask: Ask, job: str) -> Seen:  # noqa: ARG002 - see Provider
        """There is nothing to look at: what came with the answer is kept here, or gone."""
        raise JobGone

    def cancel(self, ask: Ask, job: str) -> None:
        """There is none."""


def _wait(patience_s: float) -> str:
    """Return what is preferred: an answer in time, without the output if need be."""
    seconds = int(patience_s) - _SPARE_S
    return "wait" if seconds >= _MINUTE_S else f"wait={max(1, seconds)}"
