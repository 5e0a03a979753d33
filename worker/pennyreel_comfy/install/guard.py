"""Runs one command and ends it, with all its children, when whoever started this goes away.

A program of its own: `python guard.py COMMAND ARG…`. Its standard input is a pipe that the
installer holds open. The pipe closes however the installer ends, kill -9 included; then the whole
process group goes. Only the standard library, and no import of this package: it must start fast.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading


def _end_all(child: subprocess.Popen[bytes]) -> None:
    if os.name == "nt":
        # /T: with its children. Windows has no process groups that could be killed.
        subprocess.run(
            ["taskkill", "/F", "/T", "/PID", str(child.pid)], capture_output=True, check=False
        )
        os._exit(1)
    else:
        # The installer started us as the leader of a new session, so our group is ours alone.
        os.killpg(0, signal.SIGKILL)


def _watch(child: subprocess.Popen[bytes]) -> None:
    # The descriptor, not sys.stdin: a buffered reader blocked in a daemon thread holds its lock,
    # and the interpreter would abort on it when it exits.
    while os.read(0, 1024):
        pass
    _end_all(child)


def main(argv: list[str]) -> int:
    """Run `argv` to its end and return its exit code (128 + N where signal N ended it)."""
    child = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
    threading.Thread(target=_watch, args=(child,), daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
