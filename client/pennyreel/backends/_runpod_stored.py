"""Results that our worker stored in the user's bucket under their attempts' ids.

`results/<attempt id>.json`, beside the outputs: written when a job has ended well, before RunPod is
told of it. So a job whose submit had no answer can be found by whoever has the bucket.
"""

from __future__ import annotations

from typing import Any

from pennyreel import _s3
from pennyreel.backends.base import untold
from pennyreel.config import S3
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Handle
from pennyreel_contract import Result, parse_result

ID = "stored"
"""Stands for RunPod's id in the handle of a job whose own was never told."""

PREFIX = "results/"
"""As the worker writes it."""

_CONSOLE = "https://console.runpod.io/serverless"
_HINT = f"Look at the endpoint's requests in {_CONSOLE}; look again when its jobs have ended."


def lookup(s3: S3 | None, handle: Handle) -> Handle:
    """Return the handle if the bucket has its result; raises OutcomeUnknown otherwise."""
    if s3 is None:
        why = "RunPod has no lookup, and the worker's bucket is not configured here"
        hint = f"{_HINT} With PENNYREEL_S3_BUCKET set, results are looked for in it."
        raise untold("RunPod", handle.attempt_id, why, hint)
    try:
        body = _read(s3, handle.attempt_id)
    except PennyreelError as problem:
        raise untold("RunPod", handle.attempt_id, str(problem), problem.hint) from None
    if body is None:
        why = f"bucket {s3.bucket} has no result of it (yet)"
        raise untold("RunPod", handle.attempt_id, why, _HINT)
    return handle


def result(s3: S3 | None, handle: Handle) -> Result:
    """Read the stored result; its files are signed anew, since the stored URLs expire.

    Raises:
        SetupNeeded: no bucket is configured here.
        JobFailed: `result_expired`, it is no longer there; `storage_failed`.

    """
    body = _read(_s3.require(s3, f"the result of {handle.attempt_id}"), handle.attempt_id)
    if body is None:
        raise error(
            Code.RESULT_EXPIRED,
            f"the bucket no longer has the result of attempt {handle.attempt_id}",
            hint="Keep results longer by the bucket's lifecycle rules.",
        )
    found = parse_result(body.get("result"))
    artifacts = tuple(
        a if a.s3 is None else a.model_copy(update={"url": None}) for a in found.artifacts
    )
    return found.model_copy(update={"artifacts": artifacts})


def _read(s3: S3, attempt_id: str) -> dict[str, Any] | None:
    return _s3.get_json(s3, f"{PREFIX}{attempt_id}.json")
