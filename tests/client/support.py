"""A scripted HTTP server, a worker made of plain HTTP, and small graphs."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests
from typing_extensions import Self

from fakes import waits
from pennyreel_emulators.runpod import RunPodPlatform

until = waits.until

GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "seed": 5}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "clip"}},
}
LOADING = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "old.png"}, "_meta": {"title": "photo"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "clip"}},
}
SLEEPING = {
    "1": {"class_type": "FakeSleep", "inputs": {"seconds": 600}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "clip"}},
}
KEY = "rpa_SECRET_never_shown_0123456789"


def artifact(name: str, content: bytes, **changes: Any) -> dict[str, Any]:
    """An artifact as our worker sends it, inline."""
    return {
        "name": name,
        "kind": "image",
        "mime": "image/png",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "data": base64.b64encode(content).decode(),
        **changes,
    }


@dataclass
class Request:
    """One request that a scripted server got."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Reply:
    """What it answers; `None` in its place means: cut the connection."""

    status: int = 200
    body: object = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None

    def encode(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


Script = Callable[[Request], "Reply | None"]


class Scripted:
    """An HTTP server that answers as its script says, and remembers what it was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[Request] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                got = Request(self.command, self.path, dict(self.headers), self.rfile.read(length))
                outer.requests.append(got)
                reply = outer.script(got)
                if reply is None:
                    self.close_connection = True
                    return
                data = reply.encode()
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if reply.cut_at is not None:
                    self.wfile.write(data[: reply.cut_at])
                    self.close_connection = True
                    return
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = _any  # noqa: N815 - the library's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:
                """Clients that leave in the middle are what some tests are about."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=lambda: self._server.serve_forever(poll_interval=0.01), name="scripted"
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def seen(self, ending: str) -> list[Request]:
        """The requests whose path ends so."""
        return [r for r in self.requests if r.path.endswith(ending)]


class Worker:
    """A worker of the emulated platform, driven by hand."""

    def __init__(self, platform: RunPodPlatform, endpoint: str, worker_id: str = "w1") -> None:
        self._base = f"{platform.base_url}/{endpoint}"
        self._id = worker_id
        self._session = requests.Session()
        self._session.headers["Authorization"] = platform.config.worker_key

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def take(self) -> dict[str, Any]:
        """Wait for a job and take it."""
        reply = self._session.get(f"{self._base}/job-take/{self._id}", timeout=30)
        assert reply.status_code == 200, reply.status_code
        job: dict[str, Any] = reply.json()
        return job

    def progress(self, job: dict[str, Any], output: object) -> None:
        self._post(job, {"status": "IN_PROGRESS", "output": output})

    def done(self, job: dict[str, Any], output: object) -> requests.Response:
        return self._post(job, {"output": output})

    def fail(self, job: dict[str, Any], error: str, **output: object) -> None:
        self._post(job, {"error": error, **({"output": output} if output else {})})

    def succeed(self, job: dict[str, Any], *artifacts: dict[str, Any], **more: Any) -> None:
        """Answer as our worker does."""
        self.done(
            job,
            {
                "contract": 1,
                "attempt_id": job["input"]["attempt_id"],
                "artifacts": list(artifacts),
                "timings": {"prepare": 0.1, "execute": 2.0},
                "gpu": {"name": "RTX 4090", "type": "cuda", "seconds": 2.0},
                **more,
            },
        )

    def _post(self, job: dict[str, Any], body: object) -> requests.Response:
        return self._session.post(
            f"{self._base}/job-done/{self._id}/{job['id']}", json=body, timeout=30
        )


WRONG: list[tuple[str, object, str]] = [
    ("seconds", "abc", "seconds must be a number, not 'abc'"),
    ("seconds", float("nan"), "seconds must be a number, not nan"),
    ("image", 5, "image must be a file's path"),
    ("policy", 5, "policy must be a text, not 5"),
    ("timeout_s", "z", "timeout_s must be a number, not 'z'"),
    ("project", 7, "project must be a text, not 7"),
    ("template", 4, "template must be a text, not 4"),
    ("kind", [], "kind must be a text, not a list"),
    ("private", "no", "private must be true or false, not 'no'"),
    ("width", 10**400, "width must be a whole number"),
    ("width", True, "width must be a whole number, not True"),
    ("seed", -1, "seed must be a whole number from 0"),
    ("forbid", "runpod", "forbid must be a list of texts, not 'runpod'"),
    ("max_cost", [], "max_cost must be an amount in dollars"),
]
"""An option, a value that it cannot have, and what is told."""
