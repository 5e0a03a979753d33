"""Which device ComfyUI should use: a pure choice over facts, and the probe that finds the facts."""

from __future__ import annotations

import platform
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

try:
    import pynvml
except ImportError:  # pragma: no cover
    pynvml = None

DEVICES = ("cpu", "cuda", "mps", "rocm")

_AMD_VENDOR = "0x1002"
# Graphics inside a CPU report a carve-out of about this, and ROCm's torch supports few of them.
_MIN_VRAM_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Facts:
    """What this machine is and has."""

    system: str
    """As `platform.system()` calls it: Linux, Darwin, Windows."""
    machine: str
    """As `platform.machine()` calls it: x86_64, arm64, AMD64, …"""
    nvidia: str | None = None
    """The name of an NVIDIA GPU whose driver answers."""
    amd: bool = False
    """A Radeon with memory of its own is in this (Linux) machine."""
    kfd: bool = False
    """The kernel driver that ROCm needs is loaded: /dev/kfd."""


@dataclass(frozen=True)
class DeviceChoice:
    """A device, and why it."""

    device: str
    reason: str


def choose_device(wanted: str, facts: Facts) -> DeviceChoice:
    """Choose the device: the one wanted, or for `auto` the best that the facts allow."""
    if wanted != "auto":
        return DeviceChoice(wanted, "because you asked for it")
    if facts.nvidia:
        return DeviceChoice("cuda", f"because {facts.nvidia} was found")
    if facts.system == "Darwin" and facts.machine == "arm64":
        return DeviceChoice("mps", "because this is a Mac with Apple silicon")
    if facts.system == "Linux" and facts.amd and facts.kfd:
        return DeviceChoice("rocm", "because an AMD GPU was found")
    if facts.amd:
        return DeviceChoice("cpu", "because an AMD GPU was found, but not its driver (/dev/kfd)")
    return DeviceChoice("cpu", "because no GPU was found")


def probe() -> Facts:
    """Find out what this machine has. Takes milliseconds; never raises."""
    return Facts(
        system=platform.system(),
        machine=platform.machine(),
        nvidia=_nvidia(),
        amd=_amd(Path("/sys/class/drm")),
        kfd=Path("/dev/kfd").exists(),
    )


def _nvidia() -> str | None:
    if pynvml is not None:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlInit()
            try:
                if pynvml.nvmlDeviceGetCount() > 0:
                    name = pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))
                    return name.decode() if isinstance(name, bytes) else str(name)
            finally:
                pynvml.nvmlShutdown()
    return _nvidia_smi()


def _nvidia_smi() -> str | None:
    # Inside WSL and some containers NVML is not on the library path while this tool is there.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = done.stdout.strip().splitlines()
    return names[0].strip() if done.returncode == 0 and names else None


def _amd(drm: Path) -> bool:
    for vendor in drm.glob("card*/device/vendor"):
        with suppress(OSError, ValueError):
            if vendor.read_text(encoding="ascii").strip() == _AMD_VENDOR:
                memory = vendor.with_name("mem_info_vram_total").read_text(encoding="ascii")
                if int(memory) >= _MIN_VRAM_BYTES:
                    return True
    return False
