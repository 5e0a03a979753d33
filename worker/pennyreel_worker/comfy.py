"""The worker's own ComfyUI: its child process, its folders, its session."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.install import Installation, child_env
from pennyreel_comfy.process import CHILD, ComfyProcess, State
from pennyreel_comfy.session import Session
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, Gpu, PennyreelError, Unavailable, error
from pennyreel_worker.settings import Settings

log = logging.getLogger(__name__)

_SLACK_S = 10.0
"""The supervisor gives its own verdict on a slow start; waiting a little longer hears it."""

_PYTHON = re.compile(r"python[0-9.]*(\.exe)?")


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
            env=child_env(os.environ),  # graphs are untrusted: no key is in its environment
            cwd=self._work,
            start_s=settings.start_s,
            on_line=_log_line,
        )
        self.process.on_death(self._died)
        self._lock = threading.Lock()
        self._stuck = False
        self._session: Session | None = None
        self._gpu: tuple[str, Gpu] | None = None

    def start(self) -> None:
        """Start the child and return at once."""
        self.process.start()

    def ready(self, deadline: Deadline, cancel: CancelToken | None = None) -> Session:
        """Return a session with a living server, starting it anew where it has died."""
        with self._lock:
            state = self.process.state
            if self._stuck or state in {State.FAILED, State.STOPPED, State.NEW}:
                log.warning("ComfyUI is %s: starting it", "stuck" if self._stuck else state.value)
                self._stuck = False
                self.process.restart()
        self.process.wait_ready(deadline, cancel)
        with self._lock:
            url = self.process.url
            if self._session is None or self._session.http.base_url != url:
                if self._session is not None:
                    self._session.close()
                session = Session(ComfyHttp(url), down_grace_s=self._settings.down_grace_s)
                session.connect()
                self._session = session
            return self._session

    def first_ready(self, cancel: CancelToken) -> None:
        """Wait for the first start to end, well or badly."""
        self.ready(Deadline(self._settings.start_s + _SLACK_S), cancel)

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Mark a job as running."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self.process.busy())
            except RuntimeError as problem:  # it died, and another job is starting it anew
                raise error(Code.COMFY_CRASHED, str(problem)) from None
            yield

    @property
    def stuck(self) -> bool:
        """Whether it was condemned and not started anew yet."""
        with self._lock:
            return self._stuck

    def condemn(self, why: str) -> None:
        """Have the next job start ComfyUI anew: this one lives, but serves nobody any more."""
        log.error("ComfyUI %s: it will be started anew", why)
        with self._lock:
            self._stuck = True

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
        options: tuple[str, ...] = (
            *("--input-directory", str(self.folders["input"])),
            *("--output-directory", str(self.folders["output"])),
            *("--temp-directory", str(self._work)),
            *("--user-directory", str(self._work / "user")),
            *("--database-url", "sqlite:///:memory:"),
        )
        if self._settings.previews:
            options += ("--preview-method", "auto")
        if self._settings.comfy_log_level:
            options += ("--verbose", self._settings.comfy_log_level)
        if self._installation is not None:
            argv = self._installation.command(port, extra=options)
            return [argv[0], str(CHILD), *argv[1:]]
        command = [part.replace("{port}", str(port)) for part in self._settings.comfy_command or ()]
        return [*_tied(command), *options, "--port", str(port)]

    def _died(self, problem: PennyreelError) -> None:
        session = self._session
        if session is not None:
            session.fail_all(problem)


def _tied(command: Sequence[str]) -> list[str]:
    """Have a Python script end with us (see child.py); other programs are run as they are."""
    if not command or not _PYTHON.fullmatch(Path(command[0]).name):
        return list(command)
    for at, part in enumerate(command[1:], 1):
        if part.endswith(".py"):
            return [*command[:at], str(CHILD), *command[at:]]
        if not part.startswith("-") or part in {"-m", "-c"}:
            break
    return list(command)


def _log_line(line: str) -> None:
    sys.stderr.write(f"comfyui | {line}\n")


def models_missing(http: ComfyHttp, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the (folder, name) pairs that the server does not have."""
    have = {folder: set(http.models(folder)) for folder in {f for f, _ in wanted}}
    return [(folder, name) for folder, name in wanted if name not in have[folder]]
