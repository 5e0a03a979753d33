"""Any ComfyUI server, by its URL.

Inputs are uploaded into the subfolder pennyreel/ATTEMPT and outputs are saved under it, so that
jobs never touch one another's files. The prompt's id is made of the attempt's, so a job can be
found again by whoever knows the attempt.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Any
from urllib.parse import parse_qs, urlencode, urlsplit

from typing_extensions import Self

from pennyreel import _http, _s3
from pennyreel.backends.base import COMFY_KINDS, OnEvent, Work, pause, unsent, untold
from pennyreel.config import COMFYUI_URL, S3, Settings, is_loopback, key_may_travel, well_formed
from pennyreel.errors import Code, JobFailed, OutcomeUnknown, PennyreelError, SetupNeeded, error
from pennyreel.need import Abilities, Need, Unit, Usage
from pennyreel.sources import Source
from pennyreel.types import Handle, Health, Progressed, Queued, Sink, Started, Warned
from pennyreel_comfy import graph as graphs
from pennyreel_comfy.events import Cached, Event, Executing, Image, NodeStates, NodeSteps
from pennyreel_comfy.events import Started as RunStarted
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.outputs import collect
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.tracker import Position, Tracker
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Gpu, Outputs, Result

FOLDER = "pennyreel"
MAX_INPUT_BYTES = 2 << 30
HEALTH_S = 3.0
LOOKUP_SETTLE_S = 1.0
MAX_UNFOLLOWED = 200
"""So many jobs that nobody follows are remembered; older ones are found again by their ids."""

_SOCKET_OUTPUT = "SaveImageWebsocket"
_SUFFIX = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


@dataclass
class _Following:
    """What this process knows of a job beyond what the server tells."""

    run: Run
    outputs: Outputs = field(default_factory=Outputs)
    seed: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    listen: _Listener | None = None
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
        return Abilities(
            kinds=COMFY_KINDS,
            workflows=True,
            image_input=True,
            lora=True,
            negative_prompt=True,
            seed=True,
            cancels=True,
            looks_up=True,
            private=is_loopback(self.target),
        )

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
        names = {s.name: self._upload(s, work.attempt_id, limit) for s in work.sources}
        graph = graphs.rename_files(dict(work.graph), names)
        graph = graphs.prefix_outputs(graph, f"{FOLDER}/{work.attempt_id}")
        if work.seed is not None:
            graph, _ = graphs.set_seed(graph, work.seed)
        listener = _Listener(graph, preview=work.preview)
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
        sink.restart()
        if artifact.data is not None:
            sink.write(base64.b64decode(artifact.data))
            return
        query = {k: v[0] for k, v in parse_qs(urlsplit(artifact.url or "").query).items()}
        name, folder = query.get("filename", ""), query.get("subfolder", "")
        place = {"filename": name, "subfolder": folder, "type": query.get("type", "output")}
        try:
            _http.download(
                f"{self.target}/view?{urlencode(place)}",
                sink,
                local=True,
                plain=True,
                headers=self.http.headers,
                pause=lambda seconds: pause(cancel, seconds),
                deadline=deadline,
                cancel=cancel,
            )
        except JobFailed as problem:
            status = problem.info.detail.get("status")
            if status in {401, 403}:
                raise error(
                    Code.UNAUTHORIZED,
                    f"the ComfyUI at {self.target} refuses to hand over {name} ({status}); the job "
                    "is done",
                    hint="Check PENNYREEL_COMFYUI_AUTH. Then fetch it again: "
                    f"pennyreel result '{handle}'",
                ) from None
            if problem.code != Code.RESULT_EXPIRED.value:
                raise
            raise error(
                Code.OUTPUT_MISSING, f"ComfyUI says it made {name}, but /view has it not"
            ) from None

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
        system = stats.get("system") or {}
        versions = {
            name: str(system[key])
            for name, key in (("comfyui", "comfyui_version"), ("pytorch", "pytorch_version"))
            if system.get(key)
        }
        devices = tuple(_device(d) for d in stats.get("devices") or () if isinstance(d, dict))
        first = devices[0]["name"] if devices else "no device"
        detail = f"ComfyUI {versions.get('comfyui', '?')} at {self.target}, {first}"
        return Health(self.name, True, detail, "", self.target, versions, devices)

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
        listener = _Listener({}, preview=False)
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

    def _upload(self, source: Source, attempt_id: str, deadline: Deadline) -> str:
        unsent(deadline)
        subfolder = f"{FOLDER}/{attempt_id}"
        if source.local:
            with source.open() as content:
                return self.http.upload(source.name, content, subfolder=subfolder)
        url = source.url
        if source.s3 is not None:
            url = _s3.presign(_s3.require(self._s3, source.s3), source.s3)
        with tempfile.TemporaryFile() as content:
            _download_input(url or "", content, deadline)
            content.seek(0)
            return self.http.upload(source.name, content, subfolder=subfolder)

    def _result(self, handle: Handle, job: _Following, entry: dict[str, Any]) -> Result:
        wanted = job.outputs
        files, texts = collect(entry, temp=wanted.temp, nodes=wanted.nodes, kinds=wanted.kinds)
        artifacts = [
            Artifact(
                name=f.name,
                kind=f.kind,
                mime=f.mime,
                bytes=0,  # not known before it is fetched; nor is the sha256
                sha256="",
                node=f.node,
                temp=f.temp,
                url=f"{self.target}/view?"
                + urlencode({"filename": f.filename, "subfolder": f.subfolder, "type": f.type}),
            )
            for f in files
        ]
        artifacts += [_inline(t.name, "text", "text/plain", t.text.encode(), t.node) for t in texts]
        if wanted.kinds is None or "image" in wanted.kinds:
            artifacts += _socket_images(job.run, wanted)
        timings = {"total": time.monotonic() - job.submitted_at}
        ran_s = _ran_s(entry)
        if job.run.started_at is not None:
            timings["queue"] = max(0.0, job.run.started_at - job.submitted_at)
            timings["execute"] = time.monotonic() - job.run.started_at
        if ran_s is not None:
            timings["execute"] = ran_s
        return Result(
            attempt_id=handle.attempt_id,
            artifacts=tuple(artifacts),
            timings=timings,
            gpu=self._gpu(timings.get("execute", 0.0)),
            seed=job.seed,
            warnings=_lost_images(job, entry),
            metadata=dict(job.metadata),
        )

    def _gpu(self, seconds: float) -> Gpu | None:
        try:
            devices = self.http.system_stats().get("devices") or []
        except PennyreelError:  # decoration: the job is done
            return None
        if not devices:
            return None
        first = _device(devices[0])
        return Gpu(
            name=first["name"],
            type=first["type"],
            seconds=seconds,
            vram_bytes=first["vram_bytes"] or None,
        )


class _Listener:
    """Turns one job's websocket events into ours; what came before `attach` is not lost."""

    def __init__(self, graph: Mapping[str, Any], *, preview: bool) -> None:
        self._graph = graph
        self._tracker = Tracker(graph)
        self._preview = preview
        self._lock = threading.Lock()
        self._on_event: OnEvent | None = None
        self._started = False
        self._last: Progressed | None = None

    def attach(self, on_event: OnEvent | None) -> None:
        """Begin to tell `on_event`, first of where the job is."""
        with self._lock:
            self._on_event = on_event
            if on_event is None:
                return
            on_event(Started() if self._started else Queued())
            if self._last is not None:
                on_event(self._last)

    def __call__(self, event: Event) -> None:
        """Take one event (reader thread)."""
        with self._lock:
            if not self._started and isinstance(
                event, (RunStarted, Cached, Executing, NodeSteps, NodeStates)
            ):
                self._started = True
                self._tell(Started())
            if isinstance(event, Image):
                self._show(event)
                return
            position = self._tracker.feed(event)
            if position is not None:
                self._last = _progress(position)
                self._tell(self._last)

    def _show(self, image: Image) -> None:
        node_class = self._graph.get(image.node or "", {}).get("class_type")
        if not self._preview or node_class == _SOCKET_OUTPUT:
            return
        before = self._last or Progressed(0.0, "executing")
        data = base64.b64encode(image.data).decode()
        self._tell(
            Progressed(
                **{**vars(before), "preview": f"data:{image.mime};base64,{data}"},
            )
        )

    def _tell(self, event: Started | Progressed) -> None:
        if self._on_event is not None:
            self._on_event(event)


