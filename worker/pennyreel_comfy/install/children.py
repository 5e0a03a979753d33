"""Child processes that never outlive us, with their output line by line and in a log."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")
_TAIL_LINES = 40
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True)
class Outcome:
    """How a child ended: its exit code and the last lines of what it said."""

    code: int
    tail: str


class Child:
    """One process under guard: with all that it starts it ends when we close it, or die."""

    def __init__(
        self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, log: Path
    ) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUARD), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=dict(env),
            encoding="utf-8",
            errors="replace",
            # A group of its own: Ctrl-C reaches the installer alone, which then ends the group.
            start_new_session=os.name != "nt",
        )
        self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    @property
    def tail(self) -> str:
        """The last lines of its output, without credentials in URLs."""
        return "\n".join(self._tail)

    def line(self, timeout: float) -> str | None:
        """Return its next line, or "" when none came in time, or None when its output has ended."""
        try:
            return self._lines.get(timeout=timeout)
        except queue.Empty:
            return ""

    def ended(self) -> int | None:
        """Return its exit code, or None while it runs."""
        return self._process.poll()

    def wait(self) -> int:
        """Wait for its end (soon, once its output has ended) and return the exit code."""
        return self._process.wait()

    def close(self) -> None:
        """End it and all that it started; do nothing where it has ended."""
        if os.name == "nt":
            # Closing the pipe tells the guard, which knows the tree.
            self._close_pipe()
        elif self._process.poll() is None:
            # Not reaped yet, so its process id, which is its group's, cannot be another's.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close_pipe()
        self._reader.join(timeout=5)
        if self._process.stdout and not self._reader.is_alive():
            self._process.stdout.close()

    def _close_pipe(self) -> None:
        if self._process.stdin:
            with suppress(OSError):
                self._process.stdin.close()

    def _read(self, log: Path) -> None:
        output = self._process.stdout
        with log.open("a", encoding="utf-8", buffering=1) as file:  # by lines
            for raw in output or ():
                line = _CREDENTIALS.sub("***@", raw.rstrip("\n"))
                self._tail.append(line)
                file.write(line + "\n")
                self._lines.put(line)
        self._lines.put(None)


def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    on_line: Callable[[str], None],
    timeout: float,
) -> Outcome:
    """Run a command to its end. One that takes longer than `timeout` seconds is ended: code -1."""
    deadline = time.monotonic() + timeout
    with closing(Child(argv, env=env, cwd=cwd, log=log)) as child:
        while True:
            line = child.line(0.5)
            if line is None:
                return Outcome(child.wait(), child.tail)
            if line:
                on_line(line)
            if time.monotonic() > deadline:
                return Outcome(-1, f"{child.tail}\n(ended after {timeout:.0f} seconds)")
