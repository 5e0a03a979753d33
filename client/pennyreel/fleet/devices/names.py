"""What a GPU's name and PCI numbers say of it. Pure."""

from __future__ import annotations

import re

from pennyreel.fleet.devices.model import AMD, APPLE, INTEL, NVIDIA, OTHER

PCI_VENDORS = {0x10DE: NVIDIA, 0x1002: AMD, 0x8086: INTEL, 0x106B: APPLE}

_VENDORS = (
    (NVIDIA, r"nvidia|geforce|quadro|tesla|\b[rg]tx\b"),
    (AMD, r"\bamd\b|\bati\b|radeon|instinct|firepro|\bmi\d{2,3}x?\b"),
    (INTEL, r"intel|\barc\b|\biris\b|\buhd\b"),
    (APPLE, r"apple|\bm\d(?: (?:pro|max|ultra))?$"),
    # A100, L40S, H200, B200, GB10: after Intel's Arc A770.
    (NVIDIA, r"\b[abhl]\d{1,3}s?\b|\bg[bh]\d+"),
)
# Graphics inside AMD's processors: "Radeon(TM) Graphics", "Vega 8 Graphics", "780M", "8060S".
# What has RX, PRO or HD in its name is a card, or a laptop's chip with memory of its own.
_AMD_INSIDE = re.compile(
    r"radeon(?:\(tm\)|\s)*"
    r"(?:graphics|(?:rx )?vega \d+ graphics|(?:\d{3}m|80\d0s)\b|r[2-7] graphics)",
    re.IGNORECASE,
)
_INTEL_CARD = re.compile(r"\barc\b.*\b[a-z]\d{2,3}\b|\bflex\b|\bmax \d{4}\b", re.IGNORECASE)
_NOISE = re.compile(r"\((?:r|tm|c)\)|[®™]|\b(?:nvidia|amd|ati|intel|corporation|graphics)\b|[\W_]+")


def vendor_of(name: str) -> str:
    """Return who made a GPU of that name; `other` where it does not say."""
    for vendor, pattern in _VENDORS:
        if re.search(pattern, name, re.IGNORECASE):
            return vendor
    return OTHER


def is_integrated(vendor: str, name: str) -> bool:
    """Whether a name is that of graphics inside a processor, which use the machine's RAM."""
    if vendor == APPLE:
        return True
    if vendor == INTEL:
        return not _INTEL_CARD.search(name)
    return vendor == AMD and bool(_AMD_INSIDE.search(name))


def plain(name: str) -> str:
    """Return a name by which two sources' words for one GPU can be compared."""
    return _NOISE.sub("", name.lower().replace("(r)", " ").replace("(tm)", " "))
