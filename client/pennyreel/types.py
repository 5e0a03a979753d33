"""What the library hands out: handles, events of a job, its result, a backend's health."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol, TypeAlias
from urllib.parse import quote, unquote

from pennyreel_contract import Code, ErrorInfo, error

_BACKEND = re.compile(r"^[a-z][a-z0-9_.-]{0,39}$")
_HANDLE = re.compile(r"^(?P<backend>[^:]+):(?P<target>\S*)/(?P<remote>[^/@\s]+)@(?P<attempt>\S+)$")


@dataclass(frozen=True)
class Handle:
    """Names one submitted job for ever: `str()` prints it, `parse` reads it in another process.

    It holds no secret. `target` is the backend's own: an endpoint id, or a server's URL.
    """

    backend: str
    target: str
    remote_id: str
    attempt_id: str

    def __str__(self) -> str:
        # What separates the parts is escaped inside them: '@' everywhere, '/' in the remote id.
        return (
            f"{self.backend}:{quote(self.target, safe='/:[]')}"
            f"/{quote(self.remote_id, safe='')}@{quote(self.attempt_id, safe='')}"
        )

    @classmethod
    def parse(cls, text: str) -> Handle:
        """Read what `str(handle)` printed.

        Raises:
            BadRequest: it is no handle.

        """
        found = _HANDLE.match(text.strip())
        if found is None or not _BACKEND.match(found["backend"]):
            raise error(
                Code.BAD_REQUEST,
                f"{text[:200]!r} is not a job's handle",
                hint="It looks like runpod:ENDPOINT/JOB@ATTEMPT; submit and run print it.",
            )
        return cls(
            backend=found["backend"],
            target=unquote(found["target"]),
            remote_id=unquote(found["remote"]),
            attempt_id=unquote(found["attempt"]),
        )


@dataclass(frozen=True)
class Artifact:
    """A file that a job made, saved on this machine."""

    name: str
    kind: str
    """image, video, audio, model3d, text or file."""
    mime: str
    bytes: int
    sha256: str
    path: Path
    node: str = ""


@dataclass(frozen=True)
class Attempt:
    """One try on one backend, and how it ended: done, or an error's code."""

    backend: str
    attempt_id: str
    outcome: str


@dataclass(frozen=True)
class RunResult:
    """What a job made, where it ran and how long each part of it took."""

    job_id: str
    backend: str
    handle: Handle
    artifacts: tuple[Artifact, ...]
    timings: Mapping[str, float]
    """Seconds as seen from here: queue, execute, fetch, total."""
    remote_timings: Mapping[str, float] = field(default_factory=dict)
    """Seconds as the backend tells them."""
    gpu: Mapping[str, Any] | None = None
    attempts: tuple[Attempt, ...] = ()
    warnings: tuple[str, ...] = ()
    seed: int | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    cost_microusd: int | None = None
    """Of all attempts, in millionths of a dollar; None: nobody reckoned it, or nobody knows."""
    replayed: bool = False
    """The worker had this attempt's result already: nothing was rendered or billed again."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Where the artifacts are."""
        return tuple(a.path for a in self.artifacts)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; paths are absolute, times in seconds."""
        return _record(self)


@dataclass(frozen=True)
class Chosen:
    """Where the job goes first, and why."""

    backend: str
    why: str
    """With price and time, for a person."""


@dataclass(frozen=True)
class Told:
    """What the router did about a job, and why: a failure, a move, a wait."""

    text: str
    code: str = ""


@dataclass(frozen=True)
class Submitted:
    """The backend has the job; `handle` finds it again."""

    handle: Handle


@dataclass(frozen=True)
class Queued:
    """It waits for a worker."""


@dataclass(frozen=True)
class Started:
    """A worker has it."""


@dataclass(frozen=True)
class Progressed:
    """How far it is. `percent` is of the whole job; it falls only where another backend has it."""

    percent: float
    stage: str
    node: str | None = None
    node_class: str | None = None
    step: int | None = None
    steps: int | None = None
    eta_s: float | None = None
    preview: str | None = field(default=None, repr=False)
    """A small picture as a data: URI, where asked for."""


@dataclass(frozen=True)
class ArtifactSaved:
    """A file is complete on disk."""

    artifact: Artifact


@dataclass(frozen=True)
class Warned:
    """Something a person should know; the job goes on."""

    text: str


@dataclass(frozen=True)
class Detached:
    """The last event of a job that was let go: it goes on without this client."""

    handle: Handle


@dataclass(frozen=True)
class Finished:
    """The last event. `outcome` is done, or the error's code."""

    outcome: str
    error: ErrorInfo | None = None


JobEvent: TypeAlias = (
    Chosen
    | Told
    | Submitted
    | Queued
    | Started
    | Progressed
    | ArtifactSaved
    | Warned
    | Detached
    | Finished
)


@dataclass(frozen=True)
class Health:
    """What a call that costs nothing says of a backend."""

    backend: str
    reachable: bool
    detail: str
    """One line for a person."""
    hint: str = ""
    """What to do when it is not reachable."""
    target: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[Mapping[str, Any], ...] = ()
    workers: Mapping[str, int] = field(default_factory=dict)
    jobs: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return _record(self)


class Sink(Protocol):
    """Where a download goes: a file in the making."""

    @property
    def size(self) -> int:
        """Bytes written so far."""

    @property
    def sha256(self) -> str:
        """Of them, in hex."""

    def write(self, data: bytes) -> None:
        """Append; raises JobCancelled when the job is no longer wanted."""

    def restart(self) -> None:
        """Begin anew."""


def event_json(event: JobEvent) -> dict[str, Any]:
    """Return an event as plain data, named by its key `event`; absent values are left out."""
    body = {name: value for name, value in _record(event).items() if value is not None}
    return {"event": _snake(type(event).__name__), **body}


def _record(value: Any) -> dict[str, Any]:
    return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}


def _plain(value: Any) -> Any:
    if isinstance(value, (Handle, Path)):
        return str(value.absolute() if isinstance(value, Path) else value)
    if isinstance(value, ErrorInfo):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return _record(value) if hasattr(value, "__dataclass_fields__") else value


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
