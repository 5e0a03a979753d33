"""How long the start took, stage by stage, and the one line that tells what this worker is."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pennyreel_contract import Info
from pennyreel_worker.log import log

IMPORTED = "imports"
SPAWNED = "spawned"
SDK = "sdk"
COMFYUI = "comfyui"
WARM = "warm"
READY = "ready"
"""Stages, in the order in which they are usually passed."""

_GB = 1_000_000_000


class Startup:
    """Milliseconds from the process's start, at which it passed each stage. Thread-safe.

    The interpreter's own start and the imports before this object's are in them.
    """

    def __init__(self, *, age_s: float | None = None) -> None:
        """Begin with the process; `age_s`: how old it is, where that is known better."""
        self._began = time.monotonic() - (process_age_s() if age_s is None else age_s)
        self._stages: dict[str, int] = {}
        self._lock = threading.Lock()

    def mark(self, stage: str) -> None:
        """Note that a stage has been passed. The first time counts."""
        with self._lock:
            self._stages.setdefault(stage, round(self.uptime_s() * 1000))

    @property
    def stages(self) -> dict[str, int]:
        """Milliseconds by stage, in the order of passing."""
        with self._lock:
            return dict(self._stages)

    def uptime_s(self) -> float:
        """Seconds since the process began."""
        return time.monotonic() - self._began


def announce(info: Info, startup: Startup) -> None:
    """Log what this worker is, has, and took to start: one line, or one JSON object."""
    facts = facts_of(info, startup)
    log.info("%s", _line(info, facts), extra={"event": "ready", **facts})


def facts_of(info: Info, startup: Startup) -> dict[str, Any]:
    """Return what the start-up line tells."""
    return {
        "versions": {"contract": _contract(info), **{k: v for k, v in info.versions.items() if v}},
        "gpu": None if info.gpu is None else info.gpu.model_dump(exclude={"seconds"}),
        "models": {folder: len(names) for folder, names in info.models.items()},
        "nodes": len(info.nodes),
        "packs": dict(info.packs),
        "templates": len(info.templates),
        "storage": info.storage,
        "startup_ms": startup.stages,
    }


def process_age_s(
    stat: Path = Path("/proc/self/stat"), now: Callable[[], float] | None = None
) -> float:
    """Return how long ago this process began, to a hundredth of a second; 0 where unknown."""
    try:
        # The name, in parentheses, may hold anything: field 22 is the 20th behind it.
        fields = stat.read_text("utf-8", "replace").rpartition(")")[2].split()
        began = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        clock = now() if now else time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return max(0.0, clock - began)


def _contract(info: Info) -> str:
    least, most = info.contract_min, info.contract_max
    return str(most) if least == most else f"{least}-{most}"


def _line(info: Info, facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    gpu = info.gpu
    device = "an unknown device"
    if gpu is not None:
        memory = f" {gpu.vram_bytes / _GB:.1f} GB" if gpu.vram_bytes else ""
        device = f"{gpu.name or gpu.type}{memory}"
    models = ", ".join(f"{n} {folder}" for folder, n in facts["models"].items()) or "none"
    packs = ", ".join(f"{n} {_short(v)}".rstrip() for n, v in facts["packs"].items()) or "none"
    stages = ", ".join(f"{stage} {ms} ms" for stage, ms in facts["startup_ms"].items())
    return (
        f"ready: {versions}; on {device}; {facts['nodes']} nodes; packs: {packs}; "
        f"models: {models}; {facts['templates']} templates; "
        f"storage {info.storage}; since start: {stages}"
    )


def _short(version: str) -> str:
    """Return a commit as people quote it; any other version as it is."""
    return version[:8] if len(version) == 40 else version
