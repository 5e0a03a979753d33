"""Files that a ComfyUI job made, by /view."""

from __future__ import annotations

import base64
from urllib.parse import parse_qs, urlencode, urlsplit

from pennyreel import _http
from pennyreel.backends.base import pause
from pennyreel.errors import Code, JobFailed, PennyreelError, error
from pennyreel.types import Handle, Sink
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact


def fetch(
    http: ComfyHttp,
    handle: Handle,
    artifact: Artifact,
    sink: Sink,
    cancel: CancelToken,
    deadline: Deadline | None,
) -> None:
    """Stream a file; texts and websocket images come with the result. Raises as `Backend.fetch`."""
    sink.restart()
    if artifact.data is not None:
        sink.write(base64.b64decode(artifact.data))
        return
    query = {k: v[0] for k, v in parse_qs(urlsplit(artifact.url or "").query).items()}
    name, folder = query.get("filename", ""), query.get("subfolder", "")
    place = {"filename": name, "subfolder": folder, "type": query.get("type", "output")}
    try:
        _http.download(
            f"{http.base_url}/view?{urlencode(place)}",
            sink,
            local=True,
            plain=True,
            headers=http.headers,
            pause=lambda seconds: pause(cancel, seconds),
            deadline=deadline,
            cancel=cancel,
        )
    except JobFailed as problem:
        raise _refused(problem, http.base_url, name, handle) from None


def _refused(problem: JobFailed, target: str, name: str, handle: Handle) -> PennyreelError:
    status = problem.info.detail.get("status")
    if status in {401, 403}:
        return error(
            Code.UNAUTHORIZED,
            f"the ComfyUI at {target} refuses to hand over {name} ({status}); the job is done",
            hint=f"Check PENNYREEL_COMFYUI_AUTH. Then fetch it again: pennyreel result '{handle}'",
        )
    if problem.code != Code.RESULT_EXPIRED.value:
        return problem
    return error(Code.OUTPUT_MISSING, f"ComfyUI says it made {name}, but /view has it not")
