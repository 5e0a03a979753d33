"""One worker process, its output, and the guardian that outlives the platform."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from pennyreel_emulators.runpod import guardian

TAIL_LINES = 500
# Output of a worker that writes no newline is cut here.
LINE_BYTES = 64 * 1024


class WorkerProcess:
    """A worker in a session of its own, with its output read by the event loop."""

    def __init__(
        self,
        worker_id: str,
        command: tuple[str, ...],
        env: Mapping[str, str],
        cwd: Path | None,
        on_line: Callable[[str], None],
    ) -> None:
        """Start the process; raises `OSError` when the command cannot be started."""
        self.worker_id = worker_id
        self.started = time.monotonic()
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._on_line = on_line
        self._partial = b""
        self._process = subprocess.Popen(
            command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Its own group: it and its children are killed together, and a Ctrl-C in the terminal
            # of the platform does not reach them.
            start_new_session=True,
        )
        self._loop = asyncio.get_running_loop()
        self._output = self._process.stdout
        if self._output is not None:
            os.set_blocking(self._output.fileno(), False)
            self._loop.add_reader(self._output.fileno(), self._read)

    @property
    def pid(self) -> int:
        """The process id, which is its group's id too."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """The exit code (negative for a signal), or None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """SIGTERM to the worker alone, as a container's stop signals its first process."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL to the worker and everything it has started."""
        guardian.kill_all(self.pid, self.worker_id)

    def finish(self) -> None:
        """After the end: kill what is left, take the last output, give back the pipe."""
        self.kill()
        if self._output is None:
            return
        self._read()
        self._close_output()

    def _read(self) -> None:
        output = self._output
        while output is not None:
            try:
                piece = os.read(output.fileno(), LINE_BYTES)
            except BlockingIOError:
                return
            if not piece:
                self._close_output()
                return
            *lines, self._partial = (self._partial + piece).split(b"\n")
            for line in lines:
                self._line(line)
            if len(self._partial) >= LINE_BYTES:
                self._line(self._partial)
                self._partial = b""

    def _line(self, raw: bytes) -> None:
        text = raw.decode("utf-8", "replace").rstrip("\r")
        self.tail.append(text)
        self._on_line(text)

    def _close_output(self) -> None:
        if self._output is None:
            return
        self._loop.remove_reader(self._output.fileno())
        self._output.close()
        self._output = None
        if self._partial:
            self._line(self._partial)
            self._partial = b""


class Guardian:
    """Our end of the guardian's pipe. Closing it tells it that the platform has ended."""

    def __init__(self, home: str) -> None:
        self._process = subprocess.Popen(
            # Isolated and without site: it starts in a few milliseconds.
            [sys.executable, "-I", "-S", guardian.__file__, home],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def guard(self, process: WorkerProcess) -> None:
        """Kill this worker when the platform dies."""
        self._tell(f"+ {process.pid} {process.worker_id}\n")

    def release(self, process: WorkerProcess) -> None:
        """The worker has ended: its id may soon be another's."""
        self._tell(f"- {process.pid}\n")

    def close(self) -> None:
        """End the guardian; it kills what it still guards."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        self._process.wait()

    def _tell(self, line: str) -> None:
        if self._process.stdin is None:
            return
        # Without its guardian a worker still runs; it would only survive a SIGKILL of ours.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
