"""A plan for a person and for a program."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from pennyreel.provision.plan import RATE_MBIT, Plan, count, minutes_text, size_text
from pennyreel.provision.wanted import ModelWanted, PackWanted
from pennyreel.routing.explain import table

LICENCE = "GPL-3.0"
"""ComfyUI's own."""


def summary(plan: Plan) -> str:
    """Return what it would do, in a few words: installs ComfyUI, 2 models: 4.3 GB, …"""
    parts = ["ComfyUI"] * (plan.comfyui is not None)
    parts += [count(len(plan.packs), "node pack")] * bool(plan.packs)
    parts += [count(len(plan.models), "model")] * bool(plan.models)
    if not parts:
        return {"start": "starts ComfyUI", "restart": "starts ComfyUI anew"}.get(plan.start, "")
    size = size_text(plan.download_bytes) if plan.download_bytes else "unknown size"
    more = " or more" if plan.unsized and plan.download_bytes else ""
    return f"installs {', '.join(parts)}: {size}{more}, about {minutes_text(plan.minutes)}"


def lines(plan: Plan) -> Iterator[str]:
    """Yield the plan as a table, with its sums and what it takes for granted."""
    rows = list(_rows(plan))
    if rows:
        yield from table([("to install", "download", "licence", "from"), *rows])
        yield ""
        more = f" and {count(plan.unsized, 'part')} of unknown size" if plan.unsized else ""
        yield (
            f"{size_text(plan.download_bytes)} to download{more}, "
            f"{size_text(plan.disk_bytes)} on disk of {size_text(plan.free_bytes)} free in "
            f"{plan.root}"
        )
        yield f"about {minutes_text(plan.minutes)}, assuming a line of {RATE_MBIT} Mbit/s"
    if plan.start == "start":
        yield "then ComfyUI is started"
    elif plan.start == "restart":
        yield "then ComfyUI is started anew: it loads nodes when it starts"
    yield from warnings(plan)
    yield from by_hand(plan)


def warnings(plan: Plan) -> Iterator[str]:
    """Yield what is not as it should be, and stops nothing yet."""
    if plan.slow:
        how = f"pennyreel quote {shlex.quote(plan.what)}"
        yield f"warning: it wants a GPU, and none is used here; how slow that is: {how}"
    for told in plan.refused.values():
        yield f"warning: {told}"
    for key in plan.differing:
        yield f"warning: {key} is there, but is not the file that the list of models means"


def by_hand(plan: Plan) -> Iterator[str]:
    """Yield what only the user can get, each with how."""
    for model in plan.unlisted:
        yield f"no list of models knows {model.key}: {adding(model)}"
    for pack in plan.unpinned:
        yield (
            f"the node pack {pack.name} is not pinned here: choose a commit of {pack.url}, then "
            f"{installing(plan, pack)}"
        )
    for name in plan.classes:
        yield (
            f"no known node pack has the class {name}: find it at registry.comfy.org, then "
            f"{installing(plan, None)}"
        )


def command(plan: Plan) -> str:
    """Return the command that the plan is of."""
    return f"pennyreel setup {shlex.quote(plan.what)}"


def adding(model: ModelWanted) -> str:
    """Return the command that gets a model that no list knows."""
    told = f"pennyreel models add URL --folder {model.folder or 'FOLDER'}"
    pinned = model.name.endswith((".safetensors", ".sft", ".gguf"))
    return f"{told} --name {shlex.quote(model.name)}" + ("" if pinned else " --sha256 SHA256")


def installing(plan: Plan, pack: PackWanted | None) -> str:
    """Return the command that installs a node pack."""
    what = "URL@COMMIT" if pack is None else pack.pinned
    return f"python -m pennyreel_comfy.install.nodes {shlex.quote(str(plan.root))} {what}"


def plain_url(url: str) -> str:
    """Return a model's URL without its query and user, where signatures and passwords are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def to_json(plan: Plan) -> dict[str, Any]:
    """Return plain data; sizes in bytes, None = not known."""
    return {
        "for": plan.what,
        "root": str(plan.root),
        "comfyui": None if plan.comfyui is None else plan.comfyui.to_dict(),
        "node_packs": [_pack_json(p) for p in plan.packs],
        "models": [
            {
                "folder": e.folder,
                "name": e.name,
                "licence": e.licence,
                "url": plain_url(e.url),
                "sha256": e.sha256,
                "download_bytes": plan.sizes.get(e.key),
                "refused": plan.refused.get(e.key),
            }
            for e in plan.models
        ],
        "differing": list(plan.differing),
        "slow": plan.slow,
        "start": plan.start or None,
        "download_bytes": plan.download_bytes,
        "disk_bytes": plan.disk_bytes,
        "free_bytes": plan.free_bytes,
        "unknown_sizes": plan.unsized,
        "minutes": round(plan.minutes, 1),
        "assumed_mbit_per_s": RATE_MBIT,
        "by_hand": {
            "models": [
                {"folder": m.folder or None, "name": m.name, "next": adding(m)}
                for m in plan.unlisted
            ],
            "node_packs": [{**_pack_json(p), "next": installing(plan, p)} for p in plan.unpinned],
            "classes": list(plan.classes),
        },
    }


def _rows(plan: Plan) -> Iterator[tuple[str, ...]]:
    if plan.comfyui is not None:
        own = plan.comfyui
        origin = {"release": "github.com", "horde": "PyPI"}.get(own.source, own.source)
        title = f"ComfyUI {own.comfyui_version}, torch {own.torch} for {own.device}"
        yield title, size_text(own.download_mb * 1e6), LICENCE, origin
    for pack in plan.packs:
        size = "?" if pack.bytes is None else size_text(pack.bytes)
        yield f"node pack {pack.name}", size, pack.licence, f"{_host(pack.url)} {pack.commit[:10]}"
    for entry in plan.models:
        known = plan.sizes.get(entry.key)
        yield entry.key, "?" if known is None else size_text(known), entry.licence, _host(entry.url)


def _pack_json(pack: PackWanted) -> dict[str, Any]:
    return {
        "name": pack.name,
        "url": pack.url,
        "commit": pack.commit or None,
        "licence": pack.licence or None,
        "download_bytes": pack.bytes,
    }


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
