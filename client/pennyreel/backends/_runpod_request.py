"""A job as RunPod takes it: inputs inside the request, large ones in the user's bucket."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from pennyreel import _s3
from pennyreel.backends.base import Work
from pennyreel.config import S3
from pennyreel.errors import Code, JobFailed, PennyreelError, error
from pennyreel.sources import Source
from pennyreel_contract import InputFile

RESULT_KEPT_S = 1800.0
"""Of an asynchronous job, by RunPod's documentation."""

_POLICY_MS = (5_000, 604_800_000)


def body(work: Work, s3: S3 | None, most: int) -> bytes:
    """Return the POST's body, of so many bytes at most, or raise.

    No file is read before it is known to fit; what does not is uploaded to the bucket.

    Raises:
        BadRequest, SetupNeeded, Unavailable: nothing was sent to RunPod.

    """
    try:
        uploaded = _upload_large(work, s3, most)
    except OSError as problem:
        raise error(Code.BAD_INPUT, f"an input cannot be read: {problem.strerror}") from None
    except JobFailed as problem:  # "failed" means that a job ran, and none did
        raise error(
            Code.BACKEND_UNAVAILABLE,
            f"an input cannot be uploaded: {problem}; nothing was sent",
            hint=problem.hint,
        ) from problem
    inputs = tuple(_input(s, uploaded) for s in work.sources)
    encoded = _encode(work, inputs)
    if len(encoded) > most:  # never by more than a few bytes of headers
        raise _too_large(work, len(encoded), most)
    return encoded


def _upload_large(work: Work, s3: S3 | None, most: int) -> dict[str, str]:
    """Move the largest inputs to the bucket until the rest fits; return name -> URL."""
    placeholders = tuple(
        InputFile(name=s.name, data="") if s.local else _remote(s) for s in work.sources
    )
    left = {s.name: s for s in work.sources if s.local}
    bare = len(_encode(work, placeholders))
    uploaded: dict[str, str] = {}
    while bare + sum(_base64_size(s) for s in left.values()) > most:
        largest = max(left.values(), key=_base64_size, default=None)
        if largest is None or s3 is None:
            total = bare + sum(_base64_size(s) for s in left.values())
            raise _too_large(work, total, most)
        uploaded[largest.name] = _s3.upload(s3, largest, work.attempt_id)
        del left[largest.name]
        bare += len(uploaded[largest.name])
    return uploaded


def _too_large(work: Work, size: int, most: int) -> PennyreelError:
    local = [s for s in work.sources if s.local]
    largest = max(local, key=_base64_size, default=None)
    what = (
        f"input {largest.name} is the largest ({_mb(_base64_size(largest))} encoded)"
        if largest
        else "its graph alone is that large"
    )
    return error(
        Code.REQUEST_TOO_LARGE,
        f"the request has {_mb(size)}; RunPod takes {_mb(most)}: {what}",
        hint="Pass large inputs by https URL or s3://, or let pennyreel upload them: "
        "pip install 'pennyreel[s3]' and set PENNYREEL_S3_BUCKET.",
        detail={"bytes": size, "input": largest.name if largest else None},
    )


def _encode(work: Work, inputs: tuple[InputFile, ...]) -> bytes:
    body: dict[str, Any] = {"input": work.request(inputs).wire()}
    if work.timeout_s is not None:
        # ttl counts from submission: the queue, the run, and how long a result is kept. When it is
        # over RunPod forgets the job, whatever it does.
        body["policy"] = {
            "executionTimeout": _policy_ms(work.timeout_s),
            "ttl": _policy_ms(work.queue_s + work.timeout_s + RESULT_KEPT_S),
        }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _policy_ms(seconds: float) -> int:
    low, high = _POLICY_MS
    return max(low, min(high, round(seconds * 1000)))


def _input(source: Source, uploaded: Mapping[str, str]) -> InputFile:
    if source.name in uploaded:
        return InputFile(name=source.name, url=uploaded[source.name])
    if not source.local:
        return _remote(source)
    with source.open() as content:
        return InputFile(name=source.name, data=base64.b64encode(content.read()).decode())


def _remote(source: Source) -> InputFile:
    try:
        return InputFile(name=source.name, url=source.url, s3=source.s3)
    except ValidationError as problem:  # its words may quote a signed URL
        told = problem.errors(include_input=False, include_context=False)[0]
        why = told["msg"].removeprefix("Value error, ") if source.s3 else "its URL is not accepted"
        raise error(Code.BAD_INPUT, f"input {source.name}: {why}") from None


def _base64_size(source: Source) -> int:
    return -(-(source.size or 0) // 3) * 4


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
