"""Small things both sides of the API need: reading bodies, sending answers, live connections."""

from __future__ import annotations

import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from pennyreel_emulators.runpod.jobs import BadRequest, UnknownJob
from pennyreel_emulators.runpod.limits import TooMany

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Unauthorized(Exception):
    """The request is answered with 401."""


class UnknownEndpoint(Exception):
    """No endpoint of that id: 404."""


def failure(status: int, message: str) -> web.Response:
    """An error answer. RunPod does not document the body of its errors (UNVERIFIED)."""
    return web.json_response({"error": message}, status=status)


@web.middleware
async def translate_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The one table from our exceptions to HTTP (docs: send-requests, HTTP status codes)."""
    try:
        return await handler(request)
    except BadRequest as bad:
        return failure(400, str(bad))
    except Unauthorized:
        return failure(401, "unauthorized")
    except UnknownEndpoint as unknown:
        return failure(404, f"endpoint not found: {unknown}")
    except UnknownJob as unknown:
        return failure(404, f"job not found: {unknown.args[0]}")
    except TooMany as many:
        return failure(429, str(many))


async def read_body(request: web.Request, limit: int) -> bytes | None:
    """The body, or None when it is longer than `limit` bytes.

    A body that is too long is still read to its end: a client that is refused in the middle of
    sending sees a broken connection and not the answer.
    """
    kept: list[bytes] | None = []
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
        if size > limit:
            kept = None
        if kept is not None:
            kept.append(piece)
    return None if kept is None else b"".join(kept)


def parse_json(body: bytes) -> Any:
    """The JSON value of a body; raises `BadRequest`."""
    try:
        return json.loads(body)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from error


def connected(request: web.Request) -> bool:
    """Whether the other side of a held request is still there to read the answer.

    The event loop learns of a closed connection only when it next polls, so a worker killed a
    moment ago still looks connected to it. The kernel already knows: a peek at the socket sees the
    end of the stream.
    """
    transport = request.transport
    if transport is None or transport.is_closing():
        return False
    return not _ended(transport.get_extra_info("socket"))


async def send(request: web.Request, response: web.StreamResponse) -> None:
    """Write the whole answer now; raises `ConnectionError` when the other side is gone.

    That the kernel has accepted an answer does not mean that it was read: see `delivery`.
    """
    if not connected(request):
        raise ConnectionResetError("the other side is gone")
    await response.prepare(request)
    await response.write_eof()


def _ended(sock: Any) -> bool:
    if sock is None or not hasattr(socket, "MSG_DONTWAIT"):
        return False
    # asyncio's socket object cannot receive; a duplicate of its descriptor can.
    try:
        with socket.fromfd(sock.fileno(), sock.family, sock.type) as twin:
            return twin.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
