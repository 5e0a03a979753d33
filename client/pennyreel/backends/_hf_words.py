"""What is asked of a provider and what it answers, in words that are the same for all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import requests

from pennyreel.backends._hf_api import json_of
from pennyreel.backends._hf_offers import Offer
from pennyreel.errors import Code, error

State = Literal["queued", "running", "done", "failed"]
Ask = Callable[..., requests.Response]
"""`ask(path, method="GET", refusal_ok=False)`: see `Router.look`."""

PLAIN_PATH = re.compile(r"^[\w-][\w.-]*(/[\w-][\w.-]*)*$")


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
    patience_s: float = 3600.0
    """So long an answer that brings the result is waited for."""


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


def common(wish: Wish) -> dict[str, Any]:
    """Return what huggingface_hub passes to every provider under the same name."""
    return present(
        negative_prompt=wish.negative,
        num_frames=wish.frames if wish.kind == "video" else None,
        num_inference_steps=wish.steps,
        seed=wish.seed,
    )


def present(**values: Any) -> dict[str, Any]:
    """Return those that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def size_text(wish: Wish) -> tuple[str, ...]:
    """Return the size as a `Call.ignored`."""
    return (f"{wish.width}x{wish.height}",) if wish.width and wish.height else ()


def done(found: Any) -> Seen:
    """Read outputs: URLs, or objects that have one."""
    outputs = []
    for one in found if isinstance(found, list) else ():
        body = as_object(one)
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


def plain_path(url: object) -> str:
    """Return a URL's path without the first slash; '' where it is no plain one."""
    try:
        path = urlsplit(url).path.lstrip("/") if isinstance(url, str) else ""
    except ValueError:
        return ""
    return path if PLAIN_PATH.match(path) else ""


def as_object(value: object) -> dict[str, Any]:
    """Return a JSON object; anything else is an empty one."""
    return value if isinstance(value, dict) else {}


def read(reply: requests.Response) -> dict[str, Any]:
    """Return the JSON object of a look; raises Unavailable where it is none."""
    body = json_of(reply)
    if not isinstance(body, dict):
        raise error(Code.BACKEND_UNAVAILABLE, "the provider gave an unreadable answer")
    return body
