"""Who follows an attempt: a process, named so that others can tell when it has died.

A claim has an end, for processes on other machines. On this one nobody has to wait for it: a
claim whose process is gone is void.
"""

from __future__ import annotations

import os
import platform
import secrets
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]


def new_owner() -> str:
    """Return a name for who claims: MACHINE/PID/STARTED/RANDOM."""
    pid = os.getpid()
    return f"{_machine()}/{pid}/{_started(pid)}/{secrets.token_hex(6)}"


def is_dead(owner: str) -> bool:
    """Whether it is certain that the process behind a claim has ended."""
    machine, _, rest = owner.rpartition("/")[0].partition("/")
    pid, _, started = rest.partition("/")
    if machine != _machine() or not pid.isdigit():
        return False
    return _started(int(pid)) not in {started, "unseen"}


def _machine() -> str:
    """Name this machine; in a container, the room in which process ids mean something."""
    room = ""
    with suppress(OSError):
        room = str(Path("/proc/self/ns/pid").readlink())
    return f"{platform.node()}{room}".replace("/", "_")


def _started(pid: int) -> str:
    """Say when a process began, the same whoever asks; "gone", or "unseen" where it is not told."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return "gone"
        if psutil.LINUX:
            # Ticks since the machine started: a time of day would move when the clock is set.
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            return stat.rpartition(")")[2].split()[19]
        return f"{process.create_time():.0f}"
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return "gone"
    except (psutil.Error, OSError, IndexError):
        return "unseen"
