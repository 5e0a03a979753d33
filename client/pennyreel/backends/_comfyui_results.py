"""What a ComfyUI says of a job that ended, and of itself."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from pennyreel.backends._comfyui_events import SOCKET_OUTPUT
from pennyreel.types import Health
from pennyreel_comfy.outputs import collect
from pennyreel_comfy.session import Run
from pennyreel_contract import Artifact, Outputs

_SUFFIX = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}


def artifacts(target: str, run: Run, wanted: Outputs, entry: dict[str, Any]) -> list[Artifact]:
    """Return the files, texts and websocket images that are wanted; `target`: the server's URL."""
    files, texts = collect(entry, temp=wanted.temp, nodes=wanted.nodes, kinds=wanted.kinds)
    found = [
        Artifact(
            name=f.name,
            kind=f.kind,
            mime=f.mime,
            bytes=0,  # not known before it is fetched; nor is the sha256
            sha256="",
            node=f.node,
            temp=f.temp,
            url=f"{target}/view?"
            + urlencode({"filename": f.filename, "subfolder": f.subfolder, "type": f.type}),
        )
        for f in files
    ]
    found += [_inline(t.name, "text", "text/plain", t.text.encode(), t.node) for t in texts]
    if wanted.kinds is None or "image" in wanted.kinds:
        found += _socket_images(run, wanted)
    return found


def told(name: str, target: str, stats: Mapping[str, Any]) -> Health:
    """Return what /system_stats tells of a server that answers."""
    system = stats.get("system") or {}
    versions = {
        what: str(system[key])
        for what, key in (("comfyui", "comfyui_version"), ("pytorch", "pytorch_version"))
        if system.get(key)
    }
    devices = tuple(device(d) for d in stats.get("devices") or () if isinstance(d, dict))
    first = devices[0]["name"] if devices else "no device"
    detail = f"ComfyUI {versions.get('comfyui', '?')} at {target}, {first}"
    return Health(name, True, detail, "", target, versions, devices)


def ran_s(entry: Mapping[str, Any]) -> float | None:
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


def lost_images(run: Run, entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Warn of what only the submitting process could have received."""
    prompt: Any = entry.get("prompt") or ()
    graph = prompt[2] if len(prompt) > 2 and isinstance(prompt[2], dict) else {}
    none = not run.images and any(
        isinstance(n, dict) and n.get("class_type") == SOCKET_OUTPUT for n in graph.values()
    )
    if none or run.images_lost:
        return (f"{SOCKET_OUTPUT} sent its images to nobody: they are lost; use SaveImage",)
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


def device(raw: Mapping[str, Any]) -> dict[str, Any]:
    vram = raw.get("vram_total")
    return {
        "name": str(raw.get("name", "?")),
        "type": str(raw.get("type", "")),
        "vram_bytes": vram if isinstance(vram, int) and vram > 0 else 0,
    }
