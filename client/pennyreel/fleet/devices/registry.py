"""GPUs as Windows' registry lists them: what each display driver wrote there."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pennyreel.fleet.devices.model import (
    DISCRETE,
    INTEGRATED,
    LOW,
    MEDIUM,
    Device,
)
from pennyreel.fleet.devices.names import PCI_VENDORS, is_integrated
from pennyreel.fleet.devices.outside import NotHere, Registry

DISPLAYS = r"SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}"
# Never MemorySize or WMI's AdapterRAM beside it: they are 32 bits wide and end at 4 GB.
MEMORY = "HardwareInformation.qwMemorySize"

_ENTRY = re.compile(r"\d{4}")
_ID = re.compile(r"PCI\\VEN_([0-9A-F]{4})", re.IGNORECASE)


class RegistryProbe:
    """Reads the class of display adapters."""

    name = "registry"

    def __init__(self, registry: Registry) -> None:
        """`registry` is Windows' own but in tests."""
        self._registry = registry

    def look(self) -> list[Device]:
        """Return the GPUs of the known vendors; Windows' own basic displays have no PCI vendor."""
        try:
            entries = [e for e in self._registry.subkeys(DISPLAYS) if _ENTRY.fullmatch(e)]
        except OSError:
            raise NotHere("display adapters") from None
        found = [self._device(f"{DISPLAYS}\\{entry}") for entry in sorted(entries)]
        return [device for device in found if device is not None]

    def _device(self, place: str) -> Device | None:
        try:
            values = self._registry.values(place)
        except OSError:
            return None
        made = _ID.match(_text(values, "MatchingDeviceId"))
        name = _text(values, "DriverDesc")
        vendor = None if made is None else PCI_VENDORS.get(int(made[1], 16))
        if vendor is None or not name:
            return None
        inside = is_integrated(vendor, name)
        total = _size(values.get(MEMORY))
        return Device(
            name=name,
            vendor=vendor,
            kind=INTEGRATED if inside else DISCRETE,
            memory_total_bytes=total,
            unified=inside,
            source=self.name,
            # Drivers leave their entry behind when a card goes.
            confidence=LOW if total is None else MEDIUM,
            driver=_text(values, "DriverVersion"),
        )


def _text(values: Mapping[str, object], name: str) -> str:
    value = values.get(name)
    return value.strip("\0 ") if isinstance(value, str) else ""


def _size(value: object) -> int | None:
    """Return a size; drivers write it as a number or as bytes, lowest first."""
    if isinstance(value, bytes) and len(value) in {4, 8}:
        value = int.from_bytes(value, "little")
    if isinstance(value, bool) or not isinstance(value, int):
        return None
    return value if 0 < value < 1 << 50 else None
