"""GPUs as Linux' kernel lists them: AMD's with their memory, Intel's, and NVIDIA's by name only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from pennyreel.fleet.devices.model import (
    AMD,
    DISCRETE,
    GIB,
    HIGH,
    INTEGRATED,
    INTEL,
    LOW,
    MEDIUM,
    NVIDIA,
    UNKNOWN,
    Device,
)
from pennyreel.fleet.devices.names import PCI_VENDORS
from pennyreel.fleet.devices.outside import NotHere, read, read_int
from pennyreel.fleet.devices.pci import bus_of, product

_CARD = re.compile(r"card(\d+)")
_TITLES = {AMD: "AMD", INTEL: "Intel", NVIDIA: "NVIDIA"}
# Intel's graphics inside a processor sit at this address, cards never do.
_INTEL_INSIDE = "0000:00:02.0"


class SysfsProbe:
    """Reads /sys/class/drm. Files: docs.kernel.org/gpu/amdgpu/driver-misc.html."""

    name = "sysfs"

    def __init__(self, root: Path) -> None:
        """`root` is / but in tests."""
        self._root = root

    def look(self) -> list[Device]:
        """Return the GPUs of the three vendors; raises NotHere where the kernel lists none."""
        drm = self._root / "sys/class/drm"
        try:
            cards = sorted(p for p in drm.iterdir() if _CARD.fullmatch(p.name))
        except OSError:
            raise NotHere("/sys/class/drm") from None
        found = [self._device(card / "device") for card in cards]
        return [device for device in found if device is not None]

    def _device(self, folder: Path) -> Device | None:
        vendor = PCI_VENDORS.get(read_int(folder / "vendor") or 0)
        if vendor not in _TITLES:
            return None
        told = _lines(read(folder / "uevent"))
        bus = bus_of(told.get("PCI_SLOT_NAME"))
        name, driver = self._name(folder, vendor), told.get("DRIVER", "")
        if vendor == AMD:
            return _amd(folder, name, driver, bus)
        if vendor == INTEL:
            return _intel(folder, name, driver, bus)
        # The memory is for NVIDIA's own tools to tell; if they do not, the driver does not work.
        return Device(name, vendor, source="sysfs", confidence=LOW, driver=driver, bus=bus)

    def _name(self, folder: Path, vendor: str) -> str:
        number = read_int(folder / "device")
        made = read_int(folder / "vendor") or 0
        known = None if number is None else product(self._root, made, number)
        title = _TITLES[vendor]
        name = read(folder / "product_name") or known
        if name:
            return name if name.lower().startswith(title.lower()) else f"{title} {name}"
        return f"{title} GPU" if number is None else f"{title} GPU {number:#06x}"


def _amd(folder: Path, name: str, driver: str, bus: str) -> Device:
    total, used = (read_int(folder / f"mem_info_vram_{what}") for what in ("total", "used"))
    shared = read_int(folder / "mem_info_gtt_total")
    inside = _amd_inside(folder, total, shared)
    return Device(
        name=name,
        vendor=AMD,
        kind=UNKNOWN if inside is None else INTEGRATED if inside else DISCRETE,
        memory_total_bytes=total,
        memory_free_bytes=None if total is None or used is None else max(0, total - used),
        shared_bytes=shared,
        unified=inside,
        utilisation_percent=read_int(folder / "gpu_busy_percent"),
        source="sysfs",
        confidence=LOW if total is None else HIGH,
        driver=driver,
        bus=bus,
    )


def _amd_inside(folder: Path, total: int | None, shared: int | None) -> bool | None:
    """Whether it is graphics inside a processor. Their sizes alone do not tell: both are set by
    the user, and a large card in a machine with much RAM has more GTT than memory, too.
    """
    try:
        sensors = list(folder.glob("hwmon/hwmon*"))
    except OSError:
        sensors = []
    # The voltage of the northbridge: docs.kernel.org/gpu/amdgpu/thermal.html, "APUs only".
    if any((place / "in1_input").exists() for place in sensors):
        return True
    if any((place / "fan1_input").exists() for place in sensors):
        return False
    if total is None or shared is None:
        return None
    # No card of the last decade has so little; it is the share that a BIOS sets aside.
    return True if total <= GIB < shared else (False if total >= 6 * GIB > shared else None)


def _intel(folder: Path, name: str, driver: str, bus: str) -> Device:
    inside = bus == _INTEL_INSIDE
    # Some versions of Intel's drivers tell the memory of a card, most do not.
    tiles = [read_int(f) for f in sorted(folder.glob("tile*/physical_vram_size_bytes"))]
    total = sum(size or 0 for size in tiles) or read_int(folder.parent / "lmem_total_bytes")
    return Device(
        name=name,
        vendor=INTEL,
        kind=INTEGRATED if inside else DISCRETE if bus else UNKNOWN,
        memory_total_bytes=None if inside else total or None,
        unified=inside if bus else None,
        source="sysfs",
        confidence=MEDIUM if total and not inside else LOW,
        driver=driver,
        bus=bus,
    )


def _lines(text: str | None) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in (text or "").splitlines())
    return {key: value.strip() for key, _, value in pairs}
