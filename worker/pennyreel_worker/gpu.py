"""What a job took of the GPU: its memory at the peak, and its price.

NVIDIA's library is asked where it is, since it sees all memory of the device, cuDNN's and cuBLAS'
too; else ComfyUI's /system_stats. One worker owns its GPU, so what is in use there is its job's.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from typing_extensions import Self

from pennyreel_contract import Gpu

NVML_S = 0.2
STATS_S = 1.0
"""How often memory is looked at: ComfyUI's own answer costs it some milliseconds each time."""

LEAVE_S = 1.0
"""A last look at a server that hangs may not keep the job: its thread then ends by itself."""

_NAME = re.compile(r"(?:[a-z]+:\d+\s+)?(?P<name>.*?)(?:\s+:\s*\w*)?", re.DOTALL)

_SAME = 0.05
"""Two tools may differ by this share on how much memory one device has."""

Read = Callable[[], int]


class GpuMemory:
    """Reads how much memory is in use on the worker's GPU."""

    def __init__(self, read: Read | None, interval_s: float = NVML_S) -> None:
        """`read` returns bytes, and raises anything where it cannot; None: there is no GPU."""
        self._read = read
        self._interval_s = interval_s

    def peak(self) -> PeakMemory:
        """Return a context that measures the peak while it lasts."""
        return PeakMemory(self._read, self._interval_s)

    @classmethod
    def find(
        cls, stats: Callable[[], Mapping[str, Any]], *, visible: str | None = None
    ) -> GpuMemory:
        """Choose how to read. Never raises: without a GPU, or a way to ask it, nothing is read.

        Args:
            stats: asks ComfyUI's /system_stats.
            visible: CUDA_VISIBLE_DEVICES, as ComfyUI has it.

        """
        try:
            device = _device(stats())
        except Exception:  # noqa: BLE001 - it decorates: no job fails for it
            return cls(None)
        if device.get("type") != "cuda":  # ROCm's devices say cuda, too
            return cls(None)
        total = int(device.get("vram_total") or 0)
        read = _nvml(visible, total)
        if read is not None:
            return cls(read)
        return cls(lambda: _used(_device(stats())), STATS_S)


class PeakMemory:
    """The most memory in use while the context lasted, in `bytes`; None where nobody could tell."""

    def __init__(self, read: Read | None, interval_s: float) -> None:
        """Nothing is read before the context is entered."""
        self.bytes: int | None = None
        self._read = read
        self._interval_s = interval_s
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._read is not None:
            self._thread = threading.Thread(
                target=self._watch, args=(self._read,), name="pennyreel-vram", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(LEAVE_S)

    def _watch(self, read: Read) -> None:
        # The device may fall off its bus, ComfyUI may die: what was seen so far stays.
        with contextlib.suppress(Exception):
            while True:
                self.bytes = max(self.bytes or 0, read())
                if self._over.wait(self._interval_s):
                    break
            self.bytes = max(self.bytes, read())


def gpu_of(device: Mapping[str, Any]) -> Gpu:
    """Return a device as /system_stats tells it, by the name that its maker gave it.

    ComfyUI's is "cuda:0 NVIDIA L4 : cudaMallocAsync" there: nobody would find that in a price list.
    """
    told = _NAME.fullmatch(str(device.get("name", "")))
    memory = device.get("vram_total")
    return Gpu(
        name=told["name"] if told else "",
        type=str(device.get("type", "")),
        vram_bytes=int(memory) if memory else None,
    )


def cost_microusd(gpu_seconds: float, usd_per_s: float | None) -> int | None:
    """Return the price of the seconds that a job had the GPU, in millionths of a dollar.

    Rounded up. It leaves out what no job can be charged with alone: the worker's start, its idle
    time, and the transfers beside another job. None where the operator has set no price.
    """
    if usd_per_s is None:
        return None
    # The decimals that were written, not the binary fractions next to them.
    price = Decimal(repr(usd_per_s)) * Decimal(repr(gpu_seconds)) * 1_000_000
    return int(price.to_integral_value(ROUND_CEILING))


def _device(stats: Mapping[str, Any]) -> Mapping[str, Any]:
    device = (stats.get("devices") or [{}])[0]
    return device if isinstance(device, Mapping) else {}


def _used(device: Mapping[str, Any]) -> int:
    return int(device["vram_total"]) - int(device["vram_free"])


def _nvml(visible: str | None, total: int) -> Read | None:
    """Return a reader of NVML's figure, or None where it is not there or sees another device."""
    try:
        import pynvml  # noqa: PLC0415 - only where there is a GPU

        pynvml.nvmlInit()
        handle = _handle(pynvml, (visible or "0").split(",")[0].strip())
        whole = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    except Exception:  # noqa: BLE001 - no driver, no permission, no such device: ask ComfyUI
        return None
    # CUDA may count devices in another order than NVML does. The wrong one is worse than none.
    if total and abs(whole - total) > _SAME * total:
        return None
    return lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)


def _handle(pynvml: Any, first: str) -> Any:
    """Return the device that CUDA_VISIBLE_DEVICES names first: an index, or (the begin of) a UUID.

    Raises:
        Exception: NVML's own, or ours where it names none.

    """
    if first.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(first))
    if first.startswith("MIG-"):
        return pynvml.nvmlDeviceGetHandleByUUID(first)
    for index in range(pynvml.nvmlDeviceGetCount()):
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        uuid = pynvml.nvmlDeviceGetUUID(handle)  # older ones return bytes
        uuid = uuid.decode() if isinstance(uuid, bytes) else str(uuid)
        if first and uuid.startswith(first):
            return handle
    raise LookupError(first)
