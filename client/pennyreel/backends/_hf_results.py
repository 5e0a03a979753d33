"""What a job's end means: our result, or our error."""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from pennyreel.backends._hf_offers import TASKS
from pennyreel.backends._hf_words import Output, Seen
from pennyreel.errors import Code, error
from pennyreel_comfy.outputs import mime_of
from pennyreel_contract import Artifact, Result

_USUAL = {"video": "mp4", "image": "png"}
_ENDINGS = {"image/jpeg": "jpg", "image/png": "png", "image/webp": "webp", "video/mp4": "mp4"}


def outcome(seen: Seen, *, attempt_id: str, provider: str, model: str, kind: str) -> Result:
    """Return the result of a job that is done; raise what its end means otherwise."""
    if seen.state != "done":
        raise error(
            Code.EXECUTION_FAILED,
            f"{provider} says that {model} failed: {seen.why[:500]}",
            hint="Change the prompt or its settings, or use another model or provider. Failed jobs "
            "may be billed.",
        )
    if not seen.outputs:
        raise error(
            Code.OUTPUT_MISSING,
            f"{provider} says that {model} is done, and names no {kind}",
            hint="It may have been filtered. Change the prompt; the job may be billed.",
            retryable=False,
        )
    artifacts = tuple(_artifact(o, kind, n) for n, o in enumerate(seen.outputs, 1))
    return Result(
        attempt_id=attempt_id,
        artifacts=artifacts,
        worker={"provider": provider, "model": model, "task": TASKS[kind]},
    )


def content(artifact: Artifact) -> bytes | None:
    """Return what an artifact carries with it, or None where it is to be fetched."""
    text = artifact.data
    if text is None and artifact.url is not None and artifact.url.startswith("data:"):
        text = artifact.url.partition(",")[2]
    if text is None:
        return None
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise error(Code.STORAGE_FAILED, f"{artifact.name} arrived as unreadable base64") from None


def _artifact(output: Output, kind: str, number: int) -> Artifact:
    name = f"{kind}{'' if number == 1 else f'-{number}'}.{_ending(output, kind)}"
    found, mime = mime_of(name)
    data = content(Artifact(name=name, kind="", mime="", bytes=0, sha256="", data=output.data))
    return Artifact(
        name=name,
        kind=found,
        mime=mime,
        bytes=output.size if data is None else len(data),
        sha256=hashlib.sha256(data).hexdigest() if data is not None else "",
        data=output.data,
        url=output.url,
    )


def _ending(output: Output, kind: str) -> str:
    """Return the ending that the file has by its type or its URL."""
    mime = output.mime.partition(";")[0].strip().lower()
    url = output.url or ""
    if url.startswith("data:"):
        mime = url[5:].partition(";")[0].lower() or mime
    if mime in _ENDINGS:
        return _ENDINGS[mime]
    try:
        suffix = PurePosixPath(unquote(urlsplit(url).path)).suffix.lower()
    except ValueError:
        suffix = ""
    guessed = suffix if mime_of(f"x{suffix}")[0] in _USUAL else mimetypes.guess_extension(mime)
    return (guessed or "").lstrip(".") or _USUAL[kind]
