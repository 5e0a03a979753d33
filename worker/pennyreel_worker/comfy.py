"""The worker's own ComfyUI: its child process, its folders, its session."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pennyreel_comfy.diagnose import Kind, diagnose
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.install import Installation, child_env
from pennyreel_comfy.install.packs import version_of
from pennyreel_comfy.models.names import known_folder
from pennyreel_comfy.preflight import NodeCatalogue
from pennyreel_comfy.preflight.policy import ALL
from pennyreel_comfy.process import CHILD, ComfyProcess, State
from pennyreel_comfy.session import Session
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, Gpu, PennyreelError, SetupNeeded, Unavailable, error
from pennyreel_worker.gpu import gpu_of
from pennyreel_worker.log import comfy_line, redactor
from pennyreel_worker.models import Models
from pennyreel_worker.settings import Settings

log = logging.getLogger(__name__)

_SLACK_S = 10.0
"""The supervisor gives its own verdict on a slow start; waiting a little longer hears it."""

READ_S = 10.0
"""How long a job that has left the GPU may take to read how it ended."""

HOPELESS_STARTS = 2
"""Starts that may fail in a row: the second one shows that the first was no accident."""

PREVIEW_PX = "256"
"""ComfyUI's own 512 make each post of progress several times as large."""

_UNUSABLE = {Kind.GPU_UNSUPPORTED, Kind.DRIVER_TOO_OLD}
"""torch only warns of these: ComfyUI starts, and then each job fails in the depths of CUDA."""

_MODES = frozenset({"--gpu-only", "--highvram", "--normalvram", "--lowvram", "--novram", "--cpu"})
"""ComfyUI's ways to use the GPU's memory: it starts with one of them at most."""

