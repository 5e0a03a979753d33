"""The ComfyUI that answers here, whose it is, and what it says it lacks."""

from __future__ import annotations

from dataclasses import dataclass

from pennyreel import localcomfy
from pennyreel.backends.comfyui import ComfyBackend
from pennyreel.config import Settings
from pennyreel.errors import PennyreelError
from pennyreel.need import Lacks, Need


@dataclass(frozen=True)
class Running:
    """One that answers."""

    url: str
    ours: bool
    """Pennyreel installed and started it; only such a one is changed or restarted."""
    told: Lacks | None
    """What it lacks; None = it does not say."""
    busy: bool


def look(settings: Settings, need: Need) -> Running | None:
    """Return ours where it runs, else whatever answers at the configured address, else None."""
    server = localcomfy.running(settings.comfyui_home)
    try:
        backend = ComfyBackend.open(settings, server.url if server else None)
    except PennyreelError:  # its address makes no sense, or its key must not travel there
        return None
    try:
        if not backend.health().reachable:
            return None
        queue = backend.http.queue()
        busy = bool(queue.running or queue.pending)
        return Running(backend.target, server is not None, backend.lacks(need), busy)
    except PennyreelError:
        return None
    finally:
        backend.close()
