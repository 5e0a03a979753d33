"""The ways in which probes look at the machine: commands, files, Windows' registry.

Each probe is given these, so that tests can put another machine in their place.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

COMMAND_S = 5.0
"""A command that takes longer is ended. Who waits for the devices has left before that."""

_MOST = 1 << 20

Run = Callable[[Sequence[str]], str]
"""Runs a command by its absolute path; returns its output; raises `ProbeFailed`."""


class ProbeFailed(Exception):
    """A probe found something and could not read it. Its text is for a person."""


class NotHere(ProbeFailed):
    """What the probe reads does not exist on this machine. That is no problem."""


class Registry(Protocol):
    """A reader of HKEY_LOCAL_MACHINE. Raises OSError where it may not look."""

    def subkeys(self, path: str) -> Sequence[str]:
        """Return the names of the keys below `path`."""

    def values(self, path: str) -> Mapping[str, object]:
        """Return the values at `path`."""


def run_command(command: Sequence[str]) -> str:
    """Run a command, without a window or an input.

    Raises:
        NotHere: there is no such program.
        ProbeFailed: it failed, or took longer than `COMMAND_S`.

    """
    name = Path(command[0]).name
    try:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # On Windows a console program would flash a window above a desktop application.
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (FileNotFoundError, NotADirectoryError):
        raise NotHere(name) from None
    except OSError as problem:
        raise ProbeFailed(f"{name} cannot be run ({problem.strerror})") from None
    with child, _running(child):
        try:
            output, errors = child.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            child.kill()
            raise ProbeFailed(f"{name} took longer than {COMMAND_S:g} s") from None
    if child.returncode != 0:
        told = (output[:_MOST].strip() or errors[:_MOST].strip()).decode("utf-8", "replace")
        raise ProbeFailed(f"{name} ended with {child.returncode}: {told[:200]}")
    return output[:_MOST].decode("utf-8", "replace")


_children: set[subprocess.Popen[bytes]] = set()


@contextlib.contextmanager
def _running(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """Remember a child while it runs: the program may end before it, and leaves nothing behind."""
    _children.add(child)
    try:
        yield
    finally:
        _children.discard(child)


@atexit.register
def _end_children() -> None:
    for child in list(_children):
        with contextlib.suppress(OSError):
            child.kill()


def read(file: Path) -> str | None:
    """Return a small file's text without the white space around it; None where it cannot be had."""
    try:
        with file.open("rb") as opened:
            return opened.read(4096).decode("utf-8", "replace").strip()
    except (OSError, ValueError):
        return None


def read_int(file: Path) -> int | None:
    """Return a file's number, decimal or 0x…; None where it has none or a negative one."""
    return number(read(file))


def number(text: str | None) -> int | None:
    """Return a plain number, decimal or 0x…; None for anything else, and below 0 or above 2**63."""
    try:
        value = int((text or "").strip(), 0)
    except ValueError:
        return None
    return value if 0 <= value < 1 << 63 else None


if sys.platform == "win32":
    import winreg

    class WindowsRegistry:
        """The registry of this machine, as 64-bit programs see it."""

        def subkeys(self, path: str) -> list[str]:
            """Return the names of the keys below `path`."""
            with self._open(path) as key:
                return [winreg.EnumKey(key, i) for i in range(winreg.QueryInfoKey(key)[0])]

        def values(self, path: str) -> dict[str, object]:
            """Return the values at `path`."""
            with self._open(path) as key:
                found = (winreg.EnumValue(key, i) for i in range(winreg.QueryInfoKey(key)[1]))
                return {name: value for name, value, _ in found}

        def _open(self, path: str) -> winreg.HKEYType:
            access = winreg.KEY_READ | winreg.KEY_WOW64_64KEY
            return winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, path, 0, access)


def system_folder() -> Path:
    """Return Windows' own folder of programs, not by the environment, which others may set."""
    if sys.platform == "win32":
        text = ctypes.create_unicode_buffer(260)
        if ctypes.windll.kernel32.GetSystemDirectoryW(text, len(text)):
            return Path(text.value)
    return Path("C:/Windows/System32")
