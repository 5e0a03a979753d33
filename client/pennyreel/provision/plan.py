"""What `pennyreel setup` would do: what is missing here, how large it is, how long it takes."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pennyreel import localcomfy
from pennyreel.config import Settings
from pennyreel.need import Lacks, Need
from pennyreel.provision.disk import Disk
from pennyreel.provision.here import Here
from pennyreel.provision.wanted import ModelWanted, PackWanted, Wanted, wanted
from pennyreel_comfy import install as installer
from pennyreel_comfy.install import Installation, Layout, Tools
from pennyreel_comfy.install import Plan as ComfyPlan
from pennyreel_comfy.install.devices import probe
from pennyreel_comfy.install.lock import read_lock
from pennyreel_comfy.install.planning import Request, make_plan
from pennyreel_comfy.models import Entry
from pennyreel_comfy.models.asking import ask
from pennyreel_comfy.models.parts import MIN_FREE_BYTES
from pennyreel_comfy.models.store import part_of
from pennyreel_comfy.waiting import CancelToken

RATE_MBIT = 100
"""The line that minutes are reckoned for, in Mbit/s; the installer reckons with the same."""

PACKS_MINUTES = 1.0
"""What node packs take besides their download: ComfyUI imports all nodes once, to be sure."""

_UNPACKED = 3
"""Times its download that a node pack has on the disk, with what it requires."""


@dataclass(frozen=True)
class Plan:
    """What is missing, and what comes of it. Sizes in bytes."""

    what: str
    """A template's name, or a workflow's file: what `pennyreel setup` was called with."""
    root: Path
    """The installation's folder."""
    comfyui: ComfyPlan | None = None
    """ComfyUI itself, where it is missing."""
    packs: tuple[PackWanted, ...] = ()
    models: tuple[Entry, ...] = ()
    sizes: dict[str, int] = field(default_factory=dict)
    """What is left to download of each model, by `Entry.key`, where that is known."""
    refused: dict[str, str] = field(default_factory=dict)
    """Why a model's host does not give it, by `Entry.key`."""
    differing: tuple[str, ...] = ()
    """Models that are there with another size than their list says, by folder/name."""
    unpinned: tuple[PackWanted, ...] = ()
    """Node packs whose commit is not known: to be installed by hand."""
    unlisted: tuple[ModelWanted, ...] = ()
    """Models that no list knows: to be had by hand."""
    classes: tuple[str, ...] = ()
    """Node classes that are missing and that no known pack has."""
    start: str = ""
    """start, restart, or "": ComfyUI runs, or is not to be started."""
    free_bytes: int = 0
    """On the disk of `root`."""
    slow: bool = False
    """The job wants a GPU, and ComfyUI is, or would be, for a CPU."""

    @property
    def installs(self) -> bool:
        """Whether anything is to be installed or downloaded."""
        return bool(self.comfyui or self.packs or self.models)

    @property
    def by_hand(self) -> bool:
        """Whether something is missing that only the user can get."""
        return bool(self.unpinned or self.unlisted or self.classes)

    @property
    def empty(self) -> bool:
        """Whether nothing is missing and nothing is to be started."""
        return not (self.installs or self.by_hand or self.start)

    @property
    def unsized(self) -> int:
        """How many parts have a size that is not known."""
        packs = sum(p.bytes is None for p in self.packs)
        return packs + sum(e.key not in self.sizes for e in self.models)

    @property
    def download_bytes(self) -> int:
        """All that is to come, as far as it is known."""
        own = 0 if self.comfyui is None else self.comfyui.download_mb * 1_000_000
        return own + self._packs_bytes + sum(self.sizes.values())

    @property
    def disk_bytes(self) -> int:
        """What it has on the disk in the end."""
        own = 0 if self.comfyui is None else self.comfyui.disk_mb * 1_000_000
        return own + _UNPACKED * self._packs_bytes + sum(self.sizes.values())

    @property
    def room_bytes(self) -> int:
        """What has to be free: pip needs more while it installs."""
        own = 0
        if self.comfyui is not None:
            own = max(self.comfyui.free_mb, self.comfyui.disk_mb) * 1_000_000
        rest = _UNPACKED * self._packs_bytes + sum(self.sizes.values())
        return own + rest + (MIN_FREE_BYTES if self.installs else 0)

    @property
    def minutes(self) -> float:
        """About how long it takes, by a line of RATE_MBIT."""
        total = 0.0 if self.comfyui is None else float(self.comfyui.minutes)
        loaded = self._packs_bytes + sum(self.sizes.values())
        return total + PACKS_MINUTES * bool(self.packs) + loaded * 8 / (RATE_MBIT * 1e6) / 60

    @property
    def _packs_bytes(self) -> int:
        return sum(p.bytes or 0 for p in self.packs)


