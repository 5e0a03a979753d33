"""Where nobody listens."""

from __future__ import annotations

import functools
import socket


def dead_port() -> int:
    """Return a port of 127.0.0.1 that refuses every connection for as long as this process lives.

    A port that is merely free now may be somebody's in a moment, even the very client's own.
    """
    port: int = _held().getsockname()[1]
    return port


@functools.cache
def _held() -> socket.socket:
    held = socket.socket()
    held.bind(("127.0.0.1", 0))  # and not listening: refused
    return held
