"""The user's own word on the GPUs: `RTX 3090:24GB`, several with commas, or `none`.

A name may be anybody's, so it is the memory that shows that a GPU is meant.
"""

from __future__ import annotations

import re

from pennyreel.fleet.devices.model import CERTAIN, GIB, INTEGRATED, UNKNOWN, Device
from pennyreel.fleet.devices.names import is_integrated, vendor_of

SOURCE = "override"
NONE = frozenset({"none", "cpu"})
FORM = "NAME:24GB, several with commas, 2x NAME:24GB, or none"

_MOST = 64
_ENTRY = re.compile(
    r"""(?:(?P<count>\d{1,2})\s*x\s+)?
        (?P<name>[^:]*[^:\s])
        \s*:\s*(?P<size>\d{1,7}(?:\.\d{1,6})?)\s*(?P<unit>[GM](?:i?B)?)""",
    re.VERBOSE | re.IGNORECASE,
)


def parse(text: str) -> tuple[Device, ...]:
    """Return the GPUs that a text names. GB are binary ones, as GPUs are sold.

    Raises:
        ValueError: it is of another form, saying which part.

    """
    if text.strip().lower() in NONE:
        return ()
    found: list[Device] = []
    for part in re.split(r"[,;]", text):
        entry = _ENTRY.fullmatch(part.strip())
        if entry is None or not part.isprintable():
            raise ValueError(f"{part.strip()[:60]!r} is not of the form {FORM}")
        size = _bytes(entry["size"], entry["unit"])
        if not size:
            raise ValueError(f"{part.strip()[:60]!r} has no memory")
        device = _device(entry["name"], size)
        found += [device] * int(entry["count"] or 1)
    if len(found) > _MOST:
        raise ValueError(f"{len(found)} GPUs in one machine")
    return tuple(found)


def _device(name: str, size: int) -> Device:
    vendor = vendor_of(name)
    inside = is_integrated(vendor, name)
    return Device(
        name=name,
        vendor=vendor,
        kind=INTEGRATED if inside else UNKNOWN,
        unified=inside or None,
        memory_total_bytes=size,
        source=SOURCE,
        confidence=CERTAIN,
    )


def _bytes(size: str, unit: str) -> int:
    return int(float(size) * (GIB if unit[0] in "gG" else 1 << 20))
