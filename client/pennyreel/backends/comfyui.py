"""Any ComfyUI server, by its URL.

Inputs are uploaded into the subfolder pennyreel/ATTEMPT and outputs are saved under it, so that
jobs never touch one another's files. The prompt's id is made of the attempt's, so a job can be
found again by whoever knows the attempt.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import Self

from pennyreel.backends._comfyui_events import Listener
from pennyreel.backends._comfyui_files import fetch
from pennyreel.backends._comfyui_inputs import upload
from pennyreel.backends._comfyui_lacks import lacking
from pennyreel.backends._comfyui_results import artifacts, device, lost_images, ran_s, told
from pennyreel.backends.base import COMFY, LACKS_S, OnEvent, Work, unsent, untold
from pennyreel.config import COMFYUI_URL, S3, Settings, is_loopback, key_may_travel, well_formed
from pennyreel.errors import Code, OutcomeUnknown, PennyreelError, SetupNeeded, error
from pennyreel.need import Abilities, Lacks, Need, Unit, Usage
from pennyreel.types import Handle, Health, Sink, Warned
from pennyreel_comfy import graph as graphs
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Gpu, Outputs, Result

FOLDER = "pennyreel"
HEALTH_S = 3.0
LOOKUP_SETTLE_S = 1.0
MAX_UNFOLLOWED = 200
"""So many jobs that nobody follows are remembered; older ones are found again by their ids."""


@dataclass
class _Following:
    """What this process knows of a job beyond what the server tells."""

    run: Run
    outputs: Outputs = field(default_factory=Outputs)
    seed: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    listen: Listener | None = None
    submitted_at: float = field(default_factory=time.monotonic)
    adopted: bool = False
    followed: bool = False


class ComfyBackend:
    """One ComfyUI server."""

    name = "comfyui"

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        s3: S3 | None = None,
        settle_s: float = LOOKUP_SETTLE_S,
    ) -> None:
        """Keep the address; nothing is sent. `settle_s`: between the two looks of `lookup`."""
        if not well_formed(url):
            raise error(
                Code.NOT_CONFIGURED,
                "ComfyUI's address is no http(s) URL",
                hint=f"Write it like {COMFYUI_URL}",
            )
        parts = urlsplit(url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise error(
                Code.NOT_CONFIGURED,
                "ComfyUI's URL holds a user name or a query, which would be printed in handles",
                hint="Put the Authorization header into PENNYREEL_COMFYUI_AUTH instead.",
            )
        self.http = ComfyHttp(url, headers=headers)
        self.target = self.http.base_url
        self._s3 = s3
        self._settle_s = settle_s
        self._session = Session(self.http)
        self._jobs: dict[str, _Following] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        """Build for the configured server, or for another by its URL, without the credential."""
        url = (target or settings.comfyui_url).rstrip("/")
        headers = {}
        if settings.comfyui_auth and _origin(url) == _origin(settings.comfyui_url):
            if not key_may_travel(url):
                raise error(
                    Code.NOT_CONFIGURED,
                    f"the Authorization header is not sent to {url}: it is not https",
                    hint="Use an https address, or http on this machine.",
                )
            headers = {"Authorization": settings.comfyui_auth.reveal()}
        return cls(url, headers=headers, s3=settings.s3)

    def abilities(self) -> Abilities:
        """Return what ComfyUI can do; what this one has installed, preflight asks it.

        It knows our prompts' ids, so an attempt can be looked up. It does not replay: the same
        prompt sent again is queued again.
        """
        return replace(COMFY, looks_up=True, private=is_loopback(self.target))

    def lacks(self, need: Need) -> Lacks | None:
        """Ask it for its node classes and model files; None where it does not say."""
        return lacking(self.http, need, Deadline(LACKS_S))

    def usage(self, need: Need) -> Usage:  # noqa: ARG002 - seconds are known afterwards only
        """GPU seconds: `local` on this machine, `server` on another."""
        sku = "local" if is_loopback(self.target) else "server"
        return Usage(sku, Unit.GPU_SECOND, None)

    def billed(self, need: Need, result: Result) -> Usage:
        """The seconds from ComfyUI's own start and end of the run."""
        seconds = result.timings.get("execute")
        if seconds is None and result.gpu is not None:
            seconds = result.gpu.seconds or None
        return replace(self.usage(need), amount=seconds)

    def lookup(self, attempt_id: str) -> Handle | None:
        """Look for the prompt in /queue and in /history.

        None means that it does not run and has no result there: ComfyUI never got it, or was
        restarted and forgot it. It is looked for twice, since the request may have been on its way
        still when its answer was given up.
        """
        prompt_id = prompt_id_of(attempt_id)
        try:
            for settle_s in (0.0, self._settle_s):
                time.sleep(settle_s)
                # The queue first: a job passes from there to /history, never back.
                if prompt_id in self.http.queue() or self.http.history(prompt_id) is not None:
                    return Handle(self.name, self.target, prompt_id, attempt_id)
        except PennyreelError as problem:
            raise untold(self.target, attempt_id, str(problem), problem.hint) from None
        return None

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """Upload the inputs and queue the graph."""
        prompt_id = prompt_id_of(work.attempt_id)
        limit = deadline or Deadline(None)
        folder = f"{FOLDER}/{work.attempt_id}"
        names = {
            s.name: upload(self.http, s, folder, s3=self._s3, deadline=limit) for s in work.sources
        }
        graph = graphs.rename_files(dict(work.graph), names)
        graph = graphs.prefix_outputs(graph, folder)
        if work.seed is not None:
            graph, _ = graphs.set_seed(graph, work.seed)
        listener = Listener(graph, preview=work.preview)
        handle = Handle(self.name, self.target, prompt_id, work.attempt_id)
        unsent(limit)
        try:
            run = self._session.submit(graph, prompt_id=prompt_id, listener=listener)
        except OutcomeUnknown as problem:
            raise error(
                Code.UNKNOWN_OUTCOME,
                str(problem),
                hint=f"Look it up before you send it again: pennyreel result '{handle}'",
                detail={"handle": str(handle)},
            ) from None
        except SetupNeeded as problem:
            raise error(
                Code(problem.code),
                str(problem),
                hint="Set PENNYREEL_COMFYUI_AUTH to the Authorization header that it expects.",
            ) from None
        with self._lock:
            self._jobs[prompt_id] = _Following(
                run, work.outputs, work.seed, work.metadata, listener
            )
        self._forget_oldest()
        return handle

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Wait for the job's end; its progress comes from the websocket."""
        job = self._job(handle)
        job.followed = True
        listener = job.listen
        for text in job.run.warnings:
            on_event(Warned(text))
        if listener is not None:
            listener.attach(on_event)
        try:
            entry = job.run.wait(deadline, cancel)
        finally:
            with self._lock:
                self._jobs.pop(handle.remote_id, None)
            if listener is not None:
                listener.attach(None)
        return self._result(handle, job, entry)

    def fetch(
        self,
        handle: Handle,
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        """Stream a file by /view; texts and websocket images come with the result."""
        fetch(self.http, handle, artifact, sink, cancel, deadline)

    def cancel(self, handle: Handle) -> bool:
        """Take it out of the queue, or interrupt it if it runs."""
        with self._lock:
            known = self._jobs.get(handle.remote_id)
        if known is not None:
            return known.run.cancel()
        run = self._session.adopt(handle.remote_id)
        try:
            return run.cancel()
        finally:
            self._session.drop(run)

    def health(self) -> Health:
        """GET /system_stats."""
        try:
            stats = self.http.system_stats(timeout=HEALTH_S)
        except PennyreelError as problem:
            return Health(self.name, False, str(problem), problem.hint, self.target)
        return told(self.name, self.target, stats)

    def close(self) -> None:
        """Close the websocket."""
        self._session.close()

    def _job(self, handle: Handle) -> _Following:
        """Return what we know of the job; adopt it when another process submitted it."""
        with self._lock:
            known = self._jobs.get(handle.remote_id)
        if known is not None:
            return known
        http = self.http
        if handle.remote_id not in http.queue() and http.history(handle.remote_id) is None:
            raise error(
                Code.RESULT_EXPIRED,
                f"the ComfyUI at {self.target} does not know this job: it was restarted, or its "
                "history was cleared",
                hint=f"Its files may still be in ComfyUI's output/{FOLDER}/{handle.attempt_id}.",
            )
        listener = Listener({}, preview=False)
        run = self._session.adopt(handle.remote_id, listener=listener)
        job = _Following(run, listen=listener, adopted=True)
        with self._lock:
            return self._jobs.setdefault(handle.remote_id, job)

    def _forget_oldest(self) -> None:
        """Bound what is kept of jobs that were submitted and never followed."""
        with self._lock:
            idle = [(key, job) for key, job in self._jobs.items() if not job.followed]
            old = idle[: max(0, len(idle) - MAX_UNFOLLOWED)]
            for key, _ in old:
                del self._jobs[key]
        for _, job in old:
            self._session.drop(job.run)

    def _result(self, handle: Handle, job: _Following, entry: dict[str, Any]) -> Result:
        timings = {"total": time.monotonic() - job.submitted_at}
        took_s = ran_s(entry)
        if job.run.started_at is not None:
            timings["queue"] = max(0.0, job.run.started_at - job.submitted_at)
            timings["execute"] = time.monotonic() - job.run.started_at
        if took_s is not None:
            timings["execute"] = took_s
        return Result(
            attempt_id=handle.attempt_id,
            artifacts=tuple(artifacts(self.target, job.run, job.outputs, entry)),
            timings=timings,
            gpu=self._gpu(timings.get("execute", 0.0)),
            seed=job.seed,
            warnings=lost_images(job.run, entry),
            metadata=dict(job.metadata),
        )

    def _gpu(self, seconds: float) -> Gpu | None:
        try:
            devices = self.http.system_stats().get("devices") or []
        except PennyreelError:  # decoration: the job is done
            return None
        if not devices:
            return None
        first = device(devices[0])
        return Gpu(
            name=first["name"],
            type=first["type"],
            seconds=seconds,
            vram_bytes=first["vram_bytes"] or None,
        )


def prompt_id_of(attempt_id: str) -> str:
    """Return the canonical UUID under which ComfyUI knows an attempt."""
    try:
        return str(uuid.UUID(hex=attempt_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"pennyreel:{attempt_id}"))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port
