"""Speaks as the stock worker-comfyui 5.8.5 does, so that its users only change the image.

A request without a `contract` field is a stock one. Its words are kept where they are tested by
other people's programs: the texts of refusals, the keys of results, `success_no_images`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Mapping
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
from pennyreel_worker.delivery import measure
from pennyreel_worker.execution import FAILURES
from pennyreel_worker.job import NOTHING_WANTED

URL_TTL_S = 604_800  # its URLs live a week
_KINDS = ("image", "video", "audio", "model3d", "file")
_NAME_BYTES = 180
_UPLOAD_FAILED = "Failed to upload one or more input images"
_UNKNOWN = Code.UNKNOWN_NODE.value
_UPLOADS = {Code.BAD_INPUT.value, Code.INPUT_TOO_LARGE.value}


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
        raise error(Code.BAD_REQUEST, _first(problem)) from None
    return StockRequest(request, names, str(key) if key and isinstance(key, (str, int)) else None)


def _first(problem: ValidationError) -> str:
    try:
        first = problem.errors(include_input=False)[0]
    except RecursionError:  # it shows what it was given
        return "workflow: too many levels"
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def stock_result(
    result: Result, graph: Mapping[str, Any] | None = None, limit: int | None = None
) -> dict[str, Any]:
    """Return a result in the stock worker's shape.

    Args:
        result: of the job.
        graph: as it was sent. Of two nodes that do the same, ComfyUI runs one and shows its files
            for both, and the stock worker returns them for both.
        limit: bytes that the platform carries; where such doubles would exceed it, they are left
            out.

    """
    errors = [w for w in result.warnings if w != NOTHING_WANTED]
    if result.artifacts:
        body: dict[str, Any] = {"images": [_image(a) for a in result.artifacts]}
        body = {**body, "errors": errors} if errors else body
        doubled = {**body, "images": _doubled(result, graph or {})}
        return doubled if limit is None or measure(doubled) <= limit else body
    if errors:
        return {"error": "Job processing failed", "details": errors}
    return {"status": "success_no_images", "images": []}


def stock_error(problem: PennyreelError) -> dict[str, Any]:
    """Return a failure in the stock worker's shape: a text, and details beside it.

    Texts that it has begin as there, since programs look for them; what follows is ours. `code`
    and `hint` are our addition.
    """
    info = problem.info
    details = _findings(info.detail) or [info.message]
    text = f"{info.message}. {info.hint}".strip()
    if info.code in FAILURES:
        text, details = "Job processing failed", [failed_node(problem)]
    elif info.code == _UNKNOWN:
        text = f"Cannot execute because node {_missing_class(info.detail)} does not exist. {text}"
    elif info.code == Code.NO_OUTPUTS.value:
        text = f"Prompt has no outputs. {text}"
    elif "findings" in info.detail:
        text = "\n".join(["Workflow validation failed:", *(f"• {line}" for line in details)])
        text = f"{text}\n\n{info.hint}".strip()
    elif info.code in _UPLOADS:
        text, details = _UPLOAD_FAILED, _texts(info.detail.get("images")) or details
    return {"error": text, "details": details, "code": info.code, "hint": info.hint}


def failed_node(problem: PennyreelError) -> str:
    """Return the line by which the stock worker tells that a node failed."""
    detail, message = problem.info.detail, problem.info.message
    if "node" not in detail:
        return message
    # ComfyUI's own message stands behind "node 3 (KSampler) failed: ValueError: ".
    said = message.split(": ", 2)[-1]
    where = f"Node Type: {detail.get('class_type')}, Node ID: {detail['node']}"
    return f"Workflow execution error: {where}, Message: {said}"


def _findings(detail: Mapping[str, Any]) -> list[str]:
    """Return a line for each finding of a graph that is refused."""
    lines = []
    for finding in detail.get("findings") or ():
        if isinstance(finding, dict) and finding.get("node") is not None:
            place = f".{finding['input']}" if finding.get("input") else ""
            where = f"Node {finding['node']} ({finding.get('class_type')}){place}"
            lines.append(f"{where}: {finding.get('message')}")
    return lines


def _missing_class(detail: Mapping[str, Any]) -> str:
    findings = detail.get("findings")
    named = [detail, *(findings if isinstance(findings, list) else ())]
    absent = (one for one in named if one.get("code", _UNKNOWN) == _UNKNOWN)
    return next((str(one["class_type"]) for one in absent if one.get("class_type")), "of that name")


def _texts(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def _doubled(result: Result, graph: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return all images, and those of a node again for each other that does the same."""
    of_node: dict[str, list[dict[str, str]]] = {}
    for artifact in result.artifacts:
        of_node.setdefault(artifact.node, []).append(_image(artifact))
    makers = {_work(graph[node]): node for node in reversed(of_node) if node in graph}
    again = Counter(makers.get(_work(node)) for name, node in graph.items() if name not in of_node)
    return [
        image for node, images in of_node.items() for image in images * (1 + again.get(node, 0))
    ]


def _work(node: Any) -> str:
    """What a node does, told by its class and inputs."""
    return json.dumps([node.get("class_type"), node.get("inputs")], sort_keys=True)


def _images(given: object) -> dict[str, str]:
    """Return base64 by name; of two with one name the later counts, as an upload overwrites."""
    if given is None:
        return {}
    if not isinstance(given, list) or not all(
        isinstance(i, dict) and isinstance(i.get("name"), str) and isinstance(i.get("image"), str)
        for i in given
    ):
        raise Refusal("'images' must be a list of objects with 'name' and 'image' keys")
    images: dict[str, str] = {}
    failed: list[str] = []
    for image in given:
        # A data URI's prefix is whatever stands before the first comma, as there.
        data = image["image"].split(",", 1)[-1]
        try:
            images[image["name"]] = _base64(data)
        except ValueError as problem:
            failed.append(f"Error decoding base64 for {image['name']}: {problem}")
    if failed:
        raise error(
            Code.BAD_INPUT,
            "; ".join(failed)[:1000],
            hint="Encode the file's bytes as base64, with or without a data: prefix.",
            detail={"images": failed},
        )
    # An empty one fails the node that reads it, and nothing else: some forms always send one.
    return {name: data for name, data in images.items() if data}


def _base64(data: str) -> str:
    """Return it as strict base64. As there, what is none of its characters is passed over.

    Raises:
        ValueError: it is not base64 at all.

    """
    if not data.isascii():
        raise ValueError("string argument should contain only ASCII characters")
    try:
        base64.b64decode(data, validate=True)
    except binascii.Error:
        content = base64.b64decode(data)
        if not content:
            raise ValueError("not valid base64") from None
        return base64.b64encode(content).decode()
    return data


def _short(name: str) -> str:
    """Return a plain name that is short enough with a number before it."""
    return plain_name(name).encode("utf-8", "replace")[-_NAME_BYTES:].decode("utf-8", "ignore")


def _image(artifact: Artifact) -> dict[str, str]:
    if artifact.data is not None:
        return {"filename": artifact.name, "type": "base64", "data": artifact.data}
    where = artifact.url or artifact.s3 or ""
    return {"filename": artifact.name, "type": "s3_url", "data": where}
