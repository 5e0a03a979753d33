"""PCI addresses, and the names of PCI devices."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_BUS = re.compile(
    r"(?:(?P<domain>[0-9a-f]{4,8}):)?(?P<bus>[0-9a-f]{2}):(?P<slot>[0-9a-f]{2}\.[0-7])"
)
_LISTS = ("usr/share/misc/pci.ids", "usr/share/hwdata/pci.ids", "var/lib/pciutils/pci.ids")


def bus_of(text: str | None) -> str:
    """Return a PCI address as Linux writes it; NVIDIA puts eight digits in front. "" = none."""
    found = _BUS.fullmatch((text or "").strip().lower())
    if found is None:
        return ""
    return f"{int(found['domain'] or '0', 16):04x}:{found['bus']}:{found['slot']}"


def product(root: Path, vendor: int, device: int) -> str | None:
    """Return a device's name by the system's list of PCI ids, where it has one."""
    file = next((root / place for place in _LISTS if (root / place).is_file()), None)
    if file is None:
        return None
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            return _find(lines, f"{vendor:04x} ", f"\t{device:04x} ")
    except OSError:
        return None


def _find(lines: Iterable[str], vendor: str, device: str) -> str | None:
    """Return the name in the line that begins so, among those of the vendor."""
    ours = False
    for line in lines:
        if not line.startswith(("\t", "#", "\n")):
            if ours:
                return None
            ours = line.startswith(vendor)
        elif ours and line.startswith(device):
            return line[len(device) :].strip()[:80] or None
    return None
