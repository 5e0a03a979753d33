"""A worker's life: ComfyUI first, the SDK beside it, then jobs until the platform says stop.

ComfyUI takes seconds to start and the SDK about two to import, so the child is started before
`runpod` is imported, and no job is taken before ComfyUI answers.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from typing import Any

from pennyreel_comfy.waiting import CancelToken
from pennyreel_contract import JobCancelled, PennyreelError
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
    stop = CancelToken()
    # Until the SDK has handlers of its own. A flag and no exception, which could come between the
    # child's start and our knowing of it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.cancel())
    _end_forks_with_us()
    try:
        settings = Settings.from_env(os.environ)
        comfy = Comfy(settings)
    except PennyreelError as problem:
        log.error("%s: %s. %s", problem.code, problem, problem.hint)
        return 1
    try:
        _start(comfy)
        return _serve(settings, comfy, stop, began)
    except SystemExit as stopped:  # the SDK's, at a signal or after a local test
        return stopped.code if isinstance(stopped.code, int) else 0
    finally:
        comfy.stop()


def _start(comfy: Comfy) -> None:
    try:
        comfy.start()
    except PennyreelError as problem:
        _report(comfy, problem)


def _report(comfy: Comfy, problem: PennyreelError) -> None:
    """Log why ComfyUI did not start.

    Jobs are taken all the same: each gets this error at once, and starts ComfyUI anew. A worker
    that ended instead would leave them in the queue without a word.
    """
    log.error("%s: %s. %s", problem.code, problem, problem.hint)
    for line in comfy.process.tail():
        log.error("  %s", line)


def _end_forks_with_us() -> None:
    """Have every forked process end when this one does, however it ends.

    The SDK forks a process for its pings. Were this one killed, that one would go on telling the
    platform that the worker lives, and hold the pipe by which ComfyUI knows that we do.
    """
    if not hasattr(os, "register_at_fork"):
        return
    ours, theirs = os.pipe()
    held = [theirs]

    def in_child() -> None:
        if held:  # a fork of a fork has none
            os.close(held.pop())
        threading.Thread(target=leave, daemon=True).start()

    def leave() -> None:
        os.read(ours, 1)  # returns when nobody holds the other end any more
        os._exit(0)

    os.register_at_fork(after_in_child=in_child)


def _serve(settings: Settings, comfy: Comfy, stop: CancelToken, began: float) -> int:
    import runpod  # noqa: PLC0415 - 2 s: beside ComfyUI's start, not before it
    from runpod.serverless.modules import rp_http  # noqa: PLC0415

    from pennyreel_worker.app import Worker  # noqa: PLC0415 - brings boto3
    from pennyreel_worker.handler import handle  # noqa: PLC0415

    imported = time.monotonic()
    try:
        comfy.first_ready(stop)
    except JobCancelled:
        return 0
    except PennyreelError as problem:
        _report(comfy, problem)
    log.info(
        "ready in %.1f s (SDK %.1f s, ComfyUI %.1f s): %s",
        time.monotonic() - began,
        imported - began,
        comfy.process.started_s or 0.0,
        comfy.line(),
    )
    worker = Worker(settings, comfy, _Poster(rp_http.JOB_DONE_URL).post)

    async def entry(job: dict[str, Any]) -> dict[str, Any]:
        return await handle(worker, job)

    if settings.serve_api and "--rp_serve_api" not in sys.argv:
        # The stock image listens on every interface. The SDK's API asks for no key, so ours stays
        # on loopback unless the command line says otherwise (--rp_api_host).
        sys.argv += ["--rp_serve_api"]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # now an exception does no harm
    if stop.cancelled:
        return 0
    try:
        runpod.serverless.start(
            {"handler": entry, "concurrency_modifier": lambda _: settings.concurrency}
        )
    finally:
        worker.close()
    return 0


class _Poster:
    """Posts progress as the SDK would, to the job-done URL, but in order and with a limit."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: Any = None

    async def post(self, job: dict[str, Any], progress: dict[str, Any]) -> None:
        """Send one update and wait for the answer. Off the platform there is nobody to tell."""
        if not self._url.startswith("http"):
            return
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
