"""Supervises one ComfyUI child: starts it, knows its state, keeps its last lines, ends it.

    NEW -> STARTING -> READY <-> BUSY        stop() -> STOPPED from anywhere
              |          |        |
              +----------+--------+-> FAILED  restart() -> STARTING

When the child dies, everybody who waits for it is told: `on_death` callbacks get the error that
their call should end with, exit code and last log lines included.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from pennyreel_comfy.endings import end, failure, kill_group, lines, manner, tell
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error

START_S = 180.0
STOP_S = 10.0
TAIL_LINES = 200
LOG_S = 2.0
_PROBE_S = 0.05

CHILD = Path(__file__).with_name("child.py")
"""Wrap ComfyUI with this (`[python, CHILD, main.py, …]`) and it ends when its parent does."""


# A process that forks (multiprocessing does, and RunPod's SDK by it) would give its child a copy of
# the pipes that keep our children alive, and they would outlive us by as long as that one lives.
_held: weakref.WeakSet[subprocess.Popen[bytes]] = weakref.WeakSet()


def _let_go_in_fork() -> None:
    for child in list(_held):
        if child.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # ValueError: closed already
                os.close(child.stdin.fileno())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_fork)


class State(str, Enum):
    """What the child is doing."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    FAILED = "failed"
    STOPPED = "stopped"


