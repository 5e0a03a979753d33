"""Does what a plan says: the installer's and the model store's work, in their order.

What is done stays done: after an interruption the next plan has only the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from pennyreel import localcomfy
from pennyreel.config import Settings
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Need
from pennyreel.provision import running
from pennyreel.provision.here import Here, raise_failed
from pennyreel.provision.plan import Plan, size_text
from pennyreel_comfy import install as installer
from pennyreel_comfy.install import Installation, Report, Tools, nodes
from pennyreel_comfy.install.packs import Pack
from pennyreel_comfy.models import Pulled, Rules

Say = Callable[[str], None]

RESTART = "pennyreel comfyui stop; pennyreel comfyui start"


@dataclass(frozen=True)
class Views:
    """How progress is shown; each is entered around the work that it shows."""

    installing: Callable[[], AbstractContextManager[Report]]
    downloading: Callable[[Here], AbstractContextManager[Rules]]
    say: Say


@dataclass(frozen=True)
class Done:
    """What came of a plan."""

    comfyui: str | None
    """The version that was installed; None = it was there."""
    packs: tuple[str, ...]
    models: tuple[Pulled, ...]
    url: str | None
    """Where ComfyUI runs."""
    left: str
    """A command that is left to the user: it was busy."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "comfyui": self.comfyui,
            "node_packs": list(self.packs),
            "models": [
                {"model": m.entry.key, "how": m.how, "path": str(m.path), "bytes": m.size}
                for m in self.models
            ],
            "url": self.url,
            "next": self.left or None,
            "seconds": round(self.seconds, 1),
        }


def perform(
    plan: Plan,
    settings: Settings,
    need: Need,
    views: Views,
    *,
    device: str = "auto",
    tools: Tools | None = None,
) -> Done:
    """Install, download and start what the plan names.

    Raises:
        SetupNeeded, JobFailed, BadRequest: a part did not come; what came before it stays.
        JobCancelled: it was interrupted; the same.

    """
    began = time.monotonic()
    check_room(plan)
    version = _comfyui(plan, views, device, tools)
    packs = _packs(plan, views, tools)
    models = _models(plan, settings, views)
    url, left = _serve(plan, settings, need, views.say)
    return Done(version, packs, models, url, left, time.monotonic() - began)


def check_room(plan: Plan) -> None:
    """Raise where the disk has too little room, before anything is done."""
    if plan.room_bytes > plan.free_bytes:
        raise error(
            Code.DISK_FULL,
            f"too little room on the disk of {plan.root}: {size_text(plan.free_bytes)} are free, "
            f"and {size_text(plan.room_bytes)} are needed",
            hint="Free some room, or name a home on another disk in PENNYREEL_HOME.",
        )


def _comfyui(plan: Plan, views: Views, device: str, tools: Tools | None) -> str | None:
    if plan.comfyui is None:
        return None
    with views.installing() as report:
        return installer.install(
            plan.root, device=device, report=report, tools=tools
        ).comfyui_version


def _packs(plan: Plan, views: Views, tools: Tools | None) -> tuple[str, ...]:
    if not plan.packs:
        return ()
    installation = Installation.load(plan.root)
    if installation is None:
        raise error(Code.NOT_INSTALLED, f"there is no ComfyUI in {plan.root}")
    packs = [Pack(p.name, "git", p.url, p.commit) for p in plan.packs]
    with views.installing() as report:
        nodes.add_packs(installation, packs, report=report, tools=tools)
    return tuple(p.name for p in packs)


def _models(plan: Plan, settings: Settings, views: Views) -> tuple[Pulled, ...]:
    if not plan.models:
        return ()
    here = Here.load(settings=settings)
    with views.downloading(here) as rules:
        done: Sequence[Pulled] = here.store.pull(plan.models, rules)
    raise_failed([one for one in done if one.problem is not None], len(done))
    return tuple(done)


def _serve(plan: Plan, settings: Settings, need: Need, say: Say) -> tuple[str | None, str]:
    """Start ComfyUI where that was planned; return where it runs, and what is left to do."""
    now = running.look(settings, need)
    if now is not None and not plan.start:
        return now.url, ""
    if not plan.start:
        return None, ""
    if now is not None and plan.start == "restart" and now.busy:
        return now.url, RESTART
    if now is not None and plan.start == "restart":
        localcomfy.restart(plan.root, report=say)
    else:
        localcomfy.start(plan.root, url=settings.comfyui_url, report=say)
    now = running.look(settings, need)
    if now is not None and now.told and not plan.by_hand:
        raise _still(now)
    return (now.url if now else None), ""


def _still(now: running.Running) -> PennyreelError:
    told = now.told
    names = [] if told is None else [*told.classes, *(f"{f}/{n}" for f, n in told.models)]
    return error(
        Code.NOT_CONFIGURED,
        f"the ComfyUI at {now.url} still lacks {', '.join(names[:8])}",
        hint="Read why in its log: pennyreel comfyui logs",
    )
