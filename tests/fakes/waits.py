"""How tests wait: for a condition, with an end, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

LONG_S = 30.0
"""No test waits for it; it ends one whose condition never comes true, on however busy a machine."""


def until(condition: Callable[[], T], seconds: float = LONG_S) -> T:
    """Wait until the condition is truthy; return what it returned."""
    limit = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < limit, "the condition did not come true in time"
        time.sleep(0.01)
    return value


def eventually(check: Callable[[], bool], seconds: float = LONG_S) -> None:
    """Wait until the check holds."""
    until(check, seconds)


def gone(process: psutil.Process) -> bool:
    """Whether all of a process has ended, and its sockets are closed.

    Its first thread is a zombie while others are still on their way out, holding them open.
    """
    try:
        threads = len(list(Path(f"/proc/{process.pid}/task").iterdir()))
        return not process.is_running() or (process.status() == "zombie" and threads <= 1)
    except (psutil.Error, OSError):
        return True
