"""The worker's own ComfyUI: its child process, its folders, its session."""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from collections.abc import Sequence

from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.install import Installation
from pennyreel_comfy.process import CHILD, ComfyProcess, State
from pennyreel_comfy.session import Session
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, Gpu, Unavailable, error
from pennyreel_worker.settings import Settings

log = logging.getLogger(__name__)


class Comfy:
    """ComfyUI as the worker needs it: started early, restarted when found dead."""

    def __init__(self, settings: Settings) -> None:
        """Make the folders; `start` starts the child."""
        self._settings = settings
        self._work = settings.make_work_dir()
        self.folders = {
            "input": self._work / "input",
            "output": self._work / "output",
            # ComfyUI appends "temp" to its --temp-directory.
            "temp": self._work / "temp",
        }
        for folder in (*self.folders.values(), self._work / "user"):
            folder.mkdir(parents=True, exist_ok=True)
        installation = None
        if settings.comfy_command is None:
            installation = Installation.load(settings.comfy_root)
            if installation is None:
                raise error(
                    Code.NOT_INSTALLED,
                    "there is no ComfyUI where PENNYREEL_COMFYUI_ROOT points",
                    hint="Run: python -m pennyreel_comfy.install ROOT",
                )
        self._installation = installation
        self.process = ComfyProcess(
            self._command,
            env=installation.env() if installation else None,
            cwd=self._work,
            start_s=settings.start_s,
            on_line=_log_line,
        )
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._gpu: tuple[str, Gpu] | None = None

    def start(self) -> None:
        """Start the child and return at once."""
        self.process.start()

    def ready(self, deadline: Deadline, cancel: CancelToken | None = None) -> Session:
        """Return a session with a living server, starting it anew where it has died."""
        with self._lock:
            if self.process.state in {State.FAILED, State.STOPPED, State.NEW}:
                log.warning("ComfyUI is %s: starting it", self.process.state.value)
                self.process.restart()
        self.process.wait_ready(Deadline(deadline.left(self._settings.start_s)), cancel)
        with self._lock:
            url = self.process.url
            if self._session is None or self._session.http.base_url != url:
                if self._session is not None:
                    self._session.close()
                session = Session(ComfyHttp(url), down_grace_s=self._settings.down_grace_s)
                session.connect()
                self.process.on_death(session.fail_all)
                self._session = session
            return self._session

    def gpu(self) -> Gpu | None:
        """Return the device that ComfyUI uses; asked once a start."""
        with self._lock:
            session = self._session
        if session is None:
            return None
        if self._gpu is None or self._gpu[0] != session.http.base_url:
            try:
                devices = session.http.system_stats().get("devices") or [{}]
            except Unavailable:
                return None
            first = devices[0]
            memory = first.get("vram_total")
            self._gpu = (
                session.http.base_url,
                Gpu(
                    name=str(first.get("name", "")),
                    type=str(first.get("type", "")),
                    vram_bytes=int(memory) if memory else None,
                ),
            )
        return self._gpu[1]

    def line(self) -> str:
        """One line for the log: version and device."""
        gpu = self.gpu()
        version = self._installation.comfyui_version if self._installation else "?"
        return f"ComfyUI {version} on {gpu.name if gpu else 'an unknown device'}"

    def clean(self, attempt_id: str) -> None:
        """Remove a job's own folders."""
        for kind in ("input", "output"):
            shutil.rmtree(self.folders[kind] / attempt_id, ignore_errors=True)

    def stop(self) -> None:
        """End the child and remove the folders."""
        with self._lock:
            if self._session is not None:
                self._session.close()
        self.process.stop()
        shutil.rmtree(self._work, ignore_errors=True)

    def _command(self, port: int) -> Sequence[str]:
        folders: tuple[str, ...] = (
            *("--input-directory", str(self.folders["input"])),
            *("--output-directory", str(self.folders["output"])),
            *("--temp-directory", str(self._work)),
            *("--user-directory", str(self._work / "user")),
            *("--database-url", "sqlite:///:memory:"),
        )
        if self._installation is not None:
            argv = self._installation.command(port, extra=folders)
            return [argv[0], str(CHILD), *argv[1:]]
        command = [part.replace("{port}", str(port)) for part in self._settings.comfy_command or ()]
        return [*command, *folders, "--port", str(port)]


def _log_line(line: str) -> None:
    sys.stderr.write(f"comfyui | {line}\n")


def models_missing(http: ComfyHttp, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the (folder, name) pairs that the server does not have."""
    have = {folder: set(http.models(folder)) for folder in {f for f, _ in wanted}}
    return [(folder, name) for folder, name in wanted if name not in have[folder]]
