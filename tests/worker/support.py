"""What the worker's tests share: a worker on the fake ComfyUI, an S3, and a server for inputs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qs, urlsplit

import boto3
import requests
from botocore.config import Config

from fakes import waits
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import ErrorInfo, Result, new_attempt_id, parse_progress, parse_result
from pennyreel_worker.app import Worker
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.handler import handle
from pennyreel_worker.settings import Settings

T = TypeVar("T")

until = waits.until

ROOT = Path(__file__).parents[2]
FAKE = Path(__file__).parents[1] / "fakes" / "comfyui.py"
COMMAND = json.dumps([sys.executable, str(FAKE)])
SECRET = "wJalrXUtnFEMIbPxRfiCYEXAMPLEKEY"
SAVE = {"9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "shot"}}}


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def request(graph: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    body = {"contract": 1, "attempt_id": new_attempt_id(), **more}
    return body if "template" in more else {**body, "workflow": graph or SAVE}


async def becomes(condition: Callable[[], T], seconds: float = waits.LONG_S) -> T:
    return await asyncio.to_thread(until, condition, seconds)


class Bench:
    """One worker process's insides: jobs go in as the SDK would hand them over."""

    def __init__(self, comfy: Comfy, settings: Settings) -> None:
        self.comfy = comfy
        self.settings = settings
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.post_s = 0.0
        self.worker = Worker(settings, comfy, self._post)
        self._jobs = 0

    async def _post(self, job: dict[str, Any], progress: dict[str, Any]) -> None:
        if self.post_s:
            await asyncio.sleep(self.post_s)
        self.posts.append((str(job["id"]), progress))

    async def job(self, body: object, job_id: str | None = None, **more: Any) -> dict[str, Any]:
        self._jobs += 1
        job_id = job_id or f"job-{self._jobs}-u1"
        reply = await handle(self.worker, {"id": job_id, "input": body, **more})
        self.posts.append((job_id, reply))
        return reply

    def run(self, body: object, job_id: str | None = None, **more: Any) -> dict[str, Any]:
        """Run one job to its end; returns what the handler gives the SDK."""
        return play(self.job(body, job_id, **more))

    def good(self, body: object, job_id: str | None = None, **more: Any) -> Result:
        reply = self.run(body, job_id, **more)
        assert "error" not in reply, reply
        return parse_result(json.loads(json.dumps(reply)))

    def bad(self, body: object, job_id: str | None = None, **more: Any) -> ErrorInfo:
        reply = self.run(body, job_id, **more)
        assert set(reply) == {"error"}, reply
        return ErrorInfo.decode(reply["error"])

    def fake(self) -> dict[str, Any]:
        """What the fake ComfyUI was asked."""
        self.worker.settle()
        with requests.Session() as session:
            session.trust_env = False
            return dict(session.get(f"{self.comfy.process.url}/fake", timeout=10).json())

    def prompts(self) -> list[dict[str, Any]]:
        return list(self.fake()["prompts"])

    def left(self) -> list[str]:
        """Files and folders that jobs have left behind."""
        self.worker.settle()
        roots = (self.comfy.folders["input"], self.comfy.folders["output"])
        return [str(path) for root in roots for path in root.rglob("*")]

    def percents(self, job_id: str) -> list[float]:
        found = [parse_progress(body) for posted, body in self.posts if posted == job_id]
        return [p.percent for p in found if p is not None]


def play(story: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(story)


def settings_of(**env: str) -> Settings:
    """Settings as the environment would give them."""
    return Settings.from_env({"PENNYREEL_COMFYUI_COMMAND": COMMAND, **env})


@contextlib.contextmanager
def comfy_of(settings: Settings) -> Iterator[Comfy]:
    comfy = Comfy(settings)
    try:
        yield comfy
    finally:
        comfy.stop()


def real_settings(**env: str) -> Settings:
    """Settings of a worker with the installed ComfyUI."""
    root = os.environ.get("PENNYREEL_TEST_COMFYUI", str(ROOT / "build" / "comfyui"))
    return Settings.from_env({"PENNYREEL_COMFYUI_ROOT": root, **env})


@contextlib.contextmanager
def bench_of(settings: Settings) -> Iterator[Bench]:
    """A worker and its own ComfyUI, which is ready."""
    with comfy_of(settings) as comfy:
        comfy.start()
        comfy.ready(Deadline(180))
        made = Bench(comfy, settings)
        yield made
        made.worker.close()


def s3_client(url: str) -> Any:
    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        aws_access_key_id="AKIATEST",
        aws_secret_access_key=SECRET,
        region_name="us-east-1",
        config=Config(
            s3={"addressing_style": "path"}, request_checksum_calculation="when_required"
        ),
    )


@dataclasses.dataclass
class S3:
    """A bucket on moto's server."""

    url: str
    bucket: str
    client: Any

    def env(self, **more: str) -> dict[str, str]:
        return {
            "BUCKET_ENDPOINT_URL": self.url,
            "BUCKET_NAME": self.bucket,
            "BUCKET_ACCESS_KEY_ID": "AKIATEST",
            "BUCKET_SECRET_ACCESS_KEY": SECRET,
            "BUCKET_ADDRESSING": "path",
            "PENNYREEL_S3_ATTEMPTS": "1",
            **more,
        }

    def listed(self) -> list[str]:
        listed = self.client.list_objects_v2(Bucket=self.bucket)
        return [item["Key"] for item in listed.get("Contents", ())]

    def head(self, key: str) -> dict[str, Any]:
        return dict(self.client.head_object(Bucket=self.bucket, Key=key))

    def json(self, key: str) -> dict[str, Any]:
        body = self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return dict(json.loads(body))


class Files(ThreadingHTTPServer):
    """A server of input files: /big?bytes=N, /redirect?to=URL, /slow, /slow?trickle=1,
    /late?seconds=S, /short, /<anything>."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Files)
        self.go_on = threading.Event()
        self.slow = threading.Event()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def handle_error(self, *_: object) -> None:
        """A client that leaves early is part of the tests."""


class _Files(BaseHTTPRequestHandler):
    server: Files
    pieces: ClassVar[bytes] = bytes(1 << 20)

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if parts.path == "/redirect":
            self._head(302, 0, Location=query["to"])
        elif parts.path == "/big":
            size = int(query["bytes"])
            self._head(200, size)
            for _ in range(size >> 20):
                self.wfile.write(self.pieces)
        elif parts.path == "/slow":
            piece = self.pieces if "trickle" not in query else b"x"
            self._head(200, 1 << 30)
            self.wfile.write(piece)
            self.server.slow.set()
            while not self.server.go_on.wait(0.05):
                self.wfile.write(piece)
        elif parts.path == "/late":
            self.server.go_on.wait(float(query["seconds"]))
            self._head(200, 4)
            self.wfile.write(b"late")
        elif parts.path == "/short":
            self._head(200, 100)
            self.wfile.write(b"x")
        elif parts.path == "/missing":
            self._head(404, 0)
        else:
            self._head(200, 4)
            self.wfile.write(b"file")

    def _head(self, status: int, size: int, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(size))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass
