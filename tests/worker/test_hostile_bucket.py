"""A bucket that a job brought is somebody else's program: it fills neither memory nor disk."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import PennyreelError
from pennyreel_worker.buckets import Bucket
from pennyreel_worker.storage import MAX_STORED, Store
from worker.support import SAVE, SECRET, Bench, request, until

PIECE = b"x" * 65536
FLOOD = 8 * MAX_STORED
"""Bytes after which the flood ends by itself: whoever takes them all has no limit."""


class Flood(ThreadingHTTPServer):
    """Answers `say[method]` with a status, and a body of `length` bytes, or one without end."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.say: dict[str, int] = {}
        self.length: int | None = None
        self.sent = 0
        self.open = 0
        self._lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def count(self, size: int, opened: int = 0) -> None:
        with self._lock:
            self.sent += size
            self.open += opened

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flood

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(self.server.say.get("HEAD", 200))
        if self.server.length is not None:
            self.send_header("Content-Length", str(self.server.length))
        self.end_headers()

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(self.server.say.get(self.command, 200))
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.server.count(0, 1)
        with suppress(OSError):
            for _ in range(FLOOD // len(PIECE)):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(PIECE), PIECE))
                self.server.count(len(PIECE))
        self.close_connection = True
        self.server.count(0, -1)

    def do_PUT(self) -> None:
        self.do_GET()


@pytest.fixture
def flood() -> Iterator[Flood]:
    with closing(Flood()) as server:
        yield server


@pytest.fixture
def store(flood: Flood) -> Iterator[Store]:
    given = Bucket(flood.url, "AKIATEST", SECRET, "bucket", "us-east-1", "path", 1)
    hosts = {flood.url.removeprefix("http://")}
    with closing(Store(given, allow_hosts=hosts)) as made:
        yield made


def read(store: Store, **limits: Any) -> object:
    return store.get_json("results/x.json", **limits)


def write(store: Store, **limits: Any) -> object:
    return store.put("k", b"x", "text/plain", **limits)


@pytest.mark.parametrize(
    ("call", "say"),
    [(read, {"GET": 200}), (read, {"GET": 403}), (write, {"PUT": 500}), (write, {"PUT": 200})],
)
def test_no_answer_is_read_without_end(
    call: Callable[..., object], say: dict[str, int], flood: Flood, store: Store
) -> None:
    flood.say = say
    with pytest.raises(PennyreelError) as caught:
        call(store, deadline=Deadline(60), cancel=CancelToken())
    assert caught.value.code == "storage_failed"
    until(lambda: flood.open == 0)  # the connection is not kept
    most = MAX_STORED if say == {"GET": 200} else 2**20
    assert flood.sent < 3 * (most + 8 * 2**20)  # with what is on its way, and one more attempt


# s3transfer reads no more of what is cancelled, and leaves the connection to the collector.
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.parametrize("announced", [10, None])
def test_an_object_that_is_larger_than_it_says_is_not_taken(
    announced: int | None, flood: Flood, store: Store, tmp_path: Path
) -> None:
    flood.length = announced
    limits = {"deadline": Deadline(60), "cancel": CancelToken()}
    with pytest.raises(PennyreelError) as caught:
        store.download("s3://bucket/in.png", tmp_path / "in.png", most=2**20, **limits)
    assert caught.value.code == "input_too_large"
    del caught
    # A thread of its pool may hold it a little longer.
    until(lambda: (gc.collect(), flood.open == 0)[1])
    assert flood.sent < FLOOD
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0


def test_a_job_with_such_a_bucket_is_told_and_the_next_one_is_served(
    flood: Flood, make_bench: Callable[..., Bench]
) -> None:
    bench = make_bench(PENNYREEL_ALLOW_HOSTS=flood.url.removeprefix("http://"))
    given = {"endpointUrl": flood.url, "accessId": "AKIAX", "accessSecret": SECRET}
    problem = bench.bad(request(SAVE), s3Config={**given, "bucketName": "bucket"})
    assert problem.code == "storage_failed"
    assert not problem.retryable
    assert bench.good(request(SAVE)).artifacts
