"""One fake ComfyUI child and one S3 for all of the worker's tests; a worker and a bucket each."""

from __future__ import annotations

import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from pennyreel_comfy.waiting import Deadline
from pennyreel_worker.comfy import Comfy
from worker.support import S3, Bench, Files, comfy_of, s3_client, settings_of


@pytest.fixture(scope="session")
def comfy() -> Iterator[Comfy]:
    """The fake ComfyUI, supervised by the worker's own code. Tests may kill it: it comes back."""
    with comfy_of(settings_of()) as shared:
        shared.start()
        shared.ready(Deadline(60))
        yield shared


@pytest.fixture
def make_bench(comfy: Comfy) -> Iterator[Callable[..., Bench]]:
    """`make_bench(NAME="value", …)`: a worker with these environment variables."""
    with ExitStack() as stack:

        def make(**env: str) -> Bench:
            comfy.ready(Deadline(60))  # the former test may have killed it
            bench = Bench(comfy, settings_of(**env))
            stack.callback(bench.worker.close)
            return bench

        yield make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A worker without a bucket."""
    return make_bench()


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    program = Path(__file__).with_name("s3_server.py")
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


@pytest.fixture(scope="session")
def _s3_client(s3_url: str) -> Iterator[Any]:
    client = s3_client(s3_url)
    yield client
    client.close()


@pytest.fixture
def s3(s3_url: str, _s3_client: Any) -> S3:
    """A bucket of its own for each test."""
    made = S3(s3_url, f"bucket-{uuid.uuid4().hex[:12]}", _s3_client)
    made.client.create_bucket(Bucket=made.bucket)
    return made


@pytest.fixture
def s3_bench(make_bench: Callable[..., Bench], s3: S3) -> Bench:
    """A worker with a bucket."""
    return make_bench(**s3.env())


@pytest.fixture
def files() -> Iterator[Files]:
    """A server of input files on loopback, which is private."""
    with Files() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()
