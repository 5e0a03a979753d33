"""An S3 that keeps nothing: a program, fast enough not to be what is measured.

    python sink.py    prints its port, serves on loopback until its standard input closes

It takes single and multipart uploads (also aws-chunked), answers as S3 does, and knows no object.
Any other POST is answered with 200, so that progress can be posted here, too.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit
from urllib.request import urlopen

PIECE = 1 << 18
_XML = '<?xml version="1.0" encoding="UTF-8"?>'


class _S3(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: _Server

    def do_PUT(self) -> None:
        self._swallow()
        self._answer(200, b"", {"ETag": '"0123456789abcdef0123456789abcdef"'})

    def do_POST(self) -> None:
        self._swallow()
        url = urlsplit(self.path)
        query = parse_qs(url.query, keep_blank_values=True)
        bucket, _, key = url.path.strip("/").partition("/")
        where = f"<Bucket>{bucket}</Bucket><Key>{key}</Key>"
        body = "{}"
        if "uploads" in query:
            name = "InitiateMultipartUploadResult"
            body = f"{_XML}<{name}>{where}<UploadId>u1</UploadId></{name}>"
        elif "uploadId" in query:
            name = "CompleteMultipartUploadResult"
            body = f'{_XML}<{name}>{where}<ETag>"e-1"</ETag></{name}>'
        self._answer(200, body.encode())

    def do_GET(self) -> None:
        if self.path == "/received":
            self._answer(200, str(self.server.received).encode())
            return
        self._answer(404, f"{_XML}<Error><Code>NoSuchKey</Code></Error>".encode())

    def do_HEAD(self) -> None:
        self._answer(404, b"")

    def do_DELETE(self) -> None:
        self._answer(204, b"")

    def handle_expect_100(self) -> bool:
        """Let a client that asks go on, now: botocore asks before each body."""
        going_on = super().handle_expect_100()
        self.wfile.flush()
        return going_on

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its base's name
        """Say nothing."""

    def _swallow(self) -> None:
        view = memoryview(self.server.buffer())
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            self._take(int(self.headers.get("Content-Length", 0)), view)
            return
        while size := int(self.rfile.readline().split(b";")[0], 16):
            self._take(size, view)
            self.rfile.readline()
        while self.rfile.readline().strip():  # trailers
            pass

    def _take(self, left: int, view: memoryview) -> None:
        taken = 0
        while taken < left:
            got = self.rfile.readinto(view[: min(left - taken, PIECE)])
            if not got:
                raise ConnectionResetError
            taken += got
        self.server.add(taken)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response_only(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _S3)
        self.received = 0
        self._lock = threading.Lock()
        self._local = threading.local()

    def buffer(self) -> bytearray:
        """Return this thread's buffer."""
        if not hasattr(self._local, "piece"):
            self._local.piece = bytearray(PIECE)
        piece: bytearray = self._local.piece
        return piece

    def add(self, count: int) -> None:
        """Count bytes of bodies."""
        with self._lock:
            self.received += count

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is no news."""


@contextlib.contextmanager
def running_sink() -> Iterator[str]:
    """Run a sink in a process of its own; yields its URL."""
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        try:
            if child.stdout is None:
                raise SystemExit("no pipe")
            yield f"http://127.0.0.1:{int(child.stdout.readline())}"
        finally:
            child.terminate()


def received(url: str) -> int:
    """Return how many bytes of bodies the sink has taken so far."""
    with urlopen(f"{url}/received", timeout=30) as reply:  # noqa: S310 - our own sink
        return int(reply.read())


def raw_bytes_per_s(url: str, *, connections: int = 4, each: int = 128 * 1024**2) -> float:
    """Return what the sink takes by bare sockets: the limit of anything measured against it."""
    port = int(url.rpartition(":")[2])
    block = bytes(1 << 20)

    def send(_: int) -> None:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            head = f"PUT /bucket/raw HTTP/1.1\r\nHost: s3\r\nContent-Length: {each}\r\n\r\n"
            connection.sendall(head.encode())
            for _ in range(each // len(block)):
                connection.sendall(block)
            if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
                raise SystemExit("the sink refused a PUT")

    with ThreadPoolExecutor(connections) as pool:
        list(pool.map(send, range(connections)))  # warm
        began = time.perf_counter()
        list(pool.map(send, range(connections)))
    return connections * each / (time.perf_counter() - began)


def main() -> None:
    server = _Server()
    print(server.server_address[1], flush=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while os.read(0, 4096):
        pass


if __name__ == "__main__":
    main()
