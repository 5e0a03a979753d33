"""A TCP relay between the worker and its ComfyUI, as a program that starts the latter.

    python relay.py --control SOCKET --child CHILD.py -- COMMAND … --port N

It listens at N and starts COMMAND at a port of its own. Lines to the control socket (Unix) are
answered with "ok":

    cut          abort the websocket
    deaf, hear   swallow what ComfyUI says by websocket, connections staying open
    bar, unbar   abort new websockets at once
    refuse S     close the listening socket and every connection, and listen again after S seconds
    lose         of the next POST /prompt: pass it on, and abort instead of answering
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path


class Relay:
    """The connections, and what is to be done to them."""

    def __init__(self, port: int, target: int) -> None:
        self.port, self.target = port, target
        self.server: asyncio.Server | None = None
        self.all: set[asyncio.StreamWriter] = set()
        self.sockets: set[asyncio.StreamWriter] = set()
        self.deaf = self.barred = self.lose = False

    async def listen(self) -> None:
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", self.port)

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.all.add(writer)
        try:
            first = await reader.read(65536)
            is_socket = first.startswith(b"GET /ws")
            if not first or (is_socket and self.barred):
                return
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
            if is_socket:
                self.sockets.add(writer)
            losing = asyncio.Event()
            await asyncio.wait(
                [
                    asyncio.ensure_future(self._there(first, reader, forth, losing)),
                    asyncio.ensure_future(self._back(back, writer, losing, is_socket)),
                ],
                return_when=asyncio.FIRST_COMPLETED,
            )
            forth.transport.abort()
        except OSError:
            pass
        finally:
            self.all.discard(writer)
            self.sockets.discard(writer)
            writer.transport.abort()

    async def _there(
        self,
        piece: bytes,
        reader: asyncio.StreamReader,
        forth: asyncio.StreamWriter,
        losing: asyncio.Event,
    ) -> None:
        with contextlib.suppress(OSError):
            while piece:
                if self.lose and piece.startswith(b"POST /prompt"):
                    self.lose = False
                    losing.set()
                forth.write(piece)
                await forth.drain()
                piece = await reader.read(65536)

    async def _back(
        self,
        back: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        losing: asyncio.Event,
        is_socket: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := await back.read(65536):
                if losing.is_set():
                    return
                if is_socket and self.deaf:
                    continue
                writer.write(piece)
                await writer.drain()

    async def control(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        word, *rest = (await reader.readline()).decode().split() or [""]
        if word == "cut":
            for one in list(self.sockets):
                one.transport.abort()
        elif word in {"deaf", "hear"}:
            self.deaf = word == "deaf"
        elif word in {"bar", "unbar"}:
            self.barred = word == "bar"
        elif word == "lose":
            self.lose = True
        elif word == "refuse":
            if self.server is not None:
                self.server.close()
            for one in list(self.all):
                one.transport.abort()
            asyncio.get_running_loop().call_later(
                float(rest[0]), lambda: asyncio.ensure_future(self.listen())
            )
        writer.write(b"ok\n")
        await writer.drain()
        writer.close()


async def serve(port: int, target: int, control: Path) -> None:
    relay = Relay(port, target)
    await relay.listen()
    await asyncio.start_unix_server(relay.control, str(control))
    await asyncio.Event().wait()


def main() -> None:
    mine, child = sys.argv[1 : sys.argv.index("--")], sys.argv[sys.argv.index("--") + 1 :]
    control, wrapper = Path(mine[mine.index("--control") + 1]), mine[mine.index("--child") + 1]
    at = len(child) - 1 - child[::-1].index("--port") + 1
    port = int(child[at])
    with socket.create_server(("127.0.0.1", 0)) as probe:
        child[at] = str(probe.getsockname()[1])
    # Its stdin is ours to hold: it ends when we do, as we do with the worker.
    with subprocess.Popen([child[0], wrapper, *child[1:]], stdin=subprocess.PIPE) as comfyui:
        control.unlink(missing_ok=True)  # the former relay's
        try:
            asyncio.run(_both(comfyui, port, int(child[at]), control))
        finally:
            comfyui.kill()


async def _both(comfyui: subprocess.Popen[bytes], port: int, target: int, control: Path) -> None:
    async def watch() -> None:
        while comfyui.poll() is None:
            await asyncio.sleep(0.02)
        os._exit(comfyui.returncode & 0x7F)

    await asyncio.gather(serve(port, target, control), watch())


if __name__ == "__main__":
    main()
