"""Locks on files, across threads and processes; whoever dies lets go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error

_POLL_S = 0.05
_SLICE_S = 0.5


@contextlib.contextmanager
def locked(path: Path, *, deadline: Deadline, cancel: CancelToken, doing: str) -> Iterator[None]:
    """Hold the lock `path`, waiting for whoever has it.

    Raises:
        JobTimeout, JobCancelled: as named; `doing` says what was waited for.
        JobFailed: `disk_full`: this disk cannot hold a lock.

    """
    lock = FileLock(path, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while not _taken(lock):
            cancel.check()
            if deadline.expired:
                raise deadline.error(doing)
    except (OSError, NotImplementedError) as problem:
        raise _none_here(path, problem) from None
    try:
        yield
    finally:
        lock.release()


def _taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=_SLICE_S, poll_interval=_POLL_S)
    except Timeout:
        return False
    return True


@contextlib.contextmanager
def tried(path: Path) -> Iterator[bool]:
    """Hold the lock for the block where nobody else does, without waiting; yields whether.

    Raises:
        JobFailed: `disk_full`: this disk cannot hold a lock.

    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    except (OSError, NotImplementedError) as problem:
        raise _none_here(path, problem) from None
    try:
        yield True
    finally:
        lock.release()


def _none_here(path: Path, problem: Exception) -> PennyreelError:
    why = getattr(problem, "strerror", None) or type(problem).__name__
    return error(
        Code.DISK_FULL,
        f"no lock can be had in {path.parent} ({why})",
        hint="Use a folder on a disk that can be written to, has room, and knows locks.",
    )
