"""Speaks as the stock worker-comfyui 5.8.5 does, so that its users only change the image.

A request without a `contract` field is a stock one. Its words are kept where they are tested by
other people's programs: the texts of refusals, the keys of results, `success_no_images`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from pennyreel_comfy.outputs import plain_name
from pennyreel_contract import (
    Artifact,
    Code,
    InputFile,
    JobRequest,
    Outputs,
    PennyreelError,
    Result,
    error,
)
from pennyreel_worker.job import NOTHING_WANTED

URL_TTL_S = 604_800  # its URLs live a week
_KINDS = ("image", "video", "audio", "model3d", "file")
_NAME_BYTES = 180


@dataclass(frozen=True)
class StockRequest:
    """A stock request, as ours: `names` maps what the graph says to our input names."""

    request: JobRequest
    names: dict[str, str]
    comfy_org_api_key: str | None = field(default=None, repr=False)


class Refusal(Exception):
    """The request is refused, in the stock worker's words."""


def parse(body: object) -> object:
    """Read an input that is JSON in a string, as the stock worker does; else return it as it is."""
    if not isinstance(body, str):
        return body
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body


def is_stock(body: object) -> bool:
    """Whether a job's input is in the stock worker's form.

    `{"op": "info"}` is ours without a `contract`, too: it names no workflow to run.
    """
    if not isinstance(body, dict):
        return True
    return "contract" not in body and (body.get("op") != "info" or "workflow" in body)


def parse_stock(body: object, job_id: str) -> StockRequest:
    """Read a stock request; extra fields are ignored.

    Raises:
        Refusal: as the stock worker refuses.
        BadRequest: where it cannot be one of ours.

    """
    if body is None:
        raise Refusal("Please provide input")
    if isinstance(body, str):
        raise Refusal("Invalid JSON format in input")
    workflow = body.get("workflow") if isinstance(body, dict) else None
    if not isinstance(body, dict) or workflow is None:
        raise Refusal("Missing 'workflow' parameter")
    images = _images(body.get("images"))
    names = {name: f"{n}-{_short(name)}" for n, name in enumerate(images)}
    key = body.get("comfy_org_api_key")
    try:
        request = JobRequest(
            # Redelivered by the platform, a job keeps its id, and so its stored result.
            attempt_id="rp-" + re.sub(r"[^A-Za-z0-9_-]", "-", job_id)[:58].ljust(5, "0"),
            workflow=workflow if isinstance(workflow, dict) else {"workflow": workflow},
            inputs=tuple(InputFile(name=names[name], data=data) for name, data in images.items()),
            outputs=Outputs(url_ttl_s=URL_TTL_S, kinds=_KINDS),
        )
    except ValidationError as problem:
        first = problem.errors(include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise error(Code.BAD_REQUEST, f"{where}: {first['msg']}") from None
    return StockRequest(request, names, str(key) if key else None)


def stock_result(result: Result) -> dict[str, Any]:
    """Return a result in the stock worker's shape."""
    errors = [w for w in result.warnings if w != NOTHING_WANTED]
    if result.artifacts:
        body: dict[str, Any] = {"images": [_image(a) for a in result.artifacts]}
        return {**body, "errors": errors} if errors else body
    if errors:
        return {"error": "Job processing failed", "details": errors}
    return {"status": "success_no_images", "images": []}


def stock_error(problem: PennyreelError) -> dict[str, Any]:
    """Return a failure in the stock worker's shape: a text, and details beside it.

    What it has words for is said in them; the rest in ours. `code` and `hint` are our addition.
    """
    info = problem.info
    text, details = f"{info.message}. {info.hint}".strip(), [info.message]
    if info.code in {Code.EXECUTION_FAILED.value, Code.OUT_OF_MEMORY.value}:
        text = "Job processing failed"
        if "node" in info.detail:
            # ComfyUI's own message stands behind "node 3 (KSampler) failed: ValueError: ".
            said = info.message.split(": ", 2)[-1]
            where = f"Node Type: {info.detail.get('class_type')}, Node ID: {info.detail['node']}"
            details = [f"Workflow execution error: {where}, Message: {said}"]
    elif info.code in {Code.BAD_INPUT.value, Code.INPUT_TOO_LARGE.value}:
        text = "Failed to upload one or more input images"
    return {"error": text, "details": details, "code": info.code, "hint": info.hint}


def _images(given: object) -> dict[str, str]:
    """Return base64 by name; of two with one name the later counts, as an upload overwrites."""
    if given is None:
        return {}
    if not isinstance(given, list) or not all(
        isinstance(i, dict) and isinstance(i.get("name"), str) and isinstance(i.get("image"), str)
        for i in given
    ):
        raise Refusal("'images' must be a list of objects with 'name' and 'image' keys")
    # A data URI's prefix is whatever stands before the first comma, as there.
    return {i["name"]: i["image"].split(",", 1)[-1] for i in given}


def _short(name: str) -> str:
    """Return a plain name that is short enough with a number before it."""
    return plain_name(name).encode("utf-8", "replace")[-_NAME_BYTES:].decode("utf-8", "ignore")


def _image(artifact: Artifact) -> dict[str, str]:
    if artifact.data is not None:
        return {"filename": artifact.name, "type": "base64", "data": artifact.data}
    where = artifact.url or artifact.s3 or ""
    return {"filename": artifact.name, "type": "s3_url", "data": where}
