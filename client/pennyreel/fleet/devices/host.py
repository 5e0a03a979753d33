"""The processor and the memory of this machine, by psutil and where the system names them."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from pennyreel.fleet.devices.apple import SYSCTL
from pennyreel.fleet.devices.model import Host
from pennyreel.fleet.devices.outside import ProbeFailed, Registry, Run

_WINDOWS_CPU = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
_LINUX_KEYS = ("model name", "Model", "cpu model")


def memory() -> Host:
    """Return the memory alone: total and what could be had now, in bytes."""
    try:
        told = psutil.virtual_memory()
    except (OSError, psutil.Error, RuntimeError, ValueError):
        return Host()
    return Host(ram_total_bytes=int(told.total), ram_free_bytes=int(told.available))


def host(name: Callable[[], str]) -> Host:
    """Return both; `name` tells the processor's."""
    ram = memory()
    return Host(
        cpu=name() or platform.processor() or platform.machine(),
        cores=psutil.cpu_count(logical=False),
        threads=psutil.cpu_count(),
        ram_total_bytes=ram.ram_total_bytes,
        ram_free_bytes=ram.ram_free_bytes,
    )


def linux_cpu(root: Path) -> str:
    """Return the processor's name by /proc/cpuinfo; boards with ARM often have none there."""
    try:
        with (root / "proc/cpuinfo").open(encoding="utf-8", errors="replace") as file:
            lines = [line.partition(":") for line in file.read(65536).splitlines()]
    except OSError:
        return ""
    told = {key.strip(): value.strip() for key, _, value in lines}
    return next((told[key][:80] for key in _LINUX_KEYS if told.get(key)), "")


def mac_cpu(run: Run) -> str:
    """Return the processor's name by sysctl."""
    try:
        return run([SYSCTL, "-n", "machdep.cpu.brand_string"]).strip()[:80]
    except ProbeFailed:
        return ""


def windows_cpu(registry: Registry) -> str:
    """Return the processor's name by the registry."""
    try:
        value = registry.values(_WINDOWS_CPU).get("ProcessorNameString")
    except OSError:
        return ""
    return value.strip()[:80] if isinstance(value, str) else ""