_SMALL = "--lowvram"
_NO_LARGER = {_SMALL, "--novram", "--cpu"}

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
        own = installation.layout.comfy / "models" if installation else None
        self.models = Models(settings, own, self._work)
        self.process = ComfyProcess(
            self._command,
            env=_child_env(settings),
            cwd=self._work,
            start_s=settings.start_s,
            on_line=comfy_line,
            clean=redactor.clean,
        )
        self.process.on_death(self._died)
        self._lock = threading.Lock()
        self._catalogue_lock = threading.Lock()
        self._stuck = False
        self._small = False
        self._shrunk: set[str] = set()
        self._failed_starts = 0
        self._checked: int | None = None
        self._session: Session | None = None
        self._gpu: tuple[str, Gpu] | None = None
        self._nodes: tuple[str, NodeCatalogue] | None = None

    def start(self) -> None:
        """Start the child and return at once."""
        self.process.start()

    def ready(
        self, deadline: Deadline, cancel: CancelToken | None = None, *, kind: str = ""
    ) -> Session:
        """Return a session with a living server, starting it anew where that is needed.

        Only for who has the GPU's turn: it may end what runs. `kind`: of the job, since some kinds
        need the low-memory mode and the others are faster without it.
        """
        try:
            self._revive(kind in self._shrunk)
            self.process.wait_ready(deadline, cancel)
            self._check_gpu()
        except SetupNeeded as problem:
            with self._lock:
                # What its log calls fatal does not pass by itself; else it may be an accident.
                self._failed_starts += HOPELESS_STARTS if problem.info.detail.get("fatal") else 1
            raise
        with self._lock:
            self._failed_starts = 0
            return self._connect()

    def _check_gpu(self) -> None:
        """Refuse to work where the log of a good start says that the GPU cannot be used."""
        with self._lock:
            if self._checked == self.process.pid:
                return
            cause = diagnose(self.process.tail(200))
            if cause is not None and cause.kind in _UNUSABLE:
                raise error(
                    Code.COMFY_START_FAILED, cause.sentence, hint=cause.hint, detail={"fatal": True}
                )
            self._checked = self.process.pid

    def _revive(self, small: bool) -> None:
        """Start the child anew if it is dead, condemned, or in the wrong mode."""
        if small != self._small:
            # The former job has left the GPU, and may still be reading how it ended.
            self.process.wait_idle(READ_S)
        with self._lock:
            state = self.process.state
            dead = state in {State.FAILED, State.STOPPED, State.NEW}
            if not (self._stuck or dead or small != self._small):
                return
            log.warning(
                "ComfyUI is %s: starting it%s",
                "stuck" if self._stuck else state.value,
                " in its low-memory mode" if small else "",
            )
            kill, self._stuck, self._small = self._stuck, False, small
            if self._session is not None:  # who still waits on it need not wait out its grace
                self._session.fail_all(error(Code.COMFY_CRASHED, "ComfyUI was started anew"))
                self._session.close()
                self._session = None
            self.process.restart(kill=kill)

    def living(self) -> Session | None:
        """Return a session where a server lives now; starts and ends nothing."""
        with self._lock:
            if self._stuck or self.process.state not in {State.READY, State.BUSY}:
                return None
            return self._connect()

    def catalogue(self, *, renew: bool = False) -> NodeCatalogue | None:
        """Return what the server's nodes take, read once a start; while it is down, the last known.

        `renew`: read it again, since model files may have come.
        """
        session = self.living()
        with self._catalogue_lock:
            known = self._nodes
            if session is None or (known and not renew and known[0] == session.http.base_url):
                return known[1] if known else None
            try:
                catalogue = NodeCatalogue(session.http.object_info(), self.models.jobs.files())
            except Unavailable:
                return known[1] if known else None
            self._nodes = session.http.base_url, catalogue
            return catalogue

    def first_ready(self, cancel: CancelToken | None = None) -> None:
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

    def condemn(self, why: str, session: Session) -> None:
        """Have the next job start ComfyUI anew: this one lives, but serves nobody any more.

        `session`: of the one that is meant; where another one was started since, nothing is done.
        """
        with self._lock:
            if session is not self._session or self.process.problem is not None:
                return
            log.error("ComfyUI %s: it will be started anew", why)
            self._stuck = True

    @property
    def hopeless(self) -> bool:
        """Whether it has failed to start so often that another machine should be tried."""
        return self._failed_starts >= HOPELESS_STARTS  # without the lock: a start may hold it

    def can_shrink(self) -> bool:
        """Whether there is a mode that needs less memory than the present one."""
        given = {*self._settings.comfy_options, *(self._settings.comfy_command or ())}
        if self._small or given & _NO_LARGER:
            return False
        gpu = self.gpu()
        return gpu is not None and gpu.type not in {"", "cpu"}

    def shrink(self, kind: str) -> None:
        """Have jobs of this kind run in the low-memory mode from now on."""
        with self._lock:
            self._shrunk.add(kind)

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
            self._gpu = session.http.base_url, gpu_of(devices[0])
        return self._gpu[1]

    def packs(self) -> dict[str, str]:
        """Return the node packs that are in use, with their versions where these are known."""
        known = self.catalogue()
        own = self._installation.layout.comfy / "custom_nodes" if self._installation else None
        found = {}
        for name in known.packs() if known else ():
            if own is None or not (own / f"{name}.py").is_file():  # a file: ComfyUI's own example
                found[name] = version_of(own / name) if own else ""
        return found

    def stats(self) -> dict[str, Any]:
        """Return /system_stats, or nothing where no server answers at once."""
        session = self.living()
        return session.http.system_stats(timeout=1.0) if session else {}

    def clean(self, attempt_id: str) -> None:
        """Remove a job's own folders."""
        for kind in ("input", "output"):
            shutil.rmtree(self.folders[kind] / attempt_id, ignore_errors=True)
        # Requests of paid nodes, keys and all, where ComfyUI is not run by our child.py.
        shutil.rmtree(self.folders["temp"] / "api_logs", ignore_errors=True)

    def sweep(self, keep: Iterable[str]) -> None:
        """Remove what no job here owns: previews, and what nodes wrote past their prefix.

        `keep`: attempt ids. Call it when no graph runs and nobody delivers previews.
        """
        kept = set(keep)
        for kind in ("input", "output", "temp"):
            for entry in _entries(self.folders[kind]):
                if entry.name in kept:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    with contextlib.suppress(OSError):
                        Path(entry.path).unlink()

    def input_folders(self) -> set[str]:
        """Return the names of the folders of jobs' input files."""
        return {e.name for e in _entries(self.folders["input"]) if e.is_dir(follow_symlinks=False)}

    def room(self) -> int:
        """Bytes free where the jobs' files are."""
        return shutil.disk_usage(self._work).free

    def stop(self) -> None:
        """End the child and remove the folders."""
        with self._lock:
            stuck = self._stuck
            if self._session is not None:
                self._session.close()
        self.process.stop(kill=stuck)  # it would not hear that it is asked
        shutil.rmtree(self._work, ignore_errors=True)

    def _command(self, port: int) -> Sequence[str]:
        options: tuple[str, ...] = (
            *("--input-directory", str(self.folders["input"])),
            *("--output-directory", str(self.folders["output"])),
            *("--temp-directory", str(self._work)),
            *("--user-directory", str(self._work / "user")),
            *("--database-url", "sqlite:///:memory:"),
            *self.models.options(),
        )
        options += self._settings.comfy_options
        if self._settings.previews:
            options += ("--preview-method", "auto", "--preview-size", PREVIEW_PX)
        if self._settings.comfy_log_level:
            options += ("--verbose", self._settings.comfy_log_level)
        if self._installation is not None:
            argv = self._installation.command(port, extra=options)
            return self._in_mode([argv[0], str(CHILD), *argv[1:]])
        command = [part.replace("{port}", str(port)) for part in self._settings.comfy_command or ()]
        return self._in_mode([*_tied(command), *options, "--port", str(port)])

    def _in_mode(self, command: list[str]) -> list[str]:
        """Have the low-memory mode in the place of the operator's, where it is wanted."""
        if not self._small:
            return command
        return [part for part in command if part not in _MODES] + [_SMALL]

    def _connect(self) -> Session:
        url = self.process.url
        if self._session is None or self._session.http.base_url != url:
            if self._session is not None:
                self._session.close()
            session = Session(ComfyHttp(url), down_grace_s=self._settings.down_grace_s)
            session.connect()
            self._session = session
        return self._session

    def _died(self, problem: PennyreelError) -> None:
        session = self._session
        if session is not None:
            session.fail_all(problem)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _child_env(settings: Settings) -> dict[str, str]:
    """Graphs are untrusted: no key is in ComfyUI's environment, and no path leads out of it."""
    env = child_env(os.environ)
    if not any(name == ALL or name.startswith("VHS_") for name in settings.allow_nodes):
        env["VHS_STRICT_PATHS"] = "1"
    return env


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


def models_missing(http: ComfyHttp, wanted: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the (folder, name) pairs that the server does not have."""
    have = {folder: set(http.models(_present(folder))) for folder in {f for f, _ in wanted}}
    return [(folder, name) for folder, name in wanted if name not in have[folder]]


def _present(folder: str) -> str:
    """Return ComfyUI's present name of a folder of models; a node pack's own is as it is."""
    try:
        return known_folder(folder)
    except PennyreelError:
        return folder
