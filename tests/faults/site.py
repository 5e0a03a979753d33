"""Where a fault is played: the emulated platform, real workers and their ComfyUI.

A job goes in by the platform's /run, a worker process takes it, and everything is judged by what
the platform was told. Waits end at the case's deadline with an AssertionError.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import requests
import urllib3
from typing_extensions import Self

from fakes.ports import port_for_later
from fakes.waits import gone
from faults import commands
from faults.gateway import Gateway
from pennyreel_contract import ErrorInfo, Result, new_attempt_id, parse_result
from pennyreel_emulators.runpod import EndpointConfig, PlatformConfig, RunPodPlatform

T = TypeVar("T")

ENDPOINT = "faults"
SECRET = "wJalrXUtnFEMIbPxRfiCYEXAMPLEKEY"
BUCKET = "results"
START_S = 90.0
REPORT_S = 6.0
_PASS = ("PATH", "PYTHONPATH", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
_FINAL = {"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"}


@dataclass(frozen=True)
class Plan:
    """What a site is made of.

    Attributes:
        comfyui: real | relayed (the real one behind a relay) | scripted.
        env: of the worker.
        between: a gateway between the worker and the platform.
        s3: a bucket behind a gateway.
        disk_bytes: the work folder is a file system of this size.

    """

    comfyui: str = "scripted"
    env: Mapping[str, str] = field(default_factory=dict)
    device: str = "cpu"
    between: bool = False
    s3: bool = False
    disk_bytes: int = 0


class Site:
    """See the module. A context manager."""

    def __init__(
        self, plan: Plan, *, root: Path | None = None, s3_url: str = "", switch: Path | None = None
    ) -> None:
        """`root`: the real ComfyUI's installation. `switch`: see without.py."""
        self.plan = plan
        self.folder = Path(tempfile.mkdtemp(prefix="faults-"))
        self.work = self.folder / "work"
        self.work.mkdir()
        self.how = self.folder / "how"
        self.control = self.folder / "control"
        self.switch = switch
        self._root = root
        self.s3 = Gateway(s3_url)
        self.file_port = port_for_later()
        self.front = Gateway()
        self.lines: list[tuple[str, str]] = []
        self.jobs: dict[str, int] = {}
        self.killed: set[str] = set()
        self._seen_lines = 0
        self._deadline = time.monotonic()
        self._stack = contextlib.ExitStack()
        self._http = requests.Session()
        self._http.trust_env = False

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
            stack.callback(self._http.close)
            stack.enter_context(self._disk())
            if self.plan.s3:
                stack.enter_context(self.s3)
            if self.plan.between:
                stack.enter_context(self.front)
            self.how.write_text("good")
            port = port_for_later()
            self.front.target = f"http://127.0.0.1:{port}"
            self.platform = RunPodPlatform(
                self._config(port), on_log=lambda _e, w, line: self.lines.append((w, line))
            )
            stack.enter_context(self.platform)
            self.begin(START_S)
            self.until(lambda: self.polling(), "a worker asks for jobs")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.platform.close()
            self.begin(5)
            self.until(lambda: not self.processes(), "no process is left")
            left = [p for p in self.work.iterdir() if p.name not in self.killed]
            files = [str(f) for place in left for f in place.rglob("*")]
            ends = [(w.id, w.exit_code, w.reason) for w in self.platform.workers(ENDPOINT)]
            assert not left, f"left behind: {files[:20]}; {ends}\n{self.tail()}"
        finally:
            for process in self.processes():  # of a case that failed
                with contextlib.suppress(psutil.Error):
                    process.kill()
            self._stack.close()

    # Jobs.

    def run(self, graph: Mapping[str, Any] | None, *, finals: int = 1, **request: Any) -> str:
        """Queue a job; `finals`: answers that the platform has to get for it."""
        platform = request.pop("platform", {})
        body = {"contract": 1, "attempt_id": new_attempt_id(), **request}
        body |= {} if graph is None else {"workflow": graph}
        job = str(self.call("POST", "run", json={"input": body, **platform})["id"])
        self.jobs[job] = finals
        return job

    def call(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        url = f"{self.platform.base_url}/{ENDPOINT}/{path}"
        key = {"Authorization": f"Bearer {self.platform.config.api_key}"}
        # No kept connection: one that the platform has just closed would be reported as a failure.
        key["Connection"] = "close"
        with self._http.request(method, url, headers=key, timeout=30, **body) as reply:
            answer: dict[str, Any] = reply.json()
            return answer

    def ended(self, job: str) -> dict[str, Any]:
        """Wait for the job's end; returns its status object."""

        def status() -> dict[str, Any] | None:
            view = self.call("GET", f"status/{job}")
            return view if view.get("status") in _FINAL else None

        return self.until(status, f"job {job} ends")

    def result(self, job: str, *, again: bool | None = False) -> Result:
        """Wait for its good end. `again`: whether it was run a second time; None: either."""
        view = self.ended(job)
        assert view["status"] == "COMPLETED", view
        result = parse_result(json.loads(json.dumps(view["output"])))
        assert len(result.artifacts) == 1, result
        (made,) = result.artifacts
        assert made.bytes > 0
        if made.data is not None:
            assert base64.b64decode(made.data).startswith(b"\x89PNG"), "it is an image"
        if again is not None:
            told = any("the job was run again" in w for w in result.warnings)
            assert told == again, result.warnings
        return result

    def failure(self, job: str, *codes: str) -> ErrorInfo:
        """Wait for its end with one of these codes."""
        view = self.ended(job)
        assert view["status"] == "FAILED", view
        assert "pennyreel_error" in str(view["error"]), view
        problem = ErrorInfo.decode(view["error"])
        assert problem.code in codes, problem
        return problem

    def cancel(self, job: str) -> None:
        self.jobs[job] = 0
        self.call("POST", f"cancel/{job}")

    def good(self) -> Result:
        """Run a job that has to succeed at once."""
        return self.result(self.run(commands.plain(self.plan.comfyui)))

    def progress(self, job: str) -> list[Any]:
        return [p.output for p in self.platform.posts(job) if p.status == "IN_PROGRESS"]

    def hang(self) -> dict[str, Any]:
        """Return a request that reads a file which never ends, as on a volume that hangs."""
        place = self.folder / "templates"
        if not place.exists():
            place.mkdir()
            (place / "hung.toml").write_text('title = "Hung"\nkind = "image"\ndescription = "x"\n')
            os.mkfifo(place / "hung.json")
        return {"graph": None, "template": "hung"}

    def mend(self) -> None:
        """End the faults of connections."""
        for gateway, used in ((self.s3, self.plan.s3), (self.front, self.plan.between)):
            gateway.clear()
            if used:
                gateway.open()

    # Waiting.

    def begin(self, seconds: float, *, keep: bool = False) -> None:
        """Give what follows so many seconds; `keep` its jobs and lines for `check`."""
        self._deadline = time.monotonic() + seconds
        if not keep:
            self.jobs.clear()
            self._seen_lines = len(self.lines)

    def until(self, condition: Callable[[], T | None], what: str) -> T:
        """Wait for something true, no longer than the case may take."""
        while not (value := condition()):
            assert time.monotonic() < self._deadline, f"in vain: {what}\n{self.tail()}"
            time.sleep(0.02)
        return value

    def tail(self) -> str:
        return "\n".join(line for _, line in self.lines[-40:])

    def said(self, text: str) -> bool:
        """Whether a worker has written this since the case began."""
        return any(text in line for _, line in self.lines[self._seen_lines :])

    # Processes.

    def living(self) -> list[Any]:
        return [w for w in self.platform.workers(ENDPOINT) if w.exit_code is None]

    def worker(self) -> Any:
        """The living worker's id and pid."""
        return self.until(
            lambda: next((w for w in self.living() if w.reason is None), None), "a worker"
        )

    def exit_code(self, worker_id: str) -> int:
        """Wait for a worker's end."""

        def code() -> tuple[int] | None:
            found = [w for w in self.platform.workers(ENDPOINT) if w.id == worker_id]
            return (found[0].exit_code,) if found[0].exit_code is not None else None

        return self.until(code, "the worker ends")[0]

    def polling(self) -> bool:
        """Whether a worker is ready for jobs."""
        return any(w.state == "idle" and w.reason is None for w in self.living())

    def processes(self) -> list[psutil.Process]:
        """Return all of this site's processes: those told of its folder, and their forks."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                told = [*process.cmdline(), process.environ().get("PENNYREEL_WORK_DIR", "")]
                if any(str(self.folder) in text for text in told):
                    found.append(process)
        return [p for p in found if p.pid != os.getpid()]

    def comfyui(self) -> psutil.Process:
        """Wait for ComfyUI's process: behind a relay, the one that listens last."""

        def find() -> psutil.Process | None:
            with contextlib.suppress(psutil.Error):
                found = [p for p in self.processes() if "--port" in p.cmdline()]
                parents = {p.ppid() for p in found}
                return next((p for p in found if p.pid not in parents), None)
            return None

        return self.until(find, "a ComfyUI runs")

    def port(self) -> int:
        """The port at which the worker speaks to ComfyUI."""
        (line,) = [
            p.cmdline()
            for p in self.processes()
            if "--port" in p.cmdline() and p.ppid() == self.worker().pid
        ]
        return int(line[len(line) - 1 - line[::-1].index("--port") + 1])

    def running(self) -> psutil.Process:
        """Wait until ComfyUI runs a job; returns its process."""
        self.until(self._runs, "ComfyUI runs a job")
        return self.comfyui()

    def _runs(self) -> bool:
        with contextlib.suppress(
            requests.RequestException, ValueError, urllib3.exceptions.HTTPError
        ):
            reply = self._http.get(f"http://127.0.0.1:{self.port()}/queue", timeout=2)
            return bool(reply.json()["queue_running"])
        return False

    def kill(self, process: psutil.Process) -> None:
        """SIGKILL, and see that it is gone."""
        process.send_signal(signal.SIGKILL)
        self.until(lambda: gone(process), "it dies")

    def runs(self, tag: str) -> int:
        """How often the pack's node of this tag has run."""
        file = self.folder / "custom_nodes" / "faults" / "runs" / tag
        return len(file.read_text().splitlines()) if file.exists() else 0

    def relay(self, line: str) -> None:
        """Tell the relay what to do to the connections."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(5)
            control.connect(str(self.control))
            control.sendall(line.encode() + b"\n")
            assert control.recv(8) == b"ok\n"

    @property
    def command(self) -> list[str]:
        """What starts a worker."""
        if self.switch is not None:
            return [sys.executable, str(commands.HERE / "without.py"), str(self.switch)]
        return [sys.executable, "-m", "pennyreel_worker"]

    def environment(self, worker_id: str) -> dict[str, str]:
        """Return the variables of a worker that the platform does not start."""
        return {**self._env(), **self.platform.worker_environment(ENDPOINT, worker_id)}

    def replace_worker(self) -> None:
        """Have the platform stop the worker, and wait for the next one."""
        old = self.worker()
        self.platform.stop_worker(ENDPOINT, old.id)
        self.exit_code(old.id)
        self.until(self.polling, "the next worker asks for jobs")

    def heal(self) -> None:
        """After a case that failed: end its jobs and its ComfyUI, and see that a job succeeds."""
        self.begin(40, keep=True)
        self.how.write_text("good")
        for job in self.jobs:
            with contextlib.suppress(requests.RequestException, ValueError, KeyError):
                self.call("POST", f"cancel/{job}")
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                if "--port" in process.cmdline():
                    process.kill()
        self.until(self.polling, "a worker asks for jobs")
        self.begin(60)
        self.result(self.run(commands.plain(self.plan.comfyui)), again=None)

    # What is left behind.

    def check(self) -> None:
        """Nothing but the worker and its ComfyUI is there, and each job had one answer."""
        self.until(lambda: not self.files(), f"no file of a job is left: {self.files()}")
        for job, finals in self.jobs.items():
            posts = self.platform.posts(job)
            answers = [p for p in posts if p.status != "IN_PROGRESS" and p.accepted]
            assert len(answers) == finals, (job, posts)
            assert not answers or posts[-1].status != "IN_PROGRESS", "nothing follows the answer"
        self.until(lambda: self._comfyuis() == 1, f"one ComfyUI: {self._comfyuis()}")
        for _, line in self.lines[self._seen_lines :]:
            assert SECRET not in line, "a secret is in the log"
            assert "Traceback" not in line or line.startswith("comfyui | "), self.tail()

    def _comfyuis(self) -> int:
        workers = {w.pid for w in self.living()}
        count = 0
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                count += "--port" in process.cmdline() and process.ppid() in workers
        return count

    def files(self) -> list[Path]:
        """What jobs have left in the workers' folders."""
        found = []
        for kind in ("input", "output", "temp"):
            for place in self.work.glob(f"*/{kind}"):
                if place.parent.name not in self.killed:
                    # Not rglob: folders go while it looks.
                    found += [Path(at, f) for at, _, files in os.walk(place) for f in files]
        return found

    # Making it.

    def _config(self, port: int) -> PlatformConfig:
        endpoint = EndpointConfig(
            command=tuple(self.command),
            env=self._env(),
            inherit_environment=False,
            workers_min=1,
            workers_max=1,
            idle_timeout_s=3600,
            stop_grace_s=12,
            report_timeout_s=REPORT_S,
            ping_interval_ms=1000,
            crash_backoff_s=0.2,
        )
        return PlatformConfig(
            endpoints={ENDPOINT: endpoint}, port=port, poll_hold_s=5, close_grace_s=15
        )

    def _env(self) -> dict[str, str]:
        env = {n: os.environ[n] for n in _PASS if n in os.environ}
        env |= {"PENNYREEL_WORK_DIR": str(self.work), "PENNYREEL_LEAST_FREE_BYTES": "1000000"}
        env["PENNYREEL_TEMPLATES"] = str(self.folder / "templates")
        env |= commands.comfyui(self.plan, self.folder, self._root)
        if self.plan.s3:
            env |= {
                "PENNYREEL_ALLOW_HOSTS": f"{self.s3.host},127.0.0.1:{self.file_port}",
                "BUCKET_ENDPOINT_URL": self.s3.url,
                "BUCKET_NAME": BUCKET,
                "BUCKET_ACCESS_KEY_ID": "AKIATEST",
                "BUCKET_SECRET_ACCESS_KEY": SECRET,
                "BUCKET_ADDRESSING": "path",
            }
        if self.plan.between:
            with RunPodPlatform(PlatformConfig(endpoints={ENDPOINT: EndpointConfig()})) as other:
                hooks = other.worker_environment(ENDPOINT, "")
                env |= {
                    name: value.replace(f"http://127.0.0.1:{other.port}", self.front.url)
                    for name, value in hooks.items()
                    if name.startswith("RUNPOD_WEBHOOK_")
                }
        return env | dict(self.plan.env)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """A real file system of its own, small enough to be filled."""
        if not self.plan.disk_bytes:
            yield
            return
        options = f"size={self.plan.disk_bytes},mode=0777"
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.work)], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(self.work)], check=True)


def with_env(plan: Plan, **env: str) -> Plan:
    return replace(plan, env={**plan.env, **env})
