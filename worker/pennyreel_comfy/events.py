"""ComfyUI's websocket messages as a closed set of dataclasses. Parsing never raises.

Source: recordings of ComfyUI 0.3.64 and 0.3.75 in tests/comfy/recordings, server.py of 0.38.1.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias


@dataclass(frozen=True)
class QueueStatus:
    """How many jobs the server has; `sid` comes first on a new connection."""

    remaining: int
    sid: str | None = None


@dataclass(frozen=True)
class Started:
    """The job left the queue."""

    prompt_id: str


@dataclass(frozen=True)
class Cached:
    """These nodes need not run again."""

    prompt_id: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class Executing:
    """A node begins; `node=None` means that the job has ended, well or badly."""

    prompt_id: str
    node: str | None


@dataclass(frozen=True)
class NodeSteps:
    """A node is at step `value` of `max`."""

    prompt_id: str
    node: str
    value: float
    max: float


@dataclass(frozen=True)
class NodeStates:
    """Every node touched so far: id -> (value, max, state)."""

    prompt_id: str
    nodes: Mapping[str, tuple[float, float, str]]


@dataclass(frozen=True)
class Executed:
    """A node with UI output finished."""

    prompt_id: str
    node: str
    output: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class Succeeded:
    """All nodes ran. /history may lag a few milliseconds behind this."""

    prompt_id: str


@dataclass(frozen=True)
class Errored:
    """A node raised."""

    prompt_id: str


@dataclass(frozen=True)
class Interrupted:
    """Somebody interrupted the job. Broadcast to every client."""

    prompt_id: str


@dataclass(frozen=True)
class Image:
    """A preview, or what SaveImageWebsocket made; without metadata, ids are None."""

    mime: str
    data: bytes = field(repr=False)
    prompt_id: str | None = None
    node: str | None = None


@dataclass(frozen=True)
class Other:
    """A message that is not about a job's course, or not understood."""

    type: str


Event: TypeAlias = (
    QueueStatus
    | Started
    | Cached
    | Executing
    | NodeSteps
    | NodeStates
    | Executed
    | Succeeded
    | Errored
    | Interrupted
    | Image
    | Other
)


def parse(message: str | bytes) -> Event:
    """Read one websocket message. What cannot be read becomes `Other`."""
    try:
        if isinstance(message, bytes):
            return _binary(message)
        body = json.loads(message, parse_constant=_refuse)
        return _text(str(body["type"]), body.get("data") or {})
    except (
        ArithmeticError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        AttributeError,
        struct.error,
    ):
        return Other("unreadable")


def _text(  # noqa: PLR0911 - one return an event
    kind: str, data: dict[str, Any]
) -> Event:
    if kind == "status":
        remaining = data.get("status", {}).get("exec_info", {}).get("queue_remaining", 0)
        return QueueStatus(int(remaining), data.get("sid"))
    if "prompt_id" not in data:
        return Other(kind)
    prompt = str(data["prompt_id"])
    if kind == "execution_start":
        return Started(prompt)
    if kind == "execution_cached":
        return Cached(prompt, tuple(map(str, data.get("nodes", ()))))
    if kind == "executing":
        return Executing(prompt, None if data.get("node") is None else str(data["node"]))
    if kind == "progress":
        return NodeSteps(prompt, str(data["node"]), float(data["value"]), float(data["max"]))
    if kind == "progress_state":
        return NodeStates(prompt, {str(k): _state(v) for k, v in data["nodes"].items()})
    if kind == "executed":
        return Executed(prompt, str(data["node"]), data.get("output") or {})
    if kind == "execution_success":
        return Succeeded(prompt)
    if kind == "execution_error":
        return Errored(prompt)
    if kind == "execution_interrupted":
        return Interrupted(prompt)
    return Other(kind)


def _id(value: object) -> str | None:
    return None if value is None else str(value)


def _refuse(name: str) -> None:
    raise ValueError(name)


def _state(node: dict[str, Any]) -> tuple[float, float, str]:
    return float(node["value"]), float(node["max"]), str(node["state"])


def _binary(message: bytes) -> Event:
    """Read a binary frame: a big-endian type, then what that type says (server.py)."""
    (kind,) = struct.unpack_from(">I", message)
    if kind == 1:  # PREVIEW_IMAGE: format (1 JPEG, 2 PNG), then the image
        (fmt,) = struct.unpack_from(">I", message, 4)
        return Image("image/png" if fmt == 2 else "image/jpeg", message[8:])
    if kind == 4:  # PREVIEW_IMAGE_WITH_METADATA: length of JSON, JSON, image
        (length,) = struct.unpack_from(">I", message, 4)
        meta = json.loads(message[8 : 8 + length])
        return Image(
            str(meta.get("image_type") or "image/jpeg"),
            message[8 + length :],
            _id(meta.get("prompt_id")),
            _id(meta.get("node_id")),
        )
    return Other(f"binary {kind}")
