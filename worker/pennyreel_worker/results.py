"""Stored results: what makes a redelivered or repeated attempt cost nothing.

`results/<attempt_id>.json` holds the result and the digest of the request it answers. A repeat
with the same request gets it back, with fresh URLs; with another request it is a conflict. Where
the bucket has lost a file of it meanwhile, the job is rendered anew.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

from pydantic import ValidationError

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import (
    Artifact,
    Code,
    JobCancelled,
    JobRequest,
    PennyreelError,
    Result,
    error,
)
from pennyreel_worker.storage import Store

log = logging.getLogger(__name__)


def digest(request: JobRequest) -> str:
    """Return a digest of what the request asks for, without labels, limits and signatures.

    Fields at their defaults are left out, so that a worker of a newer version, whose requests have
    more of them, still knows an attempt of the former one.
    """
    body = request.model_dump(
        mode="json",
        exclude={"attempt_id": True, "contract": True, "metadata": True, "timeout_s": True}
        | {"preview": True, "outputs": {"url_ttl_s"}},
        exclude_defaults=True,
    )
    if not body.get("outputs"):
        body.pop("outputs", None)
    for item in body.get("inputs", ()):
        if "url" in item:
            # A presigned URL differs with each signing; its path names the file.
            item["url"] = item["url"].split("?", 1)[0]
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def find(
    store: Store,
    prefix: str,
    request: JobRequest,
    *,
    deadline: Deadline | None = None,
    cancel: CancelToken | None = None,
) -> Result | None:
    """Return the stored result of this attempt, or None.

    Raises:
        BadRequest: `attempt_conflict`, where the stored attempt was of another request.
        JobFailed: `storage_failed`: told before the GPU is used, not after.
        JobTimeout, JobCancelled: by `deadline` and `cancel`.

    """
    body = store.get_json(_key(prefix, request.attempt_id), deadline=deadline, cancel=cancel)
    if body is None:
        return None
    if body.get("digest") != digest(request):
        raise conflict(request)
    try:
        result = Result.model_validate(body.get("result"))
    except ValidationError:
        log.warning("the stored result of %s cannot be read: rendering anew", request.attempt_id)
        return None
    kept = [a.s3 for a in result.artifacts if a.s3 is not None]
    gone = [s3 for s3 in kept if not store.exists(s3, deadline=deadline, cancel=cancel)]
    if gone:
        log.warning(
            "%s of %s is no longer in the bucket: rendering anew", gone[0], result.attempt_id
        )
        return None
    artifacts = tuple(_fresh(a, store, request.outputs.url_ttl_s) for a in result.artifacts)
    return replayed(result.model_copy(update={"artifacts": artifacts}), request)


def replayed(result: Result, request: JobRequest) -> Result:
    """Return a result as the answer to a request that repeats it."""
    return result.model_copy(update={"replayed": True, "metadata": request.metadata})


def conflict(request: JobRequest) -> PennyreelError:
    """Return the error for an attempt id that was used for something else."""
    return error(
        Code.ATTEMPT_CONFLICT,
        f"attempt {request.attempt_id} was already used for another request",
    )


def keep(
    store: Store,
    prefix: str,
    request: JobRequest,
    result: Result,
    *,
    deadline: Deadline | None = None,
    cancel: CancelToken | None = None,
) -> str | None:
    """Store a result; returns a warning where that failed: the job itself is done and paid.

    Raises:
        JobCancelled: by `cancel`. A `deadline` that passes is a failure like any other.

    """
    body: dict[str, Any] = {"digest": digest(request), "result": result.wire()}
    try:
        store.put(
            _key(prefix, request.attempt_id),
            json.dumps(body).encode(),
            "application/json",
            deadline=deadline,
            cancel=cancel,
        )
    except JobCancelled:
        raise
    except PennyreelError as problem:
        log.warning("the result of %s could not be stored: %s", request.attempt_id, problem)
        return f"the result was not stored for repeats: {problem}"
    return None


def _key(prefix: str, attempt_id: str) -> str:
    return f"{prefix}{attempt_id}.json"


def _fresh(artifact: Artifact, store: Store, ttl_s: int) -> Artifact:
    if artifact.s3 is None:
        return artifact
    url, expires = store.presign(artifact.s3, ttl_s)
    return artifact.model_copy(update={"url": url, "url_expires": expires})
