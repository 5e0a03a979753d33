"""Workers on the emulated platform, by the true SDK loop, and what the platform saw of them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests

from pennyreel_contract import new_attempt_id
from pennyreel_emulators.runpod import (
    EndpointConfig,
    Event,
    JobFinished,
    JobReturned,
    JobTaken,
    PlatformConfig,
    RunPodPlatform,
    WorkerReady,
)
from worker_bench.comfyui import START_S, until

ENDPOINT = "bench"
OURS = (sys.executable, "-m", "pennyreel_worker")
_PASS = ("PATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")
JOB_S = 300.0


class Fleet:
    """A platform with workers. Its events come in the order in which the platform saw them."""

    def __init__(
        self,
        env: Mapping[str, str],
        *,
        command: tuple[str, ...] = OURS,
        workers: int = 1,
        at_once: bool = True,
        stock: bool = False,
        idle_s: float = 3600.0,
    ) -> None:
        """Prepare; `at_once` False starts workers only when a job waits."""
        self.events: list[Event] = []
        self.lines: deque[str] = deque(maxlen=200)
        self._stock = stock
        self._workers = workers
        self._at_once = at_once
        self._lock = threading.Lock()
        endpoint = EndpointConfig(
            command=command,
            env={**{n: os.environ[n] for n in _PASS if n in os.environ}, **env},
            inherit_environment=False,
            workers_min=workers if at_once else 0,
            workers_max=workers,
            idle_timeout_s=idle_s,
        )
        self.platform = RunPodPlatform(
            PlatformConfig(endpoints={ENDPOINT: endpoint}),
            on_event=self._heard,
            on_log=lambda _endpoint, _worker, line: self.lines.append(line),
        )
        self._http = requests.Session()
        self._http.trust_env = False

    @contextlib.contextmanager
    def running(self) -> Iterator[Fleet]:
        """Start; returns when every worker asks for jobs, where they start at once."""
        with self.platform, self._http:
            if self._at_once:
                self._until(lambda: len(self.of(WorkerReady)) >= self._workers, "workers", START_S)
            yield self

    def submit(self, graph: Mapping[str, Any], **more: Any) -> str:
        """Queue a graph; returns the platform's id of the job."""
        body: dict[str, Any] = {"workflow": graph}
        if not self._stock:
            body |= {"contract": 1, "attempt_id": new_attempt_id(), **more}
        reply = self._http.post(
            f"{self.platform.base_url}/{ENDPOINT}/run",
            json={"input": body},
            headers={"Authorization": f"Bearer {self.platform.config.api_key}"},
            timeout=30,
        )
        reply.raise_for_status()
        return str(reply.json()["id"])

    def wait(self, jobs: list[str]) -> dict[str, JobFinished]:
        """Wait until these jobs have ended well."""
        found: dict[str, JobFinished] = {}

        def done() -> bool:
            found.update((event.job_id, event) for event in self.of(JobFinished))
            return all(job in found for job in jobs)

        self._until(done, "jobs", JOB_S)
        for job in jobs:
            if found[job].status != "COMPLETED":
                raise SystemExit(f"job {job}: {found[job].status}: {found[job].error}\n{self.log}")
        return found

    def output(self, job: str) -> dict[str, Any]:
        """Return what the worker posted at the job's end."""
        output = self.platform.posts(job)[-1].output
        return output if isinstance(output, dict) else {}

    def of(self, kind: type[Any]) -> list[Any]:
        """Return the events of one kind so far."""
        with self._lock:
            return [event for event in self.events if isinstance(event, kind)]

    def pid(self) -> int:
        """Return the process id of the first worker that runs."""
        return next(w.pid for w in self.platform.workers(ENDPOINT) if w.exit_code is None)

    @property
    def log(self) -> str:
        """The last lines of all workers."""
        return "\n".join(self.lines)

    def held_max(self) -> int:
        """Return the most jobs that one worker had at once, by the platform's books."""
        held: dict[str, set[str]] = {}
        most = 0
        with self._lock:
            events = list(self.events)
        for event in events:
            if isinstance(event, JobTaken):
                mine = held.setdefault(event.worker_id, set())
                mine.add(event.job_id)
                most = max(most, len(mine))
            elif isinstance(event, (JobReturned, JobFinished)) and event.worker_id is not None:
                held.get(event.worker_id, set()).discard(event.job_id)
        return most

    def _heard(self, event: Event) -> None:
        with self._lock:
            self.events.append(event)

    def _until(self, true: Callable[[], bool], what: str, seconds: float) -> None:
        try:
            until(true, what, seconds)
        except SystemExit as problem:
            raise SystemExit(f"{problem}\n{self.log}") from None
