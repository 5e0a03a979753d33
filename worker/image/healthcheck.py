"""The image's HEALTHCHECK: exit code 0 while the worker runs and its ComfyUI answers.

    python3 -I -S healthcheck.py

Standard library only, since it starts twice a minute. ComfyUI has a new port at each start, so it
is looked up in its command line. RunPod has checks of its own; Docker and Compose use this one.
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
    commands = list(running(Path("/proc")))
    if not any("pennyreel_worker" in command for command in commands):
        return _ill("the worker does not run")
    port = next(filter(None, map(comfyui_port, commands)), None)
    if port is None:
        return _ill("ComfyUI does not run")
    if not answers(port):
        return _ill(f"ComfyUI does not answer on port {port}")
    return 0


def running(proc: Path) -> Iterator[list[str]]:
    """Yield the command line of each process that is in this container.

    Where a container sees the processes of its host, its own are those with its root folder.
    """
    for folder in proc.glob("[0-9]*"):
        # Others' processes hide, and any can end while we look.
        with suppress(OSError):
            if (folder / "root").samefile("/"):
                yield (folder / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")


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