def make(
    settings: Settings,
    need: Need,
    *,
    what: str | None = None,
    device: str = "auto",
    start: bool = True,
    told: Lacks | None = None,
    tools: Tools | None = None,
) -> Plan:
    """Return what is missing on this machine. Changes nothing, and asks no host of models.

    Args:
        settings: whose `comfyui_home` has the installation, or will have it.
        need: what the job requires.
        what: how `pennyreel setup` is called for it; the need's template, unless given.
        device: for ComfyUI's torch, as `installer.plan` takes it.
        start: whether ComfyUI is to be started, too.
        told: what the running ComfyUI says it lacks; its disk is looked at besides.
        tools: the installer's. Without them it is not asked which of its sources answer.

    Raises:
        SetupNeeded: ComfyUI cannot be installed on this machine.

    """
    root = settings.comfyui_home
    layout = Layout(root.absolute())
    here = Here.load(layout.comfy / "models", settings=settings)
    required = wanted(need, here.manifest, what)
    installed = Installation.load(root)
    running = installed is not None and localcomfy.running(root) is not None
    disk = Disk(layout.comfy)
    missing = _missing(disk, required, installed is not None, told)
    own = None if installed else comfy_plan(device, tools)
    runs_on = installed.device if installed else own.device if own else ""
    packs = [p for p in missing.packs if p.commit]
    entries = [m.entry for m in missing.models if m.entry is not None]
    return Plan(
        what=required.what,
        root=root,
        comfyui=own,
        packs=tuple(packs),
        models=tuple(entries),
        sizes={e.key: max(0, e.bytes - _begun(here, e)) for e in entries if e.bytes},
        differing=tuple(m.key for m in required.models if disk.differs(m)),
        unpinned=tuple(p for p in missing.packs if not p.commit),
        unlisted=tuple(m for m in missing.models if m.entry is None),
        classes=missing.classes,
        start=_start(start, running, bool(packs or (told and told.classes))),
        free_bytes=shutil.disk_usage(_nearest(root)).free,
        slow=runs_on == "cpu" and bool(need.vram_min_bytes),
    )


def asked(plan: Plan, settings: Settings, allow_hosts: Sequence[str] = ()) -> Plan:
    """Return the plan with what the models' hosts say of their sizes and of who may have them."""
    here = Here.load(Layout(plan.root.absolute()).comfy / "models", settings=settings)
    told = ask(plan.models, here.hosts(allow_hosts), cancel=CancelToken())
    sizes = dict(plan.sizes)
    for entry in plan.models:
        size = told[entry.key].size
        if entry.key not in sizes and size is not None:
            sizes[entry.key] = max(0, size - _begun(here, entry))
    refused = {
        key: f"{key}: {one.refusal}. {one.refusal.hint}"
        for key, one in told.items()
        if one.refusal is not None
    }
    return replace(plan, sizes=sizes, refused=refused)


def comfy_plan(device: str, tools: Tools | None) -> ComfyPlan:
    """Return what installing ComfyUI takes; without tools as if all its sources answered."""
    if tools is not None:
        return installer.plan(device=device, tools=tools)
    request = Request(device=device)
    return make_plan(request, lock=read_lock(), facts=probe(), reachable=lambda _: True)


def _missing(disk: Disk, required: Wanted, installed: bool, told: Lacks | None) -> Wanted:
    """Return what is missing: by ComfyUI's own word where it runs, else by its disk."""
    if not installed:
        # ComfyUI's own classes come with it; which of the others are its own is seen then.
        return replace(required, classes=())
    seen = disk.lacks(required)
    if told is None:
        classes, models = seen.classes, {*seen.models, *seen.unsure}
    else:
        classes = told.classes
        models = {*told.models, *(m for m in told.unsure if m in {*seen.models, *seen.unsure})}
    # A pack that has its folder needs no other one, but a ComfyUI that was started after it came.
    found = required.only(tuple(classes), tuple(models))
    packs = tuple(p for p in found.packs if not disk.has_pack(p))
    return replace(found, packs=packs)


def _start(wish: bool, running: bool, new_nodes: bool) -> str:
    if not wish:
        return ""
    if not running:
        return "start"
    return "restart" if new_nodes else ""


def _begun(here: Here, entry: Entry) -> int:
    """Return the bytes of an earlier download that broke off."""
    try:
        return part_of(here.store.root, entry.key).stat().st_size
    except OSError:
        return 0


def _nearest(path: Path) -> Path:
    return next(p for p in (path, *path.parents) if p.exists())


def count(many: int, what: str) -> str:
    """Return 1 model, 2 models."""
    return f"{many} {what}" if many == 1 else f"{many} {what}s"


def size_text(size: float) -> str:
    """Return bytes for a person: 450 MB, 2.13 GB."""
    if size < 1e6:
        return f"{max(1, math.ceil(size / 1e3))} kB" if size else "0 MB"
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.3g} GB"


def minutes_text(minutes: float) -> str:
    """Return minutes for a person, never too few."""
    whole = math.ceil(minutes - 0.05)
    return "1 minute" if whole <= 1 else f"{whole} minutes"
