"""Stored results: what makes a redelivered or repeated attempt cost nothing.

`results/<attempt_id>.json` holds the result and the digest of the request it answers. A repeat
with the same request gets it back, with fresh URLs; with another request it is a conflict.
"""

from __future__ import annotations

import hashlib
import json
import logging
from typing import Any

from pydantic import ValidationError

from pennyreel_contract import Artifact, Code, JobRequest, PennyreelError, Result, error
from pennyreel_worker.storage import Store

log = logging.getLogger(__name__)


def digest(request: JobRequest) -> str:
    """Return a digest of what decides the outcome: not how it is delivered or labelled."""
    body = request.model_dump(
        mode="json", exclude={"attempt_id", "metadata", "timeout_s", "preview"}
    )
    for item in body["inputs"]:
        if item["url"] is not None:
            # A presigned URL differs with each signing; its path names the file.
            item["url"] = item["url"].split("?", 1)[0]
    text = json.dumps(body, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def find(store: Store, prefix: str, request: JobRequest) -> Result | None:
    """Return the stored result of this attempt, or None.

    Raises:
        BadRequest: `attempt_conflict`, where the stored attempt was of another request.

    """
    body = store.get_json(_key(prefix, request.attempt_id))
    if body is None:
        return None
    if body.get("digest") != digest(request):
        raise error(
            Code.ATTEMPT_CONFLICT,
            f"attempt {request.attempt_id} was already used for another request",
        )
    try:
        result = Result.model_validate(body.get("result"))
    except ValidationError:
        log.warning("the stored result of %s cannot be read: rendering anew", request.attempt_id)
        return None
    artifacts = tuple(_fresh(a, store, request.outputs.url_ttl_s) for a in result.artifacts)
    return result.model_copy(
        update={"artifacts": artifacts, "replayed": True, "metadata": request.metadata}
    )


def keep(store: Store, prefix: str, request: JobRequest, result: Result) -> str | None:
    """Store a result; returns a warning where that failed: the job itself is done and paid."""
    body: dict[str, Any] = {"digest": digest(request), "result": result.wire()}
    try:
        store.put(_key(prefix, request.attempt_id), json.dumps(body).encode(), "application/json")
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
