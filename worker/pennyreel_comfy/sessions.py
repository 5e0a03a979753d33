"""Sessions of `requests` whose answers have an end: in time and in size.

A server that sends a byte now and then never runs into a read's time-out, and one that does not
stop fills the memory. Each call here runs within `bounded`: at its end the connection is cut.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
)

from pennyreel_comfy.cutting import Cutter
from pennyreel_comfy.echoes import hide
from pennyreel_comfy.waiting import CancelToken, Deadline

MAX_JSON = 32 << 20
"""Bytes taken of an answer in JSON; the largest honest one known is RunPod's, of 20 MB."""

WHOLE_S = 120.0
"""Seconds for an answer that may be large, on a slow line: 20 MB at 170 kB/s."""

CHUNK = 64 << 10
"""Read at once. Unpacked, it may be a thousand times as much."""

_UNSENT = (
    requests.ConnectTimeout,
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)


class TooLarge(requests.RequestException):
    """A server's answer has no end."""


class TooSlow(requests.ReadTimeout):
    """A server's answer came, but was not whole in time."""


def never_sent(problem: Exception) -> bool:
    """Whether it is certain that no byte of the request reached the server."""
    if isinstance(problem, _UNSENT):
        return True
    inner = problem.args[0] if problem.args else None
    reason = getattr(inner, "reason", inner)
    return isinstance(problem, requests.ConnectionError) and isinstance(
        reason, (NewConnectionError, NameResolutionError)
    )


@contextmanager
def within(deadline: Deadline, cancel: CancelToken | None = None) -> Iterator[None]:
    """Let no call of this thread outlast the deadline, or the cancellation, of what it is for."""
    before = _outer()
    _here.outer = (deadline, cancel or CancelToken())
    try:
        yield
    finally:
        _here.outer = before


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Cut the connections that this thread's call opens after so many seconds, or `within`'s.

    Raises:
        requests.ConnectTimeout: it was too late before anything was sent.
        TooSlow: it was too late afterwards.

    """
    deadline, cancel = _outer()
    cutter = Cutter(Deadline(deadline.left(seconds)), cancel, "the call")
    if cancel.cancelled or deadline.expired:
        raise requests.ConnectTimeout("it was too late to send it")
    with cutter, watching(cutter):
        try:
            yield
        except (requests.RequestException, HTTPError, OSError) as problem:
            if cutter.has_cut and not never_sent(problem):
                raise TooSlow from None
            raise
        if cutter.has_cut:  # where no length was announced, a cut looks like an end
            raise TooSlow


@contextmanager
def watching(cutter: Cutter) -> Iterator[None]:
    """Have the cutter watch what this thread's sessions open."""
    before: Cutter | None = getattr(_here, "cutter", None)
    _here.cutter = cutter
    try:
        yield
    finally:
        _here.cutter = before  # a key that is fetched for a call is a call inside it


def take(reply: requests.Response, most: int = MAX_JSON) -> None:
    """Read a streamed answer whole, without what its request carried.

    Raises:
        TooLarge: it has more bytes than `most`.

    """
    pieces, size = [], 0
    for piece in reply.iter_content(CHUNK):
        size += len(piece)
        if size > most:
            raise TooLarge
        pieces.append(piece)
    reply._content = b"".join(pieces)  # noqa: SLF001 - what `content` does, with a limit
    hide(reply)


class Watched(HTTPAdapter):
    """Tells the cutter of this thread of each connection that is used."""

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the direct connections' pools."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Make a proxy's pools."""
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager


_here = threading.local()


def _outer() -> tuple[Deadline, CancelToken]:
    found: tuple[Deadline, CancelToken] | None = getattr(_here, "outer", None)
    return found or (Deadline(None), CancelToken())


def _watch(connection: HTTPConnection) -> None:
    """Watch it; nothing was sent by it yet, so a call that is late was never sent."""
    cutter: Cutter | None = getattr(_here, "cutter", None)
    if cutter is not None and connection.sock is not None and not cutter.watch(connection.sock):
        connection.close()
        raise ConnectTimeoutError(connection, "it was too late to send it")


class _Plain(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _watch(self)

    def request(self, *args: Any, **options: Any) -> None:
        _watch(self)  # one that was kept from an earlier call
        super().request(*args, **options)


class _Secure(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _watch(self)

    def request(self, *args: Any, **options: Any) -> None:
        _watch(self)
        super().request(*args, **options)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


_POOLS = {"http": _PlainPool, "https": _SecurePool}
