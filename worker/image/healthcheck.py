"""The image's HEALTHCHECK: exit code 0 while the worker runs and its ComfyUI answers.

    python3 -I -S healthcheck.py

Standard library only, since it starts twice a minute. ComfyUI has a new port at each start, so it
is looked up in its command line. The worker hides its memory and environment from its own user,
and with them its root folder: it is known as ComfyUI's parent. RunPod has checks of its own; Docker
and Compose use this one.
"""

# ruff: noqa: INP001 - a program, not a package

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path

TIMEOUT_S = 10.0


def main() -> int:
    """Say in one line what is wrong, or nothing, and return the exit code."""
    found = {comfyui_port(command): parent for command, parent in running(Path("/proc"))}
    found.pop(None, None)
    if not found:
        return _ill("ComfyUI does not run")
    port = next((port for port, parent in found.items() if "pennyreel_worker" in parent), None)
    if port is None:
        return _ill("the worker does not run")
    if not answers(port):
        return _ill(f"ComfyUI does not answer on port {port}")
    return 0


def running(proc: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yield the command lines of each process that is in this container, and of its parent.

    Where a container sees the processes of its host, its own are those with its root folder.
    """
    for folder in proc.glob("[0-9]*"):
        # Others' processes hide, and any can end while we look.
        with suppress(OSError):
            if (folder / "root").samefile("/"):
                yield _command(folder), _command(proc / parent_of((folder / "stat").read_text()))


def parent_of(stat: str) -> str:
    """Return the parent's id from a process's stat. Its name, in brackets, may hold anything."""
    return stat.rpartition(")")[2].split()[1]


def _command(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:  # a parent that is outside of what we may see
        return []


def comfyui_port(command: list[str]) -> int | None:
    """Return the port of a ComfyUI's command line; None for any other command."""
    scripts = {Path(part).name for part in command}
    if "main.py" not in scripts or "--port" not in command[:-1]:
        return None
    # The last one counts, as it does for ComfyUI.
    last = len(command) - 1 - command[::-1].index("--port")
    value = command[last + 1] if last + 1 < len(command) else ""
    return int(value) if value.isdigit() else None


def answers(port: int) -> bool:
    """Say whether a ComfyUI answers on a port of this machine."""
    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/system_stats")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _ill(why: str) -> int:
    sys.stdout.write(why + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
