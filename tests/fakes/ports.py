"""Ports of 127.0.0.1: one where nobody listens, and ones that somebody will."""

from __future__ import annotations

import functools
import random
import socket

BELOW = range(20_000, 30_000)
"""Below what Linux and macOS hand out by themselves to whoever asks for any port."""


def dead_port() -> int:
    """Return a port that refuses every connection for as long as this process lives.

    A port that is merely free now may be somebody's in a moment, even the very client's own.
    """
    port: int = _held().getsockname()[1]
    return port


def port_for_later() -> int:
    """Return a port for a server that is yet to start: nobody gets it in between by chance."""
    while True:
        port = random.SystemRandom().choice(BELOW)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


@functools.cache
def _held() -> socket.socket:
    held = socket.socket()
    held.bind(("127.0.0.1", 0))  # and not listening: refused
    return held