class ComfyProcess:
    """One ComfyUI child on a free loopback port, chosen anew at each start.

    Thread-safe. Illegal calls (start while it runs, busy while it does not) raise RuntimeError.
    """

    def __init__(
        self,
        command: Callable[[int], Sequence[str]],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_s: float = START_S,
        on_line: Callable[[str], None] | None = None,
        clean: Callable[[str], str] = str,
    ) -> None:
        """Prepare; nothing starts.

        Args:
            command: from a port to the argument list. Its stdin stays open while we live.
            env: the whole environment of the child; None = ours.
            cwd: where it runs.
            start_s: how long it may take to answer its first request.
            on_line: called with each line of its output, in a thread of ours.
            clean: takes secrets out of a line that is kept: errors carry the log's tail.

        """
        self._command = command
        self._env = None if env is None else dict(env)
        self._cwd = cwd
        self._start_s = start_s
        self._on_line = on_line
        self._clean = clean
        self._changed = threading.Condition(threading.RLock())
        self._state = State.NEW
        self._busy = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._restarting = 0
        self._problem: PennyreelError | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._callbacks: list[Callable[[PennyreelError], None]] = []
        self._threads: list[threading.Thread] = []
        self.port = 0
        self.started_s: float | None = None
        """Seconds from start to the first answer, of the last successful start."""

    @property
    def state(self) -> State:
        """What the child is doing now."""
        with self._changed:
            return self._state

    @property
    def url(self) -> str:
        """Its base URL, once started."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """Its process id while it runs."""
        with self._changed:
            alive = self._child is not None and self._child.poll() is None
            return self._child.pid if self._child is not None and alive else None

    @property
    def problem(self) -> PennyreelError | None:
        """Why it is FAILED; None in any other state."""
        with self._changed:
            return self._problem if self._state is State.FAILED else None

    def death(self, grace_s: float = 0.5) -> PennyreelError | None:
        """Return why it died, or None where it lives on; one that is just dying is waited for."""
        limit = time.monotonic() + grace_s
        with self._changed:
            while self._state is not State.FAILED:
                # Its connections break before its end is seen, and that before its log is read.
                left = limit - time.monotonic() + (LOG_S if self.pid is None else 0.0)
                if left <= 0:
                    return None
                self._changed.wait(min(left, _PROBE_S))
            return self._problem

    def wait_idle(self, seconds: float) -> None:
        """Wait until nobody is in `busy`, at most so long."""
        with self._changed:
            self._changed.wait_for(lambda: self._state is not State.BUSY, seconds)

    def tail(self, lines: int = 40) -> list[str]:
        """Return the last lines of its output."""
        with self._changed:
            return list(self._tail)[-lines:]

    def on_death(self, callback: Callable[[PennyreelError], None]) -> None:
        """Call `callback` with the error each time that the child dies unasked."""
        with self._changed:
            self._callbacks.append(callback)

    def start(self) -> None:
        """Start the child and return at once; `wait_ready` waits."""
        with self._changed:
            self._refuse_if_running()
            former = self._child
        if former is not None:
            end(former, STOP_S)  # one that took too long may still be on its way out
        with self._changed:
            self._refuse_if_running()
            self._stopping, self._problem, self._busy = False, None, 0
            self._tail.clear()
            self.port = free_port()
            child = self._spawn()
            self._child = child
            self._set(State.STARTING)
            reader = self._thread("log", self._read_log, child)
            self._threads = [
                reader,
                self._thread("watch", self._watch, child, reader),
                self._thread("ready", self._probe, child, time.monotonic()),
            ]
            for thread in self._threads:
                thread.start()

    def wait_ready(
        self, deadline: Deadline | None = None, cancel: CancelToken | None = None
    ) -> None:
        """Block until it answers.

        Raises:
            SetupNeeded: `comfy_start_failed`, with the log's tail: it died or took too long.
            JobTimeout, JobCancelled: the caller's own limit came first.

        """
        deadline = deadline or Deadline(self._start_s)
        with self._changed:
            while self._state not in {State.READY, State.BUSY}:
                if self._problem is not None:
                    raise self._problem
                if self._state in {State.NEW, State.STOPPED} and not self._restarting:
                    raise RuntimeError(f"ComfyUI is {self._state.value}, not starting")
                if cancel is not None:
                    cancel.check()
                if deadline.expired:
                    raise deadline.error("waiting for ComfyUI to start")
                self._changed.wait(deadline.left(0.25))

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Mark a job as running: BUSY while any is."""
        with self._changed:
            if self._state not in {State.READY, State.BUSY}:
                raise self._problem or RuntimeError(f"ComfyUI is {self._state.value}")
            if not self._busy:
                self._tail.clear()  # one job's crash is not to show another one's lines
            self._busy += 1
            self._set(State.BUSY)
            child = self._child
        try:
            yield
        finally:
            with self._changed:
                if self._child is child and self._state is State.BUSY:
                    self._busy -= 1
                    if self._busy == 0:
                        self._set(State.READY)

    def stop(self, *, kill: bool = False) -> None:
        """End the child and its children: SIGTERM, then SIGKILL. Returns when it is gone.

        `kill`: do not ask first; of a child that hangs, nothing else can be expected.
        """
        with self._changed:
            self._stopping = True
            child = self._child
        if child is not None and kill:
            kill_group(child)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
        elif child is not None:
            end(child, STOP_S)
        for thread in self._threads:
            if thread is not threading.current_thread() and thread.ident is not None:
                thread.join(STOP_S)
        with self._changed:
            if self._state is not State.NEW and self._child is child:  # else started anew
                self._problem = None
                self._set(State.STOPPED)

    def restart(self, *, kill: bool = False) -> None:
        """Stop it if it runs (see `stop`), start it anew, and return at once."""
        with self._changed:
            self._restarting += 1  # who waits goes on waiting
        try:
            self.stop(kill=kill)
            self.start()
        finally:
            with self._changed:
                self._restarting -= 1
                self._changed.notify_all()

    def _refuse_if_running(self) -> None:
        if self._state in {State.STARTING, State.READY, State.BUSY}:
            raise RuntimeError(f"ComfyUI is already {self._state.value}")

    @staticmethod
    def _thread(name: str, target: Callable[..., None], *args: Any) -> threading.Thread:
        name = f"pennyreel-comfy-{name}"
        return threading.Thread(target=target, args=args, name=name, daemon=True)

    def _spawn(self) -> subprocess.Popen[bytes]:
        options: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        try:
            child = subprocess.Popen(
                list(self._command(self.port)),
                stdin=subprocess.PIPE,  # held open: child.py leaves when it closes
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self._cwd,
                env=self._env,
                **options,
            )
            _held.add(child)
            return child
        except OSError as problem:
            self._problem = error(
                Code.COMFY_START_FAILED,
                f"ComfyUI could not be started: {problem.strerror or problem}",
                hint="Run: pennyreel comfyui install",
            )
            self._set(State.FAILED)
            raise self._problem from None

    def _read_log(self, child: subprocess.Popen[bytes]) -> None:
        """Keep its output's tail."""
        if child.stdout is None:  # pragma: no cover - always a pipe
            return
        with child.stdout as output:
            for line in lines(output):
                with self._changed:
                    self._tail.append(self._clean(line))
                if self._on_line is not None:
                    # A log that is full or closed must not stop the reading: the child would block.
                    with contextlib.suppress(Exception):
                        self._on_line(line)

    def _watch(self, child: subprocess.Popen[bytes], reader: threading.Thread) -> None:
        """Wait for its end, end what it left behind, and tell everybody why it died."""
        child.wait()
        _held.discard(child)
        kill_group(child)  # a grandchild would hold the log's pipe open, and the GPU
        reader.join(LOG_S)
        if child.stdin is not None:
            with contextlib.suppress(OSError):
                child.stdin.close()
        self._died(child)

    def _died(self, child: subprocess.Popen[bytes]) -> None:
        with self._changed:
            if self._stopping or self._child is not child or self._state is State.FAILED:
                return
            starting = self._state is State.STARTING
            problem = self._death(child.returncode, starting=starting)
            callbacks = self._fail(problem)
        tell(callbacks, problem)

    def _death(self, code: int | None, *, starting: bool) -> PennyreelError:
        return failure(
            Code.COMFY_START_FAILED if starting else Code.COMFY_CRASHED,
            f"ComfyUI {'ended while it started' if starting else 'died'} ({manner(code)})",
            self.tail(),
            returncode=code,
        )

    def _probe(self, child: subprocess.Popen[bytes], began: float) -> None:
        """Ask until it answers, dies, is stopped, or has had its time."""
        http = ComfyHttp(self.url)
        while self._is_starting(child):
            if time.monotonic() - began > self._start_s:
                self._too_slow(child)
                return
            if _answers(http):
                with self._changed:
                    if self._is_starting(child):
                        self.started_s = time.monotonic() - began
                        self._set(State.READY)
                return
            with self._changed:
                self._changed.wait(_PROBE_S)

    def _is_starting(self, child: subprocess.Popen[bytes]) -> bool:
        """Whether an answer of it is still waited for: it may be another's turn by now."""
        with self._changed:
            return self._child is child and self._state is State.STARTING and not self._stopping

    def _too_slow(self, child: subprocess.Popen[bytes]) -> None:
        with self._changed:
            if not self._is_starting(child):
                return
            problem = failure(
                Code.COMFY_START_FAILED,
                f"ComfyUI did not answer within {self._start_s:g} s of its start",
                self.tail(),
            )
            callbacks = self._fail(problem)
        end(child, STOP_S)
        tell(callbacks, problem)

    def _fail(self, problem: PennyreelError) -> list[Callable[[PennyreelError], None]]:
        """Become FAILED; returns whom to tell once the lock is free."""
        self._problem = problem
        self._set(State.FAILED)
        return list(self._callbacks)

    def _set(self, state: State) -> None:
        with self._changed:
            self._state = state
            self._changed.notify_all()


def free_port() -> int:
    """Return a loopback port that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(http: ComfyHttp) -> bool:
    try:
        http.system_stats(timeout=2.0)
    except PennyreelError:
        return False
    return True
