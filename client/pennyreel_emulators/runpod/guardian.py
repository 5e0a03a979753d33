"""Kills workers whose platform is gone, even by SIGKILL. Run as a script; imports only the stdlib.

Why a process and not PR_SET_PDEATHSIG: that signal is Linux only, is tied to the thread that
forked, has to be set in the child between fork and exec, and reaches the child alone and not what
the child has started. This one reads lines from a pipe whose other end only the platform holds:
`+ <process group> <worker id>`, `- <process group>`. The end of the pipe is the platform's end;
the workers' home folder, given as the one argument, is removed then.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

_PROC = Path("/proc")
# A child forked while we look is found in the next round.
_ROUNDS = 20


def kill_all(group: int, worker_id: str) -> None:
    """SIGKILL a worker's process group, and what has left the group but carries its worker id.

    A container's end takes every process with it; a worker's child in a session of its own (a
    supervised ComfyUI) would survive the end of the group. Only Linux shows us those.
    """
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)
    mark = f"RUNPOD_POD_ID={worker_id}".encode()
    for _ in range(_ROUNDS):
        strays = [pid for pid in _processes() if mark in _environment(pid)]
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def watch(lines: Iterable[str]) -> None:
    """Follow the platform's lines to their end, then kill every group that is still listed."""
    groups: dict[int, str] = {}
    for line in lines:
        sign, group, *worker = line.split()
        if sign == "+":
            groups[int(group)] = worker[0]
        else:
            groups.pop(int(group), None)
    for pid, worker_id in groups.items():
        kill_all(pid, worker_id)


def _processes() -> list[int]:
    try:
        return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    except OSError:
        return []


def _environment(pid: int) -> list[bytes]:
    try:
        # Empty for a zombie: it is dead already and waits for its parent.
        return (_PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:
        return []


if __name__ == "__main__":
    watch(sys.stdin)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
