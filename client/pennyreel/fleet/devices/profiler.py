"""The GPUs of Macs with Intel's processor, by system_profiler."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pennyreel.fleet.devices.apple import parse
from pennyreel.fleet.devices.model import (
    APPLE,
    DISCRETE,
    GIB,
    INTEGRATED,
    LOW,
    MEDIUM,
    Device,
)
from pennyreel.fleet.devices.names import is_integrated, vendor_of
from pennyreel.fleet.devices.outside import Run

COMMAND = ("/usr/sbin/system_profiler", "SPDisplaysDataType")

_SIZE = re.compile(r"(\d{1,6})\s*(MB|GB)")


class ProfilerProbe:
    """Runs `system_profiler SPDisplaysDataType`."""

    name = "system_profiler"

    def __init__(self, run: Run) -> None:
        """`run` runs it."""
        self._run = run

    def look(self) -> list[Device]:
        """Return what is not Apple's own; that is for sysctl to tell, with its memory."""
        found = [self._device(block) for block in _blocks(self._run(COMMAND))]
        return [device for device in found if device is not None]

    def _device(self, block: str) -> Device | None:
        told = parse(block)
        name = told.get("Chipset Model", "")
        vendor = vendor_of(f"{name} {told.get('Vendor', '')}")
        if not name or vendor == APPLE:
            return None
        total = _size(told.get("VRAM (Total)", ""))
        # "VRAM (Dynamic, Max)" is a share of the RAM, so that of graphics inside the processor.
        inside = is_integrated(vendor, name) or any(k.startswith("VRAM (Dynamic") for k in told)
        return Device(
            name=name,
            vendor=vendor,
            kind=INTEGRATED if inside else DISCRETE,
            memory_total_bytes=None if inside else total,
            unified=inside,
            source=self.name,
            confidence=LOW if inside or total is None else MEDIUM,
        )


def _blocks(text: str) -> Iterator[str]:
    """Yield what stands from one `Chipset Model:` to the next."""
    parts = re.split(r"(?m)^(?=\s*Chipset Model:)", text)
    yield from (p for p in parts if "Chipset Model:" in p)


def _size(text: str) -> int | None:
    found = _SIZE.search(text)
    return None if found is None else int(found[1]) * (GIB if found[2] == "GB" else 1 << 20)
