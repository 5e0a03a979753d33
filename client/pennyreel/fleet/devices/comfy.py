"""The device that a running ComfyUI uses: what will really run, so the strongest source."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pennyreel.errors import PennyreelError, Unavailable
from pennyreel.fleet.devices.apple import budget
from pennyreel.fleet.devices.model import (
    APPLE,
    CPU,
    DISCRETE,
    GIB,
    HIGH,
    INTEGRATED,
    LOW,
    OTHER,
    UNKNOWN,
    Device,
)
from pennyreel.fleet.devices.names import is_integrated, vendor_of
from pennyreel.fleet.devices.outside import NotHere, ProbeFailed

# "cuda:0 NVIDIA GeForce RTX 3090 : cudaMallocAsync", "xpu:0 Intel(R) Arc(TM) A770", "mps".
_NAME = re.compile(r"(?:[a-z]+(?::\d+)?\s+)?(?P<name>.*?)(?:\s+:\s+\w+)?", re.DOTALL)
_DIRECTML = "privateuseone"


class ComfyProbe:
    """Asks /system_stats."""

    name = "comfyui"

    def __init__(self, stats: Callable[[], Mapping[str, Any]], where: str = "") -> None:
        """`stats` asks; `where` is empty for this machine, else the server's address."""
        self._stats = stats
        self._where = where

    def look(self) -> list[Device]:
        """Return its devices, the primary one first; a processor, too. A name may be empty.

        Raises:
            NotHere: no ComfyUI answers.
            ProbeFailed: one answers, and not as it should.

        """
        try:
            told = self._stats().get("devices")
        except Unavailable as problem:
            # Refused means that none runs; one that took the question and is silent does.
            if problem.retryable and not problem.info.detail.get("silent"):
                raise NotHere(str(problem)) from None
            raise ProbeFailed(str(problem)) from None
        except PennyreelError as problem:
            raise ProbeFailed(str(problem)) from None
        if not isinstance(told, list):
            raise ProbeFailed("ComfyUI's /system_stats lists no devices")
        return [self._device(entry) for entry in told[:256] if isinstance(entry, Mapping)]

    def _device(self, entry: Mapping[str, Any]) -> Device:
        kind = str(entry.get("type", "")).lower()
        name = (_NAME.fullmatch(str(entry.get("name", ""))) or {"name": ""})["name"]
        total, free = _size(entry.get("vram_total")) or None, _size(entry.get("vram_free"))
        if kind == CPU:
            return self._make("processor", OTHER, CPU, None, None, None, entry)
        if kind == "mps":  # all of the RAM, of which Metal gives a part
            most = None if total is None else budget(total)
            least = None if free is None or most is None else min(free, most)
            return self._make("", APPLE, INTEGRATED, most, least, True, entry)
        if kind == _DIRECTML or name.startswith(_DIRECTML):
            # 1 GiB stands in ComfyUI's source where DirectML has no answer.
            known = None if total == GIB else total
            return self._make("", OTHER, UNKNOWN, known, None, None, entry)
        vendor = vendor_of(name)
        inside = is_integrated(vendor, name)
        what = INTEGRATED if inside else DISCRETE
        return self._make(name, vendor, what, total, free, inside, entry)

    def _make(
        self,
        name: str,
        vendor: str,
        kind: str,
        total: int | None,
        free: int | None,
        unified: bool | None,
        entry: Mapping[str, Any],
    ) -> Device:
        index = entry.get("index")
        return Device(
            name=name,
            vendor=vendor,
            kind=kind,
            memory_total_bytes=total,
            memory_free_bytes=free,
            unified=unified,
            index=index if isinstance(index, int) and 0 <= index < 256 else None,
            source=self.name,
            # Of Apple's it knows the RAM, but not the limit that the user may have set.
            confidence=LOW if vendor == APPLE or (total is None and kind != CPU) else HIGH,
            host=self._where,
            comfyui=True,
        )


def _size(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return int(value) if 0 <= value < 1 << 50 else None
