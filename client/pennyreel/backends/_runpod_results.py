"""What a final status of RunPod means: our result, our error, or the stock worker's result."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any, NoReturn

from pennyreel.errors import (
    Code,
    ErrorInfo,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    SetupNeeded,
    Unavailable,
    error,
)
from pennyreel_comfy.outputs import mime_of, plain_name
from pennyreel_contract import Artifact, Result, parse_result

_LOST = (
    "RunPod says the job is COMPLETED and has no result for it. That happens when a result is over "
    "RunPod's 10 MB: the job ran and was billed, its output is lost"
)


def outcome(status: Mapping[str, Any], attempt_id: str) -> Result:
    """Return the result of a job that ended well; raise what its end means otherwise."""
    if status.get("status") != "COMPLETED":
        _fail(status)
    output = status.get("output")
    if output is None:
        raise error(
            Code.RESULT_TOO_LARGE,
            _LOST,
            hint="Give the worker an S3 bucket (BUCKET_ENDPOINT_URL and its keys), or make the "
            "output smaller.",
        )
    result = _stock(output, attempt_id) or parse_result(output)
    return result.model_copy(update={"timings": {**result.timings, **_platform(status)}})


def _fail(status: Mapping[str, Any]) -> NoReturn:
    state = status.get("status")
    if state == "CANCELLED":
        raise error(
            Code.CANCELLED,
            "the job was cancelled at RunPod",
            detail={"confirmed_stopped": True, **spent(status)},
        )
    if state == "TIMED_OUT":
        said = status.get("error")
        raise error(
            Code.TIMEOUT,
            f"RunPod ended the job: {said or 'nobody took it in time, or its worker went silent'}",
            hint="Allow more time (--timeout), or look at the endpoint's workers.",
            detail={"confirmed_stopped": True, **spent(status)},
        )
    info = ErrorInfo.decode(status.get("error") or "failed without a reason")
    output = status.get("output")
    if isinstance(output, dict) and output.get("details"):  # the stock worker's way
        info = info.model_copy(
            update={"message": f"{info.message}: {_text(output['details'])}"[:2000]}
        )
    worker = status.get("workerId")
    detail = {**info.detail, **({"worker_id": str(worker)} if worker else {})}
    # RunPod's clock, not the worker's word.
    detail = {k: v for k, v in detail.items() if k not in {"gpu_seconds", "queue_seconds"}}
    raise _ended(info.model_copy(update={"detail": {**detail, **spent(status)}}))


def spent(status: Mapping[str, Any] | None) -> dict[str, float]:
    """Return what RunPod tells of a job's time, for its bill: in an error's detail."""
    told = _platform(status or {})
    names = {"gpu_seconds": "platform_execute", "queue_seconds": "platform_queue"}
    found = {name: told[stage] for name, stage in names.items() if stage in told}
    return found if "gpu_seconds" in found else {}


def _ended(info: ErrorInfo) -> PennyreelError:
    """Return the error of a job that a worker has ended, whatever the code that it told.

    Of a class that says what became of the job: one that "nothing was accepted", or that nobody
    knows it, would have it looked for, or wait.
    """
    problem = PennyreelError.from_info(info)
    if isinstance(problem, (JobTimeout, JobCancelled)):
        detail = {**info.detail, "confirmed_stopped": True}
        return PennyreelError.from_info(info.model_copy(update={"detail": detail}))
    if isinstance(problem, (Unavailable, SetupNeeded, OutcomeUnknown)):
        problem = JobFailed(Code.EXECUTION_FAILED, info.message)
        problem.info = info
    return problem


def _text(details: object) -> str:
    return "; ".join(map(str, details)) if isinstance(details, list) else str(details)


def _platform(status: Mapping[str, Any]) -> dict[str, float]:
    """RunPod's own clock: what it waited and what it will bill, in seconds."""
    keys = (("platform_queue", "delayTime"), ("platform_execute", "executionTime"))
    return {
        name: status[key] / 1000
        for name, key in keys
        if isinstance(status.get(key), (int, float)) and status[key] >= 0
    }


def _stock(output: object, attempt_id: str) -> Result | None:
    """Read runpod-workers/worker-comfyui's result; None where it is not one."""
    if not isinstance(output, dict) or "attempt_id" in output or "images" not in output:
        return None
    images = output["images"]
    if not isinstance(images, list):
        return None
    if output.get("status") == "success_no_images":
        images = []
    return Result(
        attempt_id=attempt_id,
        artifacts=tuple(_stock_image(i) for i in images if isinstance(i, dict)),
        warnings=tuple(str(e) for e in output.get("errors") or ()),
        worker={"worker": "worker-comfyui"},
    )


def _stock_image(image: Mapping[str, Any]) -> Artifact:
    name = plain_name(str(image.get("filename") or "image.png"))
    kind, mime = mime_of(name)
    data = str(image.get("data") or "")
    if image.get("type") == "s3_url":
        return Artifact(name=name, kind=kind, mime=mime, bytes=0, sha256="", url=data)
    try:
        content = base64.b64decode(data.partition(",")[2] if data.startswith("data:") else data)
    except (binascii.Error, ValueError):
        raise error(Code.STORAGE_FAILED, f"{name} arrived as unreadable base64") from None
    return Artifact(
        name=name,
        kind=kind,
        mime=mime,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        data=data,
    )
