"""A worker's life: ComfyUI first, the SDK beside it, then jobs until the platform says stop.

ComfyUI takes seconds to start and the SDK about two to import, so the child is started before
`runpod` is imported, and no job is taken before ComfyUI answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyreel_comfy.waiting import CancelToken
from pennyreel_contract import JobCancelled, PennyreelError, Unavailable
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.gpu import GpuMemory
from pennyreel_worker.log import catch_all, log, redactor, secrets_of, set_up
from pennyreel_worker.prefetch import Prefetch, find
from pennyreel_worker.printed import adopt_prints
from pennyreel_worker.settings import Settings
from pennyreel_worker.startup import COMFYUI, IMPORTED, READY, SDK, SPAWNED, WARM, Startup, announce
from pennyreel_worker.warmup import warm_up

if TYPE_CHECKING:
    from pennyreel_comfy.session import Session
    from pennyreel_worker.app import Worker

PROGRESS_S = 10.0
_PR_SET_DUMPABLE = 4


def main() -> int:
    """Run the worker until it is told to stop; returns the exit code."""
    _hide()
    startup = Startup()
    startup.mark(IMPORTED)
    set_up()
    catch_all()
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
        set_up(log_format=settings.log_format, worker_id=settings.worker_id)
        if settings.log_format == "json":
            adopt_prints()
        redactor.add([*secrets_of(settings), os.environ.get("RUNPOD_AI_API_KEY")])
        comfy = Comfy(settings)
    except PennyreelError as problem:
        log.error("%s: %s. %s", problem.code, problem, problem.hint)
        return 1
    prefetch = None
    try:
        _start(comfy)
        startup.mark(SPAWNED)
        prefetch = _prefetch(settings, comfy)
        return _serve(settings, comfy, stop, startup)
    except SystemExit as stopped:  # the SDK's, at a signal or after a local test
        return stopped.code if isinstance(stopped.code, int) else 0
    finally:
        if prefetch is not None:
            prefetch.stop()
        comfy.stop()


def _hide() -> None:
    """Close our entries in /proc: ComfyUI runs as the same user, and its nodes would find keys."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _prefetch(settings: Settings, comfy: Comfy) -> Prefetch | None:
    """Have the models that the operator names read beside ComfyUI's start."""
    if not settings.prefetch:
        return None
    prefetch = Prefetch(_wanted(settings, comfy))
    prefetch.start()
    return prefetch


def _wanted(settings: Settings, comfy: Comfy) -> Iterator[Path]:
    roots = [root.path for root in comfy.models.roots]
    wanted = find(settings.prefetch, roots, settings.template_dirs)
    for name in wanted.missing:
        log.warning("PENNYREEL_PREFETCH: there is no %s", name)
    yield from wanted.files


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


def _serve(settings: Settings, comfy: Comfy, stop: CancelToken, startup: Startup) -> int:
    import runpod  # noqa: PLC0415 - 2 s: beside ComfyUI's start, not before it
    from runpod.serverless.modules import rp_http  # noqa: PLC0415
    from runpod.serverless.modules.worker_state import JobsProgress  # noqa: PLC0415

    from pennyreel_worker import loop  # noqa: PLC0415 - imports the SDK
    from pennyreel_worker.app import Worker  # noqa: PLC0415 - brings boto3
    from pennyreel_worker.handler import handle  # noqa: PLC0415

    startup.mark(SDK)
    # A collection writes into each object that it looks at, and what the imports made stays: the
    # SDK's forked ping process would get a copy of it.
    gc.freeze()
    try:
        comfy.first_ready(stop)
        startup.mark(COMFYUI)
        _warm_up(settings, comfy, stop)
        startup.mark(WARM)
    except JobCancelled:
        return 0
    except PennyreelError as problem:
        _report(comfy, problem)
    memory = GpuMemory.find(comfy.stats, visible=settings.cuda_devices)
    poster = _Poster(rp_http.JOB_DONE_URL)
    worker = Worker(settings, comfy, poster.post, startup=startup, memory=memory)
    startup.mark(READY)
    log.info("taking jobs after %.1f s", startup.uptime_s())
    # Beside the first jobs: reading all nodes takes half a second.
    threading.Thread(target=_announce, args=(worker, startup), daemon=True).start()

    async def entry(job: dict[str, Any]) -> dict[str, Any]:
        return await handle(worker, job)

    _choose_api(settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # now an exception does no harm
    if stop.cancelled:
        return 0
    paced = loop.install(worker)
    # The stock loop takes jobs from idle workers with a second slot, and sleeps when it is full.
    modifier = {} if paced else {"concurrency_modifier": lambda _: 1}
    try:
        runpod.serverless.start({"handler": entry, **modifier})
    finally:
        # As a set: its own list of them is one string.
        late = [] if paced else [str(job) for job in JobsProgress()]
        worker.close()
    asyncio.run(loop.post_leftovers(late))
    return 1 if worker.broken else 0


def _choose_api(settings: Settings) -> None:
    """Have the SDK serve its local API where the operator wants that.

    The stock image listens on every interface. The SDK's API asks for no key, so ours stays on
    loopback unless the command line says otherwise (--rp_api_host).
    """
    if settings.serve_api and "--rp_serve_api" not in sys.argv:
        sys.argv += ["--rp_serve_api"]


def _warm_up(settings: Settings, comfy: Comfy, stop: CancelToken) -> None:
    session = comfy.living()
    if settings.warmup is None or session is None:
        return
    warm_up(session, settings, comfy.folders, stop)
    if _still_runs(session):
        comfy.condemn("did not stop the warm-up", session)
    if comfy.living() is None:
        # It died or hangs of it: the first job is not to wait for its start, while others could
        # have taken it.
        comfy.first_ready(stop)
    comfy.sweep(())


def _still_runs(session: Session) -> bool:
    try:
        return bool(session.http.queue(timeout=PROGRESS_S).running)
    except Unavailable:
        return True


def _announce(worker: Worker, startup: Startup) -> None:
    if worker.comfy.living() is not None:
        with contextlib.suppress(PennyreelError):  # it has died since: its jobs will tell
            announce(worker.describe(), startup)


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
    code = 1
    try:
        code = main()
    except Exception:  # noqa: BLE001 - whatever it was, the container has to end
        log.exception("the worker ended")
    finally:
        sys.stderr.flush()
        # The SDK's ping process and idle pool threads would keep the interpreter from leaving.
        os._exit(code)
