"""Which hosts a stranger's URL may lead to: resolved once, every address public, none rewritten."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Collection
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit

import idna

from pennyreel_contract import Code, error

_SAFE = "/%:@!$&'()*+,;=~-._?"

# What `is_global` does not judge, or not in each version of Python: IPv6 ranges that lead into
# IPv4, or stay inside a site; special ranges; and the address at which Azure's machines find their
# platform.
_REFUSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "fec0::/10", "3fff::/20", "5f00::/16"),
        *("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32"),
    )
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Target(NamedTuple):
    """A URL that may be fetched: where to connect, and what to ask for there."""

    secure: bool
    host: str
    port: int
    netloc: str
    path: str


def shown(url: str) -> str:
    """Return the URL without its query and user, where signatures and passwords are."""
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:300]
    except ValueError:
        return "the URL"


def parse(url: str) -> Target:
    """Read a URL.

    Raises:
        BadRequest: `address_refused`: it is no plain http or https URL.

    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
        if parts.scheme not in {"http", "https"} or not host:
            raise error(Code.ADDRESS_REFUSED, f"{shown(url)}: only http and https URLs are fetched")
        if parts.username is not None or parts.password is not None:
            raise error(Code.ADDRESS_REFUSED, f"{shown(url)}: user names in URLs are refused")
        if port == 0:
            raise error(Code.ADDRESS_REFUSED, f"{shown(url)}: there is no port 0")
        host = _ascii(host)
        return _target(parts, host, port)
    except (ValueError, idna.IDNAError):
        raise error(Code.ADDRESS_REFUSED, f"{shown(url)} is not a valid URL") from None


def _ascii(host: str) -> str:
    if host.isascii():
        return host
    return idna.encode(host, uts46=True).decode("ascii")


def _target(parts: SplitResult, host: str, port: int | None) -> Target:
    bracketed = f"[{host}]" if ":" in host else host
    secure = parts.scheme == "https"
    path = quote(parts.path or "/", safe=_SAFE)
    query = f"?{quote(parts.query, safe=_SAFE)}" if parts.query else ""
    return Target(
        secure=secure,
        host=host,
        port=port or (443 if secure else 80),
        netloc=bracketed if port is None else f"{bracketed}:{port}",
        path=path + query,
    )


def resolve(target: Target, name: str, allow_hosts: Collection[str]) -> list[str]:
    """Return the host's addresses, each of them public unless the operator allows the host.

    Raises:
        BadRequest: `address_refused`.
        JobFailed: `input_unreachable`: the name has no address.

    """
    try:
        found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise error(Code.INPUT_UNREACHABLE, f"{name}: the host has no address") from None
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not addresses:
        raise error(Code.INPUT_UNREACHABLE, f"{name}: the host has no address")
    allowed = f"{target.host.lower()}:{target.port}" in allow_hosts
    if not allowed and not all(public(a) for a in addresses):
        raise error(Code.ADDRESS_REFUSED, f"{name}: the host's address is not public")
    return addresses


def public(text: str) -> bool:
    """Whether an address is on the public internet, IPv4 inside IPv6 looked through."""
    try:
        address = ipaddress.ip_address(text.split("%", 1)[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return public(str(inner))
    if any(address in network for network in _REFUSED):
        return False
    return address.is_global and not address.is_multicast
