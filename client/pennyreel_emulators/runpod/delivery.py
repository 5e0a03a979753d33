"""Jobs that were written to a worker's connection and may yet turn out not to have been read.

A process that is killed keeps its sockets until the kernel has taken it apart, which for a large
one takes milliseconds: a job written meanwhile is accepted by the kernel and read by nobody. The
kernel tells afterwards: a socket closed with unread data is answered with a reset, one that was
read to the end with an ordinary end of stream. So a reset means that the job was never seen.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
from dataclasses import dataclass

from aiohttp import web

from pennyreel_emulators.runpod.jobs import Job

# How long a written job is watched. A killed process is gone long before.
WATCH_S = 5.0
# States of include/net/tcp_states.h, the first byte of TCP_INFO.
_ESTABLISHED, _CLOSED = 1, 7


@dataclass(frozen=True)
class Handed:
    """Jobs written to a worker, and a descriptor of our own that survives the event loop's."""

    worker_id: str
    jobs: tuple[Job, ...]
    twin: socket.socket
    until: float


class Deliveries:
    """Jobs handed out of late, by the connection they were written to."""

    def __init__(self) -> None:
        self._handed: dict[asyncio.Transport, Handed] = {}

    def watch(self, request: web.Request, worker_id: str, jobs: list[Job]) -> None:
        """Keep an eye on jobs that were just written as the answer to the request."""
        transport = request.transport
        if sys.platform != "linux" or transport is None:
            return
        sock = transport.get_extra_info("socket")
        twin = socket.fromfd(sock.fileno(), sock.family, sock.type)
        self._handed[transport] = Handed(worker_id, tuple(jobs), twin, time.monotonic() + WATCH_S)

    def confirm(self, transport: asyncio.BaseTransport | None) -> None:
        """The worker uses the connection again: it has read the answer before."""
        for known in list(self._handed):
            if known is transport:
                self._handed.pop(known).twin.close()

    def unread(self) -> list[Handed]:
        """Deliveries that were reset; those that are certain by now are forgotten."""
        lost = []
        for transport, handed in list(self._handed.items()):
            state = _state(handed.twin)
            if state == _ESTABLISHED and time.monotonic() < handed.until:
                continue
            self.confirm(transport)
            if state == _CLOSED:
                lost.append(handed)
        return lost

    def close(self) -> None:
        """Give back the descriptors."""
        for transport in list(self._handed):
            self.confirm(transport)


def _state(sock: socket.socket) -> int:
    if sys.platform != "linux":
        return _ESTABLISHED
    (state,) = struct.unpack("B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))
    return int(state)
