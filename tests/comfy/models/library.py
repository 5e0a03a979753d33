"""A host of models on loopback: with ETags and ranges, or without; that breaks off, or waits."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from typing_extensions import Self


def safetensors(size: int = 300_000, seed: bytes = b"") -> bytes:
    """A valid file with one tensor of `size` bytes."""
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}})
    data = (hashlib.sha256(seed).digest() if seed else os.urandom(32)) * (size // 32 + 1)
    return struct.pack("<Q", len(header)) + header.encode() + data[:size]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Shelved:
    """One file, and how it is served."""

    data: bytes
    etag: str = ""
    ranges: bool = True
    status: int = 200
    location: str = ""
    length: bool = True
    announced: int | None = None
    """The length that is told, where it is not the true one."""
    headers: dict[str, str] = field(default_factory=dict)
    """More of them."""
    cuts: list[int] = field(default_factory=list)
    """After so many bytes the connection is cut; one for each request, then no more."""
    hold_at: int | None = None
    """After so many bytes of the file it waits for `go_on`."""


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]

    @property
    def start(self) -> int:
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else 0


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        asked = Asked(self.path.split("?")[0], dict(self.headers))
        self.server.library.asked.append(asked)
        shelved = self.server.library.files.get(asked.path)
        if shelved is None:
            self.send_error(404)
            return
        status = self._status(asked, shelved)
        start = asked.start if status == 206 else 0
        self._head(shelved, status, start)
        if status in {200, 206}:
            self._body(shelved, start)

    def _status(self, asked: Asked, shelved: Shelved) -> int:
        if shelved.etag and self.headers.get("If-None-Match") == shelved.etag:
            return 304
        mark = shelved.etag or shelved.headers.get("Last-Modified", "")
        unchanged = self.headers.get("If-Range", mark) == mark
        if shelved.status == 200 and shelved.ranges and "Range" in self.headers and unchanged:
            return 206 if asked.start < len(shelved.data) else 416
        return shelved.status

    def _head(self, shelved: Shelved, status: int, start: int) -> None:
        size = len(shelved.data)
        self.send_response(status)
        if shelved.etag:
            self.send_header("ETag", shelved.etag)
        if shelved.location:
            self.send_header("Location", shelved.location)
        for name, value in shelved.headers.items():
            if status != 206 or name != "Last-Modified":  # RFC 9110, 15.3.7, after an If-Range
                self.send_header(name, value)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        if shelved.length and status != 304:
            length = size - start if status in {200, 206} else 0
            if shelved.announced is not None and status == 200:
                length = shelved.announced
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def _body(self, shelved: Shelved, start: int) -> None:
        library = self.server.library
        stop = start + shelved.cuts.pop(0) if shelved.cuts else len(shelved.data)
        if shelved.hold_at is not None and start < shelved.hold_at < stop:
            self.wfile.write(shelved.data[start : shelved.hold_at])
            self.wfile.flush()
            library.held.set()
            library.go_on.wait(60)
            start = shelved.hold_at
        self.wfile.write(shelved.data[start:stop])

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    library: Library

    def handle_error(self, *_: object) -> None:
        """Clients that are killed are what some tests are about."""


class Library:
    """The server. `files` may be changed while it runs."""

    def __init__(self) -> None:
        self.files: dict[str, Shelved] = {}
        self.asked: list[Asked] = []
        self.held = threading.Event()
        self.go_on = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.library = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_address[1]}"

    def put(self, path: str, data: bytes, **options: object) -> str:
        """Serve `data` at `path`, with an ETag of its content unless told otherwise."""
        given = {"etag": f'"{sha256(data)[:16]}"', **options}
        self.files[path] = Shelved(data, **given)  # type: ignore[arg-type]
        return f"http://{self.host}{path}"

    def count(self, path: str) -> int:
        return sum(asked.path == path for asked in self.asked)
