"""Fetches a URL that a stranger gave, without becoming their way into a private network.

The name is resolved once, every address it has must be public, and the connection goes to that
very address (a second look-up could answer otherwise). Redirects are followed by hand and each
hop is checked anew. Size, time and number of hops have limits. Proxies of the environment are not
used: they would do the connecting. An operator may allow private `host:port` pairs by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import socket
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

import urllib3
from urllib3.exceptions import HTTPError

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error

MAX_HOPS = 5
CONNECT_S = 10.0
READ_S = 60.0
CHUNK = 1 << 20


def fetch(
    url: str,
    path: Path,
    *,
    most: int,
    deadline: Deadline,
    allow_hosts: Collection[str] = (),
    cancel: CancelToken | None = None,
) -> str:
    """Stream `url` into the new file `path` and return its sha256 in hex.

    Args:
        url: http or https.
        path: created; removed again when the fetch fails.
        most: bytes that are taken at most.
        deadline: of the whole fetch.
        allow_hosts: lower-case `host:port` pairs that may be private.
        cancel: looked at between chunks.

    Raises:
        BadRequest: `address_refused`, `input_too_large`.
        JobFailed: `input_unreachable`, with the reason.
        JobTimeout, JobCancelled: as named.

    """
    shown = _shown(url)
    for _ in range(MAX_HOPS + 1):
        parts = _check(url)
        with _get(parts, shown, allow_hosts, deadline) as reply:
            target = reply.headers.get("Location")
            if reply.status in {301, 302, 303, 307, 308} and target:
                url = urljoin(url, target)
                continue
            if reply.status != 200:
                raise error(
                    Code.INPUT_UNREACHABLE,
                    f"{shown} answers {reply.status}",
                    retryable=reply.status >= 500 or reply.status == 429,
                )
            return _save(reply, path, shown, most, deadline, cancel or CancelToken())
    raise error(Code.INPUT_UNREACHABLE, f"{shown} redirects more than {MAX_HOPS} times")


def _shown(url: str) -> str:
    """Return the URL without its query and user, where signatures and passwords are."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path}"[:300]


def _check(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise error(Code.ADDRESS_REFUSED, f"{_shown(url)}: only http and https URLs are fetched")
    try:
        _ = parts.port
    except ValueError:
        raise error(Code.ADDRESS_REFUSED, f"{_shown(url)}: its port is not a number") from None
    if parts.username or parts.password:
        raise error(Code.ADDRESS_REFUSED, f"{_shown(url)}: user names in URLs are refused")
    return parts


def _address(parts: SplitResult, shown: str, allow_hosts: Collection[str]) -> tuple[str, int]:
    """Resolve the host once; every one of its addresses has to be public."""
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise error(Code.INPUT_UNREACHABLE, f"{shown}: the host has no address") from None
    addresses = [str(entry[4][0]) for entry in found]
    if f"{host.lower()}:{port}" not in allow_hosts:
        private = [a for a in addresses if not _public(a)]
        if private or not addresses:
            raise error(Code.ADDRESS_REFUSED, f"{shown}: the host's address is not public")
    return addresses[0], port


def _public(text: str) -> bool:
    """Whether an address is on the public internet, IPv4 in IPv6 looked through."""
    address = ipaddress.ip_address(text.split("%", 1)[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _public(str(inner))
    return address.is_global and not address.is_multicast


@contextlib.contextmanager
def _get(
    parts: SplitResult, shown: str, allow_hosts: Collection[str], deadline: Deadline
) -> Iterator[urllib3.BaseHTTPResponse]:
    """GET from the address that was checked, under the name that was asked for."""
    address, port = _address(parts, shown, allow_hosts)
    limits = urllib3.Timeout(connect=deadline.left(CONNECT_S), read=deadline.left(READ_S))
    common: dict[str, Any] = {"timeout": limits, "retries": False, "maxsize": 1}
    pool: urllib3.HTTPConnectionPool
    if parts.scheme == "https":
        pool = urllib3.HTTPSConnectionPool(
            address,
            port,
            server_hostname=parts.hostname,
            assert_hostname=parts.hostname,
            **common,
        )
    else:
        pool = urllib3.HTTPConnectionPool(address, port, **common)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    try:
        reply = pool.urlopen(
            "GET",
            target,
            headers={
                "Host": parts.netloc,
                "Accept-Encoding": "identity",
                "User-Agent": "pennyreel",
            },
            preload_content=False,
            redirect=False,
        )
        try:
            yield reply
        finally:
            reply.close()
    except (HTTPError, OSError) as problem:
        raise _unreachable(shown, problem) from None
    finally:
        pool.close()


def _save(
    reply: urllib3.BaseHTTPResponse,
    path: Path,
    shown: str,
    most: int,
    deadline: Deadline,
    cancel: CancelToken,
) -> str:
    announced = int(reply.headers.get("Content-Length") or 0)
    if announced > most:
        raise error(
            Code.INPUT_TOO_LARGE, f"{shown} has {announced} bytes; at most {most} are taken"
        )
    digest, size, began = hashlib.sha256(), 0, time.monotonic()
    try:
        with path.open("xb") as out:
            for chunk in reply.stream(CHUNK, decode_content=False):
                cancel.check()
                size += len(chunk)
                if size > most:
                    raise error(
                        Code.INPUT_TOO_LARGE, f"{shown} is larger than the {most} bytes allowed"
                    )
                if deadline.expired:
                    raise deadline.error(f"fetching {shown} ({time.monotonic() - began:.0f} s)")
                digest.update(chunk)
                out.write(chunk)
        if announced and size != announced:
            raise error(
                Code.INPUT_UNREACHABLE, f"{shown} broke off after {size} of {announced} bytes"
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def _unreachable(shown: str, problem: Exception) -> PennyreelError:
    return error(Code.INPUT_UNREACHABLE, f"{shown} cannot be fetched ({type(problem).__name__})")
