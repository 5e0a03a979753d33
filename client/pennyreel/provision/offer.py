"""What a ComfyUI lacks and what would mend it, in a line each: for the survey and for errors."""

from __future__ import annotations

from typing import NamedTuple

from pennyreel import localcomfy
from pennyreel.config import Settings
from pennyreel.need import Lacks, Need
from pennyreel.provision.here import Here
from pennyreel.provision.plan import Plan, make, size_text
from pennyreel.provision.wanted import ModelWanted, Wanted, wanted
from pennyreel.provision.words import by_hand, command, plain_url, summary
from pennyreel_comfy.install import Layout

MOST_STEPS = 8
"""So many things to do are told in a line; `pennyreel setup --dry-run` has all."""


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
    whose = "the installed one" if told is None else "it"
    return Offer(f"{whose} {_lacks(plan)}", _command(plan))


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
    steps += [_put(model) for model in missing.models]
    unsure = required.only((), told.unsure).models if told.classes else ()
    steps += [f"{_put(model)}, unless it is there" for model in unsure]
    last = ["then start it anew"] if told.classes else []
    return Offer(f"it {_said(missing)}", "; ".join([*_few(steps), *last]))


def ours(settings: Settings, url: str) -> bool:
    """Whether a server at this address is one that pennyreel started."""
    server = localcomfy.running(settings.comfyui_home)
    return server is not None and server.url == url


def _put(model: ModelWanted) -> str:
    source = "" if model.entry is None else f" from {plain_url(model.entry.url)}"
    return f"put {model.name} into its models/{model.folder or '?'}{source}"


def _few(steps: list[str]) -> list[str]:
    """Return so many that a person reads them."""
    more = len(steps) - MOST_STEPS
    return steps if more <= 0 else [*steps[:MOST_STEPS], f"and {more} more"]


def _command(plan: Plan) -> str:
    told, hand = summary(plan), _few(list(by_hand(plan)))
    if hand and not plan.installs:
        return "; ".join([*hand, *["then pennyreel comfyui start"] * (plan.start == "start")])
    return "; ".join([f"{command(plan)} ({told})", *hand])


def _lacks(plan: Plan) -> str:
    listed = tuple(ModelWanted(e.folder, e.name, e) for e in plan.models)
    packs, models = (*plan.packs, *plan.unpinned), (*listed, *plan.unlisted)
    return _said(Wanted(plan.what, plan.classes, packs, models))


def _said(missing: Wanted) -> str:
    """Return it as: lacks 2 models (7.2 GB) and the node pack ComfyUI-AnimateDiff-Evolved."""
    parts = []
    if missing.models:
        total = sum(m.entry.bytes or 0 for m in missing.models if m.entry is not None)
        size = f" ({size_text(total)})" if total else ""
        one = f"the model {missing.models[0].key}"
        parts.append((one if len(missing.models) == 1 else f"{len(missing.models)} models") + size)
    if missing.packs:
        many = len(missing.packs) > 1
        parts.append(f"the node pack{'s' * many} {', '.join(p.name for p in missing.packs[:5])}")
    if missing.classes:
        many = len(missing.classes) > 1
        parts.append(f"the node class{'es' * many} {', '.join(missing.classes[:5])}")
    return "lacks " + " and ".join(parts) if parts else "has not loaded its new nodes yet"
