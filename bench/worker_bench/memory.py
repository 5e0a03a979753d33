"""Memory of a worker and its children, ComfyUI apart: PSS, so that shared pages count once."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

EVERY_S = 0.03
_PROC = Path("/proc")


def pss(worker: int) -> int:
    """Return the bytes of the worker and its children, without ComfyUI and what it started."""
    return sum(_pss(pid) for pid in _family(worker))


class Peak:
    """The most that was seen while it watched."""

    def __init__(self) -> None:
        self.most = 0
        self.samples = 0


@contextlib.contextmanager
def watching(worker: int) -> Iterator[Peak]:
    """Watch from another thread, more than 20 times a second."""
    peak, over = Peak(), threading.Event()

    def watch() -> None:
        while not over.is_set():
            began = time.monotonic()
            peak.most = max(peak.most, pss(worker))
            peak.samples += 1
            over.wait(max(0.005, began + EVERY_S - time.monotonic()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in (_PROC / str(pid) / "task").glob("*"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            for child in (task / "children").read_text().split():
                if not _is_comfyui(child):
                    yield from _family(int(child))


def _is_comfyui(pid: str) -> bool:
    with contextlib.suppress(OSError):
        parts = (_PROC / pid / "cmdline").read_bytes().split(b"\0")
        return any(part.endswith(b"/main.py") for part in parts)
    return False


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in (_PROC / str(pid) / "smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0
