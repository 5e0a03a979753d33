"""Speaks as the stock worker-comfyui 5.8.5 does, so that its users only change the image.

A request without a `contract` field is a stock one. Its words are kept where they are tested by
other people's programs: the texts of refusals, the keys of results, `success_no_images`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from pennyreel_comfy.outputs import plain_name
from pennyreel_contract import Artifact, InputFile, JobRequest, Outputs, PennyreelError, Result

URL_TTL_S = 604_800  # its URLs live a week
_KINDS = ("image", "video", "audio", "model3d", "file")


@dataclass(frozen=True)
class StockRequest:
    """A stock request, as ours: `names` maps what the graph says to our input names."""

    request: JobRequest
    names: dict[str, str]
    comfy_org_api_key: str | None = field(default=None, repr=False)


class StockRefusal(Exception):
    """The request is refused, in the stock worker's words."""


def is_stock(body: object) -> bool:
    """Whether a job's input is in the stock worker's form."""
    return not (isinstance(body, dict) and "contract" in body)


def parse_stock(body: object, job_id: str) -> StockRequest:
    """Read a stock request; extra fields are ignored, a string is read as JSON.

    Raises:
        StockRefusal: as the stock worker refuses.

    """
    if body is None:
        raise StockRefusal("Please provide input")
    if isinstance(body, str):
        try:
            body = json.loads(body)
        except ValueError:
            raise StockRefusal("Invalid JSON format in input") from None
    workflow = body.get("workflow") if isinstance(body, dict) else None
    if not isinstance(body, dict) or workflow is None:
        raise StockRefusal("Missing 'workflow' parameter")
    images = body.get("images") or []
    if not isinstance(images, list) or not all(
        isinstance(i, dict) and isinstance(i.get("name"), str) and isinstance(i.get("image"), str)
        for i in images
    ):
        raise StockRefusal("'images' must be a list of objects with 'name' and 'image' keys")
    names = {str(i["name"]): f"{n}-{plain_name(i['name'])[-180:]}" for n, i in enumerate(images)}
    # A data URI's prefix is whatever stands before the comma, as there.
    data = {i["name"]: i["image"].rpartition(",")[2] for i in images}
    key = body.get("comfy_org_api_key")
    return StockRequest(
        JobRequest(
            # Redelivered by the platform, a job keeps its id, and so its stored result.
            attempt_id="rp-" + re.sub(r"[^A-Za-z0-9_-]", "-", job_id)[:58].ljust(5, "0"),
            workflow=workflow if isinstance(workflow, dict) else {"workflow": workflow},
            inputs=tuple(InputFile(name=names[n], data=d) for n, d in data.items()),
            outputs=Outputs(url_ttl_s=URL_TTL_S, kinds=_KINDS),
        ),
        names,
        str(key) if key else None,
    )


def stock_result(result: Result) -> dict[str, Any]:
    """Return a result in the stock worker's shape."""
    body: dict[str, Any] = {"images": [_image(a) for a in result.artifacts]}
    if result.warnings:
        body["errors"] = list(result.warnings)
    if not result.artifacts and not result.warnings:
        return {"status": "success_no_images", "images": []}
    if not result.artifacts:
        return {"error": "Job processing failed", "details": list(result.warnings)}
    return body


def stock_error(problem: PennyreelError) -> dict[str, Any]:
    """Return a failure in the stock worker's shape: a text, and details beside it."""
    return {
        "error": f"{problem.info.message}. {problem.info.hint}".strip(),
        "details": [problem.info.message],
        "code": problem.info.code,
    }


def _image(artifact: Artifact) -> dict[str, str]:
    if artifact.data is not None:
        return {"filename": artifact.name, "type": "base64", "data": artifact.data}
    where = artifact.url or artifact.s3 or ""
    return {"filename": artifact.name, "type": "s3_url", "data": where}
