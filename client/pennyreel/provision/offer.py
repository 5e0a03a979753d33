"""What a ComfyUI lacks and what would mend it, in a line each: for the survey and for errors."""

from __future__ import annotations

from typing import NamedTuple

from pennyreel import localcomfy
from pennyreel.config import Settings
from pennyreel.need import Lacks, Need
from pennyreel.provision.here import Here
from pennyreel.provision.plan import Plan, count, make, size_text
from pennyreel.provision.wanted import Wanted, wanted
from pennyreel.provision.words import by_hand, summary
from pennyreel_comfy.install import Installation, Layout


class Offer(NamedTuple):
    """Why a place cannot have a job as it is, and the next step."""

    why: str
    fix: str
    """A command with what it does, or what to put where; lines by "; "."""


def here(settings: Settings, need: Need, told: Lacks | None = None) -> Offer | None:
    """Return what this machine's own ComfyUI lacks; None: nothing, and it would only be started.

    Args:
        settings: whose ComfyUI.
        need: what the job requires.
        told: what it says itself, where it runs.

    Raises:
        SetupNeeded: it cannot be installed on this machine.

    """
    plan = make(settings, need, told=told)
    if plan.comfyui is not None:
        return Offer("none is installed here", _command(plan))
    if not (plan.installs or plan.by_hand or plan.start == "restart"):
        return None
    return Offer(_lacks(plan), _command(plan))


def elsewhere(settings: Settings, need: Need, told: Lacks) -> Offer:
    """Return what a ComfyUI lacks that is not ours to change: what to put where."""
    root = Layout(settings.comfyui_home.absolute()).comfy / "models"
    required = wanted(need, Here.load(root, settings=settings).manifest)
    missing = required.only(told.classes, told.models)
    steps = [
        f"clone {p.url} into its custom_nodes and install its requirements.txt"
        for p in missing.packs
    ]
    steps += [f"install the node pack that has {name}" for name in missing.classes]
    for model in missing.models:
        source = "" if model.entry is None else f" from {model.entry.url}"
        steps.append(f"put {model.name} into its models/{model.folder or '?'}{source}")
    if told.classes:
        steps.append("then start it anew")
    return Offer(_said(missing), "; ".join(steps))


def ours(settings: Settings, url: str) -> bool:
    """Whether a server at this address is one that pennyreel started."""
    server = localcomfy.running(settings.comfyui_home)
    return server is not None and server.url == url


def installed(settings: Settings) -> bool:
    """Whether there is a complete installation of ours."""
    return Installation.load(settings.comfyui_home) is not None


def _command(plan: Plan) -> str:
    told = summary(plan)
    hand = list(by_hand(plan))
    if not (plan.installs or plan.start):
        return "; ".join(hand)
    also = f"; {count(len(hand), 'part')} you have to get yourself, as it says" if hand else ""
    return f"pennyreel setup {plan.what}" + (f" ({told}{also})" if told or also else "")


def _lacks(plan: Plan) -> str:
    missing = Wanted(
        plan.what,
        plan.classes,
        (*plan.packs, *plan.unpinned),
        plan.unlisted,
    )
    return _said(missing, dict(plan.sizes), len(plan.models))


def _said(missing: Wanted, sizes: dict[str, int] | None = None, more: int = 0) -> str:
    """Return it as: lacks 2 models (7.2 GB) and the node pack ComfyUI-AnimateDiff-Evolved."""
    entries = [m.entry for m in missing.models if m.entry is not None]
    total = sum((sizes or {e.key: e.bytes or 0 for e in entries}).values())
    models = len(missing.models) + more
    parts = []
    if models:
        named = missing.models[0].key if models == 1 and missing.models else ""
        size = f" ({size_text(total)})" if total else ""
        parts.append(f"the model {named}{size}" if named else f"{count(models, 'model')}{size}")
    packs = [p.name for p in missing.packs]
    if packs:
        parts.append(f"the node pack{'s' * (len(packs) > 1)} {', '.join(packs)}")
    if missing.classes:
        many = len(missing.classes) > 1
        parts.append(f"the node class{'es' * many} {', '.join(missing.classes[:5])}")
    return "it lacks " + " and ".join(parts) if parts else "its new nodes are not loaded yet"
