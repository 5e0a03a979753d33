"""NVIDIA's GPUs by `nvidia-smi`, where NVML cannot be loaded: WSL, some containers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from pennyreel.fleet.devices.model import DISCRETE, HIGH, LOW, NVIDIA, Device, Host
from pennyreel.fleet.devices.nvml import in_ram
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed, Run, number
from pennyreel.fleet.devices.pci import bus_of

# By absolute path: a program of that name elsewhere on PATH is not NVIDIA's.
LINUX = (
    "/usr/bin/nvidia-smi",
    "/usr/lib/wsl/lib/nvidia-smi",
    "/usr/local/nvidia/bin/nvidia-smi",
    "/opt/bin/nvidia-smi",
    "/run/current-system/sw/bin/nvidia-smi",
)
WINDOWS_OLD = "C:/Program Files/NVIDIA Corporation/NVSMI/nvidia-smi.exe"

# The name comes last: it may hold a comma, which this tool does not quote.
FIELDS = "index,memory.total,memory.free,utilization.gpu,driver_version,pci.bus_id,name"
QUERY = (f"--query-gpu={FIELDS}", "--format=csv,noheader,nounits")

_ABSENT = ("[n/a]", "[not supported]", "n/a")
_NOTHING = ("no devices were found", "couldn't communicate with the nvidia driver")


class SmiProbe:
    """Runs `nvidia-smi --query-gpu`."""

    name = "nvidia-smi"

    def __init__(self, paths: Sequence[str | Path], run: Run, host: Callable[[], Host]) -> None:
        """Keep them; the first of `paths` that exists is asked."""
        self._paths = [str(p) for p in paths]
        self._run = run
        self._host = host

    def look(self) -> list[Device]:
        """Return its GPUs.

        Raises:
            NotHere: there is no such tool, or no GPU of NVIDIA.
            ProbeFailed: it failed.

        """
        rows = [line.split(",", 6) for line in self._output().splitlines() if line.strip()]
        found = [self._device(row) for row in rows if len(row) == 7]
        if rows and not found:
            raise ProbeFailed("nvidia-smi gave an answer that cannot be read")
        return found

    def _output(self) -> str:
        for path in self._paths:
            output = self._ask(path)
            if output is not None:
                return output
        raise NotHere("nvidia-smi")

    def _ask(self, path: str) -> str | None:
        """Return the tool's output, or None where it is not at that path."""
        try:
            return self._run([path, *QUERY])
        except NotHere:
            return None
        except ProbeFailed as problem:
            if any(text in str(problem).lower() for text in _NOTHING):
                raise NotHere(str(problem)) from None
            raise

    def _device(self, row: Sequence[str]) -> Device:
        index, total, free, load, driver, bus, name = (cell.strip() for cell in row)
        found = Device(
            name=name or "NVIDIA GPU",
            vendor=NVIDIA,
            kind=DISCRETE,
            unified=False,
            utilisation_percent=number(load),
            index=number(index),
            source=self.name,
            confidence=HIGH,
            driver=driver if driver[:1].isdigit() else "",
            bus=bus_of(bus),
        )
        if total.lower() in _ABSENT:
            return in_ram(found, self._host())
        if not number(total):  # [Insufficient Permissions], [GPU requires reset], …
            return replace(found, confidence=LOW)
        return replace(found, memory_total_bytes=_mib(total), memory_free_bytes=_mib(free))


def _mib(cell: str) -> int | None:
    value = number(cell)
    return None if value is None else value << 20