class _Bounded:
    """A sink for an input that is fetched here, to be uploaded."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest, self.size = hashlib.sha256(), 0


def prompt_id_of(attempt_id: str) -> str:
    """Return the canonical UUID under which ComfyUI knows an attempt."""
    try:
        return str(uuid.UUID(hex=attempt_id))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"pennyreel:{attempt_id}"))


def _download_input(url: str, content: IO[bytes], deadline: Deadline) -> None:
    """Fetch the user's own URL with the user's own means: any address they name is theirs."""
    try:
        _http.download(
            url,
            _Bounded(content),
            local=True,
            pause=time.sleep,
            most=MAX_INPUT_BYTES,
            plain=True,
            deadline=deadline,
        )
    except PennyreelError as problem:
        if problem.code in {Code.RESULT_EXPIRED.value, Code.STORAGE_FAILED.value}:
            raise error(
                Code.INPUT_UNREACHABLE, str(problem), hint="Check that the URL answers from here."
            ) from None
        raise


def _ran_s(entry: Mapping[str, Any]) -> float | None:
    """Return the seconds from start to end by the server's clock, where its messages tell them."""
    messages = (entry.get("status") or {}).get("messages") or ()
    at = {m[0]: m[1]["timestamp"] for m in messages if len(m) > 1 and "timestamp" in m[1]}
    began, ended = at.get("execution_start"), at.get("execution_success")
    if not isinstance(began, (int, float)) or not isinstance(ended, (int, float)):
        return None
    return max(0.0, (ended - began) / 1000)


