"""The info request: what this worker is and has. A queue worker takes no inbound HTTP."""

from __future__ import annotations

from typing import Any

from pennyreel_comfy.templates import list_templates
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import Info
from pennyreel_contract.version import __version__
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.settings import Settings


def describe(comfy: Comfy, settings: Settings) -> Info:
    """Ask ComfyUI and say what is there.

    Raises:
        SetupNeeded: ComfyUI does not start.
        Unavailable: it does not answer.

    """
    http = comfy.ready(Deadline(settings.start_s)).http
    system: dict[str, Any] = http.system_stats().get("system", {})
    folders = {folder: tuple(http.models(folder)) for folder in http.models()}
    return Info(
        versions={
            "pennyreel": __version__,
            "comfyui": str(system.get("comfyui_version", "")),
            "torch": str(system.get("pytorch_version", "")),
            "python": str(system.get("python_version", "")).split(" ")[0],
        },
        gpu=comfy.gpu(),
        models={folder: names for folder, names in folders.items() if names},
        nodes=tuple(sorted(http.object_info())),
        templates=tuple(t.name for t in list_templates(settings.template_dirs)),
        storage="s3" if settings.bucket else "inline",
    )
