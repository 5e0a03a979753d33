"""The info request: what this worker is and has. A queue worker takes no inbound HTTP."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.session import Session
from pennyreel_comfy.templates import list_templates
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import Gpu, Info
from pennyreel_contract.version import __version__
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.settings import Settings

ALWAYS = ("cancel", "info", "progress", "replay", "stock_dialect")
"""What every worker of this version can do."""

_AT_ONCE = 4
_NO_MODELS = {"configs", "custom_nodes"}
"""Folders that ComfyUI lists among those of models: the second with each file of each node pack."""


def describe(
    comfy: Comfy,
    settings: Settings,
    *,
    session: Session | None = None,
    nodes: Collection[str] | None = None,
    packs: Mapping[str, str] | None = None,
    features: Iterable[str] = (),
    uptime_s: float | None = None,
) -> Info:
    """Ask ComfyUI and say what is there.

    Args:
        comfy: the worker's own.
        settings: likewise.
        session: with a living server; None: the present one, which may have to be started.
        nodes: classes of nodes, where they are known: else 0.8 MB are read.
        packs: versions of node packs, where they are known.
        features: what this worker can do beyond `ALWAYS` and what the settings tell.
        uptime_s: since its start.

    Raises:
        SetupNeeded: ComfyUI does not start.
        Unavailable: it does not answer.

    """
    # `ready` may end what runs: it is for when nothing does.
    living = session or comfy.living() or comfy.ready(Deadline(settings.start_s))
    http = living.http
    return Info(
        versions=_versions(http),
        gpu=comfy.gpu(),
        models=_models(http, comfy.models.jobs.files()),
        nodes=tuple(sorted(http.object_info() if nodes is None else nodes)),
        templates=tuple(t.name for t in list_templates(settings.template_dirs)),
        storage="s3" if settings.bucket else "inline",
        worker_id=settings.worker_id,
        uptime_s=None if uptime_s is None else round(uptime_s, 1),
        packs=dict(packs or {}),
        limits=limits_of(settings),
        features=features_of(settings, comfy.gpu(), features),
    )


def limits_of(settings: Settings) -> dict[str, int | float]:
    """Return the limits that a client may want to know beforehand."""
    limits: dict[str, int | float] = {
        "input_max_bytes": settings.input_max_bytes,
        "input_timeout_s": settings.input_timeout_s,
        "model_max_bytes": settings.model_max_bytes,
        "timeout_s": settings.default_timeout_s,
        "timeout_max_s": settings.max_timeout_s,
    }
    if settings.inline_max_bytes is not None:
        limits["inline_max_bytes"] = settings.inline_max_bytes
    return limits


def features_of(settings: Settings, gpu: Gpu | None, more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return what this worker can do, by name: clients look for the names that they know."""
    found = {*ALWAYS, *more}
    if settings.previews:
        found.add("preview")
    if settings.bucket is not None:
        found.add("s3")
    if settings.gpu_usd_per_s is not None:
        found.add("cost")
    if gpu is not None and gpu.type == "cuda":
        found.add("peak_vram")
    if settings.comfy_org_api_key is not None:
        found.add("api_nodes")
    return tuple(sorted(found))


def _versions(http: ComfyHttp) -> dict[str, str]:
    system: dict[str, Any] = http.system_stats().get("system", {})
    return {
        "pennyreel": __version__,
        "comfyui": str(system.get("comfyui_version", "")),
        "torch": str(system.get("pytorch_version", "")),
        "python": str(system.get("python_version", "")).split(" ")[0],
        "runpod": _version("runpod"),
    }


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _models(http: ComfyHttp, others: AbstractSet[str]) -> dict[str, tuple[str, ...]]:
    """Ask for every folder, some at once: on a network volume each may take a while.

    `others`: files that jobs have brought, which are told to nobody.
    """
    folders = [folder for folder in http.models() if folder not in _NO_MODELS]
    with ThreadPoolExecutor(_AT_ONCE, "info") as pool:
        found = list(pool.map(http.models, folders))
    own = [tuple(name for name in names if name not in others) for names in found]
    return {folder: names for folder, names in zip(folders, own, strict=True) if names}
