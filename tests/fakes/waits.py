"""How tests wait: for a condition, with an end, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil


def eventually(check: Callable[[], bool], seconds: float = 15) -> None:
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit, "never became true"
        time.sleep(0.02)


def gone(process: psutil.Process) -> bool:
    """Whether all of a process has ended, and its sockets are closed.

    Its first thread is a zombie while others are still on their way out, holding them open.
    """
    try:
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        return not process.is_running() or (process.status() == "zombie" and threads <= 1)
    except (psutil.Error, OSError):
        return True
