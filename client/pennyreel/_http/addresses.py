"""Where files may be fetched from, and how an address is shown."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from pennyreel.config import is_loopback
from pennyreel.errors import Code, error


def shown(url: str) -> str:
    """Return a URL without its query and user, where signatures and passwords are."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "(what is no URL)"
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"[:300]


def check(url: str, *, local: bool, plain: bool) -> None:
    """Raise BadRequest, `address_refused`, where no file may come from; see `download`."""
    parts = urlsplit(url)
    if is_loopback(url):
        if local and parts.scheme in {"http", "https"}:
            return
    elif plain and parts.hostname and parts.scheme in {"http", "https"}:
        return
    elif parts.hostname and parts.scheme == "https":
        if not private(parts.hostname):
            return
        raise error(
            Code.ADDRESS_REFUSED,
            f"{shown(url)} is at a private address: no file of a job is fetched from there",
            hint="Give the worker storage at a public address, or configure it here as your own: "
            "PENNYREEL_S3_ENDPOINT and PENNYREEL_S3_BUCKET.",
        )
    raise error(
        Code.ADDRESS_REFUSED,
        f"{shown(url)}: files are fetched by https only",
        hint="Give the worker storage that is reached by https.",
    )


def inside(url: str) -> bool:
    """Whether an address is this machine's, or of a private network."""
    return is_loopback(url) or private(urlsplit(url).hostname or "")


def private(host: str) -> bool:
    """Whether a host is written as an address that is not of the public internet.

    Names are not looked up: a server at a private address has no certificate for a foreign name.
    """
    try:
        numeric = all(c in "0123456789abcdefx." for c in host.lower()) and ":" not in host
        # What resolvers take for IPv4: 0x7f.1 and 2130706433 are 127.0.0.1.
        text = socket.inet_ntoa(socket.inet_aton(host)) if numeric else host
        address = ipaddress.ip_address(text)
    except (OSError, ValueError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global