def _socket_images(run: Run, wanted: Outputs) -> list[Artifact]:
    found = []
    for number, image in enumerate(run.images, 1):
        node = image.node or ""
        if wanted.nodes is None or node in wanted.nodes:
            name = f"node-{node}-{number:05d}.{_SUFFIX.get(image.mime, 'bin')}"
            found.append(_inline(name, "image", image.mime, image.data, node))
    return found


def _lost_images(job: _Following, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Warn of what only the submitting process could have received."""
    prompt: Any = entry.get("prompt") or ()
    graph = prompt[2] if len(prompt) > 2 and isinstance(prompt[2], dict) else {}
    none = not job.run.images and any(
        isinstance(n, dict) and n.get("class_type") == _SOCKET_OUTPUT for n in graph.values()
    )
    if none or job.run.images_lost:
        return (f"{_SOCKET_OUTPUT} sent its images to nobody: they are lost; use SaveImage",)
    return ()


def _inline(name: str, kind: str, mime: str, data: bytes, node: str) -> Artifact:
    return Artifact(
        name=name,
        kind=kind,
        mime=mime,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        node=node,
        data=base64.b64encode(data).decode(),
    )


def _progress(position: Position) -> Progressed:
    return Progressed(
        percent=round(100 * position.fraction, 1),
        stage="executing",
        node=position.node,
        node_class=position.node_class or None,
        step=position.step,
        steps=position.steps,
        eta_s=position.eta_s,
    )


def _device(raw: Mapping[str, Any]) -> dict[str, Any]:
    vram = raw.get("vram_total")
    return {
        "name": str(raw.get("name", "?")),
        "type": str(raw.get("type", "")),
        "vram_bytes": vram if isinstance(vram, int) and vram > 0 else 0,
    }


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port
