"""What Google hands out: videos inside the answer or by address, and reasons why there is none."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Sink
from pennyreel_contract import Artifact

_SAFETY = re.compile(
    r"usage guidelines|responsible ai|safety|sensitive words|prohibited|blocked|policy|filtered",
    re.IGNORECASE,
)
_CANCELLED, _REFUSED = 1, frozenset({3, 7, 9})
_PASSING = frozenset({4, 8, 10, 13, 14})
"""google.rpc.Code: what may go better the next time (deadline, exhausted, aborted, internal, …)."""


def inline(data: str, number: int, mime: object) -> Artifact:
    """Return a video that came inside the answer.

    Raises:
        JobFailed: it is not readable.

    """
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise error(Code.STORAGE_FAILED, "the video arrived as unreadable base64") from None
    return _artifact(number, mime).model_copy(
        update={
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "data": data,
        }
    )


def addressed(url: str, number: int, mime: object) -> Artifact:
    """Return a video that has to be fetched; Google tells no size and no checksum."""
    return _artifact(number, mime).model_copy(update={"url": url})


def write(artifact: Artifact, sink: Sink) -> None:
    """Write what came inside the answer, in pieces."""
    text = artifact.data or ""
    step = 4 << 18  # whole groups of four characters
    sink.restart()
    try:
        for start in range(0, len(text), step):
            sink.write(base64.b64decode(text[start : start + step], validate=True))
    except (binascii.Error, ValueError):
        raise error(Code.STORAGE_FAILED, f"{artifact.name} arrived as unreadable base64") from None


def filtered(service: str, reasons: str, **detail: Any) -> PennyreelError:
    """Return the error of a job that ended without a video, since its content is refused.

    That such a job is not billed is Google's word for Veo only, and UNVERIFIED.
    """
    why = f": {reasons[:500]}" if reasons else ""
    return error(
        Code.CONTENT_FILTERED,
        f"{service}'s safety filters let no video through{why}",
        detail={**detail, "billed": "unverified"},
    )


def nowhere(service: str, **detail: Any) -> PennyreelError:
    """Return the error of a job that has a video, and does not say where."""
    return error(
        Code.OUTPUT_MISSING,
        f"{service} made a video and does not say where it is: it is billed",
        hint=f"Look for it at {service}; another try is another bill.",
        retryable=False,
        detail=detail,
    )


def failed(service: str, problem: Mapping[str, Any], **detail: Any) -> PennyreelError:
    """Return the error of a job that ended with a google.rpc.Status, or with a text for a code."""
    code = problem.get("code")
    code = code if isinstance(code, (int, str)) else None
    message = str(problem.get("message") or "failed without a reason")[:1000]
    if code == _CANCELLED or str(code).lower() == "cancelled":
        return error(
            Code.CANCELLED,
            f"the job was cancelled at {service}",
            detail={**detail, "confirmed_stopped": True},
        )
    if (code in _REFUSED or isinstance(code, str)) and _SAFETY.search(message):
        return filtered(service, message, **detail)
    return error(
        Code.EXECUTION_FAILED,
        f"{service} failed: {message}",
        hint="Try again later, or on another backend: pennyreel backends",
        retryable=code in _PASSING,
        detail={**detail, "google_code": code},
    )


def dicts(raw: object) -> list[dict[str, Any]]:
    """Return the objects in what should be a list of them."""
    return [r for r in raw if isinstance(r, dict)] if isinstance(raw, list) else []


def versioned(base_url: str, version: str) -> str:
    """Return the base URL with the API's version, unless it names a path itself."""
    plain = base_url.rstrip("/")
    return plain if urlsplit(plain).path else f"{plain}/{version}"


def origin(url: str) -> tuple[str, str | None, int | None]:
    """Return what a key belongs to: scheme, host and port."""
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _artifact(number: int, mime: object) -> Artifact:
    mime = mime if isinstance(mime, str) and mime.startswith("video/") else "video/mp4"
    ending = {"video/webm": "webm", "video/mov": "mov"}.get(mime, "mp4")
    name = f"video.{ending}" if number == 1 else f"video-{number}.{ending}"
    return Artifact(name=name, kind="video", mime=mime, bytes=0, sha256="")
