"""The probes of this very machine, by its system and the settings."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pennyreel.config import Settings, is_loopback
from pennyreel.fleet.devices import outside
from pennyreel.fleet.devices.apple import AppleProbe
from pennyreel.fleet.devices.comfy import ComfyProbe
from pennyreel.fleet.devices.detector import Detector, FirstOf, Probe
from pennyreel.fleet.devices.host import host, linux_cpu, mac_cpu, memory, windows_cpu
from pennyreel.fleet.devices.model import Devices, Host
from pennyreel.fleet.devices.nvml import NvmlProbe
from pennyreel.fleet.devices.outside import run_command
from pennyreel.fleet.devices.profiler import ProfilerProbe
from pennyreel.fleet.devices.registry import RegistryProbe
from pennyreel.fleet.devices.smi import LINUX, WINDOWS_OLD, SmiProbe
from pennyreel.fleet.devices.sysfs import SysfsProbe

ASK_S = 1.5
"""How long a ComfyUI may think about /system_stats."""


def detect(settings: Settings | None = None, *, override: str | None = None) -> Devices:
    """Return the GPUs, the processor and the memory of this machine. Never raises, under 2 s.

    Args:
        settings: names a ComfyUI to ask, and the user's own word (`devices`).
        override: the same word, before that of the settings: `RTX 3090:24GB`, or `none`.

    """
    return detector(settings, override=override).detect()


def detector(settings: Settings | None = None, *, override: str | None = None) -> Detector:
    """Return what looks again and again, as `detect` does once."""
    wanted = override
    probes, cpu = _here()
    if settings is not None:
        wanted = settings.devices if override is None else override
        probes.append(ComfyProbe(partial(_stats, settings), _where(settings.comfyui_url)))
    return Detector(probes, cpu, wanted)


def _here() -> tuple[list[Probe], Callable[[], Host]]:
    nvml = NvmlProbe(_pynvml, memory)
    found: list[Probe]
    if sys.platform == "win32":
        registry = outside.WindowsRegistry()
        paths = (outside.system_folder() / "nvidia-smi.exe", WINDOWS_OLD)
        smi = SmiProbe(paths, run_command, memory)
        found = [FirstOf(nvml, smi), RegistryProbe(registry)]
        return found, partial(host, partial(windows_cpu, registry))
    if sys.platform == "darwin":
        found = [AppleProbe(run_command, memory), ProfilerProbe(run_command)]
        return found, partial(host, partial(mac_cpu, run_command))
    root = Path("/")
    found = [FirstOf(nvml, SmiProbe(LINUX, run_command, memory)), SysfsProbe(root)]
    return found, partial(host, partial(linux_cpu, root))


def _pynvml() -> Any:
    import pynvml  # noqa: PLC0415 - a broken installation of it is one probe's failure, not ours

    return pynvml


def _stats(settings: Settings) -> Mapping[str, Any]:
    # Its library takes a while to import, and who has an override needs it not.
    from pennyreel.backends.comfyui import ComfyBackend  # noqa: PLC0415

    backend = ComfyBackend.open(settings)
    try:
        return backend.http.system_stats(timeout=ASK_S)
    finally:
        backend.close()


def _where(url: str) -> str:
    try:
        return "" if is_loopback(url) else url.partition("?")[0].rstrip("/")[:200]
    except ValueError:
        return "(what is no URL)"
