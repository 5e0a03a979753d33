"""NVIDIA's GPUs by NVML, the library of their driver, through `nvidia-ml-py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pennyreel.fleet.devices.model import (
    DISCRETE,
    HIGH,
    INTEGRATED,
    LOW,
    MEDIUM,
    NVIDIA,
    Device,
    Host,
)
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed
from pennyreel.fleet.devices.pci import bus_of

_NO_DRIVER = ("NVMLError_LibraryNotFound", "NVMLError_DriverNotLoaded", "NVMLError_NoPermission")


class NvmlProbe:
    """Asks NVML."""

    name = "nvml"

    def __init__(self, library: Callable[[], Any], host: Callable[[], Host]) -> None:
        """Keep them; `library` imports pynvml, `host` tells the RAM where GPU and CPU share it."""
        self._library = library
        self._host = host

    def look(self) -> list[Device]:
        """Return its GPUs.

        Raises:
            NotHere: there is no NVIDIA driver.
            ProbeFailed: there is one, and it does not work.

        """
        try:
            nvml = self._library()
        except ImportError:
            raise NotHere("nvidia-ml-py") from None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as problem:
            if type(problem).__name__ in _NO_DRIVER:
                raise NotHere(str(problem)) from None
            raise ProbeFailed(f"NVIDIA's driver: {problem}") from None
        try:
            driver = _text(_ask(nvml, nvml.nvmlSystemGetDriverVersion)) or ""
            count = int(nvml.nvmlDeviceGetCount())
            return [self._device(nvml, i, driver) for i in range(min(count, 256))]
        except nvml.NVMLError as problem:
            raise ProbeFailed(f"NVIDIA's driver: {problem}") from None
        finally:
            _ask(nvml, nvml.nvmlShutdown)

    def _device(self, nvml: Any, index: int, driver: str) -> Device:
        handle = _ask(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is None:  # it fell off its bus; the others work on
            name = "NVIDIA GPU that does not answer"
            return Device(name, NVIDIA, DISCRETE, index=index, source=self.name, confidence=LOW)
        load = _ask(nvml, nvml.nvmlDeviceGetUtilizationRates, handle)
        pci = _ask(nvml, nvml.nvmlDeviceGetPciInfo, handle)
        found = Device(
            name=_text(_ask(nvml, nvml.nvmlDeviceGetName, handle)) or "NVIDIA GPU",
            vendor=NVIDIA,
            kind=DISCRETE,
            unified=False,
            utilisation_percent=None if load is None else int(load.gpu),
            index=index,
            source=self.name,
            confidence=HIGH,
            driver=driver,
            bus="" if pci is None else bus_of(_text(pci.busId)),
        )
        try:
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        except nvml.NVMLError as problem:
            if type(problem).__name__ == "NVMLError_NotSupported":
                return in_ram(found, self._host())
            return replace(found, confidence=LOW)
        return replace(
            found, memory_total_bytes=int(memory.total), memory_free_bytes=int(memory.free)
        )


def in_ram(found: Device, host: Host) -> Device:
    """Give a GPU that shares the machine's RAM that for its memory.

    NVIDIA's tools do not tell the memory of such a one, the DGX Spark's GB10:
    docs.nvidia.com/dgx/dgx-spark/known-issues.html.
    """
    return replace(
        found,
        kind=INTEGRATED,
        unified=True,
        confidence=MEDIUM,
        memory_total_bytes=host.ram_total_bytes,
        memory_free_bytes=host.ram_free_bytes,
    )


def _ask(nvml: Any, question: Callable[..., Any], *arguments: Any) -> Any:
    """Return the answer, or None where this GPU or driver has none."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def _text(value: object) -> str | None:
    """Return a text; older versions of the library return bytes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip("\0 ")
    return value.strip() if isinstance(value, str) else None
