"""How a supervised child is ended, and what is told of one that ended by itself."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from pennyreel_comfy.diagnose import diagnose
from pennyreel_contract import Code, PennyreelError, error

log = logging.getLogger(__name__)

HALF_LINE = 4096
"""Bytes kept of each end of a line: whoever writes graphs decides what nodes print."""


def end(child: subprocess.Popen[bytes], limit_s: float) -> None:
    """End the child: SIGTERM to its whole group, and SIGKILL after `limit_s`.

    It may leave processes behind that outlive a SIGTERM: see `kill_group`.
    """
    if child.poll() is not None:
        return
    _signal_group(child, signal.SIGTERM)
    try:
        child.wait(limit_s)
    except subprocess.TimeoutExpired:
        kill_group(child)
        with contextlib.suppress(subprocess.TimeoutExpired):  # in the hands of a hung driver
            child.wait(limit_s)


def kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the child, and what it left behind if it is gone."""
    _signal_group(child, getattr(signal, "SIGKILL", signal.SIGTERM))


def manner(returncode: int | None) -> str:
    """Say how a child ended, as `subprocess` gives it: "exit code 1", "signal SIGKILL"."""
    if returncode is not None and returncode < 0:
        with contextlib.suppress(ValueError):
            return f"signal {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


def lines(output: IO[bytes]) -> Iterator[str]:
    """Yield the lines of an output; of one that is very long, or never ends, both of its ends.

    Its end counts, too: a progress bar's states come in one line, and the last one is the latest.
    """
    while piece := output.readline(2 * HALF_LINE):
        line = piece
        while not piece.endswith(b"\n") and (piece := output.readline(HALF_LINE)):
            line = line[:HALF_LINE] + (line[HALF_LINE:] + piece)[-HALF_LINE:]
        yield line.decode("utf-8", "replace").rstrip()


def failure(
    code: Code, message: str, lines: Sequence[str], *, returncode: int | None = None
) -> PennyreelError:
    """Return the error of a failed child; where its log tells the cause, so does the error."""
    cause = diagnose(lines, returncode)
    detail: dict[str, Any] = {"log": list(lines), "returncode": returncode}
    if cause is None:
        return error(code, message, detail=detail)
    detail |= {"cause": cause.kind.value, "fatal": cause.fatal}
    return error(code, f"{message}: {cause.sentence}", hint=cause.hint, detail=detail)


def tell(callbacks: Sequence[Callable[[PennyreelError], None]], problem: PennyreelError) -> None:
    """Call each with the error; one that raises is logged and keeps no other from being called."""
    for callback in callbacks:
        _call(callback, problem)


def _call(callback: Callable[[PennyreelError], None], problem: PennyreelError) -> None:
    try:
        callback(problem)
    except Exception:
        log.exception("a callback for ComfyUI's death failed")


def _signal_group(child: subprocess.Popen[bytes], number: int) -> None:
    """Signal the child's whole process group, which it leads; its id outlives the leader."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if sys.platform == "win32":
            child.kill()
        else:
            os.killpg(child.pid, number)
