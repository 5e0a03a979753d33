"""What a URL is, and where a key may go."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit


def key_may_travel(url: str) -> bool:
    """Whether a key may be sent to this address: https, or http that stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url))


def well_formed(url: str, schemes: Collection[str] = ("http", "https")) -> bool:
    """Whether a text is a URL that every library reads the same way."""
    try:
        parts = urlsplit(url)
        ported = parts.port is None or parts.port > 0
    except ValueError:
        return False
    spaceless = url.isprintable() and not any(c.isspace() for c in url)
    return ported and spaceless and parts.scheme in schemes and bool(parts.hostname)


def is_loopback(url: str) -> bool:
    """Whether a URL names this very machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
