"""A worker's life: ComfyUI first, the SDK beside it, then jobs until the platform says stop.

ComfyUI takes seconds to start and the SDK about two to import, so the child is started before
`runpod` is imported, and no job is taken before ComfyUI answers.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import PennyreelError
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.log import log, set_up
from pennyreel_worker.settings import Settings

PROGRESS_S = 10.0


def main() -> int:
    """Run the worker until it is told to stop; returns the exit code."""
    began = time.monotonic()
    set_up()
    # Its default is DEBUG, which prints every handler's output, presigned URLs included.
    os.environ.setdefault("RUNPOD_LOG_LEVEL", "INFO")
    try:
        settings = Settings.from_env(os.environ)
        comfy = Comfy(settings)
    except PennyreelError as problem:
        log.error("%s: %s. %s", problem.code, problem, problem.hint)
        return 1
    try:
        comfy.start()
        return _serve(settings, comfy, began)
    except PennyreelError as problem:
        log.error("%s: %s. %s", problem.code, problem, problem.hint)
        return 1
    finally:
        comfy.stop()


def _serve(settings: Settings, comfy: Comfy, began: float) -> int:
    import runpod  # noqa: PLC0415 - 2 s: beside ComfyUI's start, not before it
    from runpod.serverless.modules import rp_http  # noqa: PLC0415

    from pennyreel_worker.app import Worker  # noqa: PLC0415 - brings boto3
    from pennyreel_worker.handler import handle  # noqa: PLC0415

    imported = time.monotonic()
    try:
        comfy.ready(Deadline(settings.start_s))
    except PennyreelError as problem:
        # Jobs are taken all the same: each gets this error at once, and starts ComfyUI anew.
        log.error("%s: %s", problem.code, problem)
        for line in comfy.process.tail():
            log.error("  %s", line)
    log.info(
        "ready in %.1f s (SDK %.1f s, ComfyUI %.1f s): %s",
        time.monotonic() - began,
        imported - began,
        comfy.process.started_s or 0.0,
        comfy.line(),
    )
    poster = _Poster(rp_http)
    worker = Worker(settings, comfy, poster.post)

    async def entry(job: dict[str, Any]) -> dict[str, Any]:
        return await handle(worker, job)

    try:
        runpod.serverless.start(
            {"handler": entry, "concurrency_modifier": lambda _: settings.concurrency}
        )
    finally:
        worker.close()
    return 0


class _Poster:
    """Posts progress as the SDK would, to the job-done URL, but in order and with a limit."""

    def __init__(self, rp_http: Any) -> None:
        self._url: str = rp_http.JOB_DONE_URL
        self._session: Any = None

    async def post(self, job: dict[str, Any], progress: dict[str, Any]) -> None:
        """Send one update and wait for the answer."""
        import aiohttp  # noqa: PLC0415 - comes with the SDK, in its time
        from runpod.http_client import get_auth_header  # noqa: PLC0415

        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers={
                    **get_auth_header(),
                    "charset": "utf-8",
                    "Content-Type": "application/x-www-form-urlencoded",
                },
                timeout=aiohttp.ClientTimeout(total=PROGRESS_S),
            )
        url = self._url.replace("$ID", str(job["id"])) + "&isStream=false"
        body = json.dumps({"status": "IN_PROGRESS", "output": progress}, ensure_ascii=False)
        async with self._session.post(url, data=body.encode()) as reply:
            await reply.read()


def run() -> None:
    """Entry of `python -m pennyreel_worker`."""
    code = main()
    sys.stderr.flush()
    # The SDK's ping process and idle pool threads would keep the interpreter from leaving.
    os._exit(code)
