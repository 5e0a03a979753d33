"""A client and a worker made of plain HTTP, a clock one can set, and waiting for conditions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from fakes import waits
from pennyreel_emulators.runpod import EndpointConfig, PlatformConfig, RunPodPlatform

until = waits.until

HANDLERS = Path(__file__).parent / "handlers"
VERSATILE = (sys.executable, str(HANDLERS / "versatile.py"))
STREAMING = (sys.executable, str(HANDLERS / "streaming.py"))
PLAIN = (sys.executable, "-I", "-S", str(HANDLERS / "plain.py"))


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie of somebody else's counts as ended)."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


class ManualClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Client:
    """A client of the job API."""

    def __init__(
        self,
        platform: RunPodPlatform,
        endpoint: str,
        session: requests.Session,
        key: str | None = None,
    ) -> None:
        self.url = f"{platform.base_url}/{endpoint}"
        self.session = session
        sent = f"Bearer {platform.config.api_key}" if key is None else key
        self.headers = {"Authorization": sent}

    def post(self, path: str, body: object = None, **params: object) -> requests.Response:
        return self.session.post(
            f"{self.url}/{path}", json=body, params=params, headers=self.headers, timeout=60
        )

    def get(self, path: str, **params: object) -> requests.Response:
        return self.session.get(
            f"{self.url}/{path}", params=params, headers=self.headers, timeout=60
        )

    def run(self, given: object = None, **extra: object) -> str:
        answer = self.post("run", {"input": given or {}, **extra})
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def runsync(self, given: object = None, **extra: object) -> dict[str, Any]:
        answer = self.post("runsync", {"input": given or {}, **extra})
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def status(self, job_id: str) -> dict[str, Any]:
        answer = self.get(f"status/{job_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def health(self) -> dict[str, Any]:
        return dict(self.get("health").json())

    def ended(self, job_id: str, seconds: float = 15.0) -> dict[str, Any]:
        def final() -> dict[str, Any] | None:
            shown = self.status(job_id)
            return shown if shown["status"] not in {"IN_QUEUE", "IN_PROGRESS"} else None

        return until(final, seconds) or {}


class Worker:
    """A worker that speaks the SDK's routes, one call at a time."""

    def __init__(
        self,
        platform: RunPodPlatform,
        endpoint: str,
        session: requests.Session,
        worker_id: str = "pod1",
    ) -> None:
        self.url = f"{platform.base_url}/{endpoint}"
        self.id = worker_id
        self.session = session
        self.headers = {"Authorization": platform.config.worker_key}

    def get(self, route: str, **params: object) -> requests.Response:
        return self.session.get(
            f"{self.url}/{route}/{self.id}",
            params={"gpu": "X", **params},
            headers=self.headers,
            timeout=60,
        )

    def take(self) -> dict[str, Any]:
        answer = self.get("job-take", job_in_progress="0")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def stops(self) -> list[str]:
        answer = self.get("job-stop")
        return list(answer.json()["jobsToStop"]) if answer.status_code == 200 else []

    def done(self, job_id: str, body: object, *, route: str = "job-done") -> requests.Response:
        # The SDK's content type: form-urlencoded, though the body is JSON.
        return self.session.post(
            f"{self.url}/{route}/{self.id}/{job_id}",
            params={"gpu": "X", "isStream": "false"},
            data=json.dumps(body).encode(),
            headers={**self.headers, "Content-Type": "application/x-www-form-urlencoded"},
            timeout=60,
        )

    def progress(self, job_id: str, output: object) -> requests.Response:
        return self.done(job_id, {"status": "IN_PROGRESS", "output": output})


class Bench:
    """One platform without a fleet, a client and a worker of its endpoint "ep"."""

    def __init__(self, platform: RunPodPlatform, clock: ManualClock) -> None:
        self.platform = platform
        self.clock = clock
        self.session = requests.Session()
        self.client = Client(platform, "ep", self.session)
        self.worker = self.another("pod1")

    def another(self, worker_id: str) -> Worker:
        return Worker(self.platform, "ep", self.session, worker_id)

    def taken(self, given: object = None, **extra: object) -> str:
        """Submit a job and take it."""
        job_id = self.client.run(given, **extra)
        assert self.worker.take()["id"] == job_id
        return job_id


def bench_config(endpoint: EndpointConfig, **changes: Any) -> PlatformConfig:
    """A platform of one endpoint whose held polls are short."""
    settings: dict[str, Any] = {"endpoints": {"ep": endpoint}, "poll_hold_s": 0.2, "tick_s": 0.02}
    return PlatformConfig(**{**settings, **changes})


class SdkClient:
    """RunPod's own client in a process of its own, with the base URL set before its import."""

    def __init__(self, base_url: str, key: str) -> None:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("RUNPOD_")}
        self._process = subprocess.Popen(
            [sys.executable, str(HANDLERS.parent / "sdk_client.py")],
            env={**clean, "RUNPOD_ENDPOINT_BASE_URL": base_url, "RUNPOD_API_KEY": key},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, verb: str, *args: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([verb, *args]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "raised" in answer:
            raise RuntimeError(answer["raised"])
        return answer["returned"]

    def close(self) -> None:
        self._process.communicate()
