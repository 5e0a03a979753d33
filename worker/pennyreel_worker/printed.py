"""Makes a line of the log of each that is printed in this process, by the SDK or by anybody.

For JSON: a program that reads objects stumbles over the SDK's banner, or a server's greeting.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
from typing import TextIO

_log = logging.getLogger("pennyreel_worker.printed")
_LONGEST = 1 << 20
"""Characters kept of a line that does not end."""

_TEXT = re.compile(r"(DEBUG|INFO|WARN|ERROR|TIP) *\| (?:(\S+) \| )?(.*)")
_LEVELS = {"WARN": logging.WARNING, "ERROR": logging.ERROR, "DEBUG": logging.DEBUG}


def adopt_prints() -> None:
    """Replace this process's streams. The log itself goes on to the former ones: see `under`."""
    _log.setLevel(1)  # whoever prints has decided already
    logging.captureWarnings(capture=True)
    sys.stdout = Printed(sys.stdout)
    sys.stderr = Printed(sys.stderr)


class Printed(io.TextIOBase):
    """A stream whose lines become lines of the log. Each thread's are kept apart."""

    def __init__(self, under: TextIO) -> None:
        """`under`: the stream that was here before."""
        self.under = under
        self._parts = threading.local()

    @property
    def encoding(self) -> str:  # type: ignore[override] # a class attribute there
        """That of the former stream."""
        return self.under.encoding

    def write(self, text: str) -> int:
        """Log the lines that are whole now."""
        if getattr(self._parts, "logging", False):  # the log complains of itself, on its own stream
            return self.under.write(text)
        *lines, rest = (getattr(self._parts, "text", "") + text).split("\n")
        self._parts.text = rest[-_LONGEST:]
        self._parts.logging = True
        try:
            for line in filter(str.strip, lines):
                level, message, extra = _of_sdk(line) or (logging.INFO, line, {"source": "print"})
                _log.log(level, "%s", message, extra=extra)
        finally:
            self._parts.logging = False
        return len(text)

    def flush(self) -> None:
        """Flush the former stream; a line that is not whole waits."""
        self.under.flush()

    def fileno(self) -> int:
        """Return the former stream's, for who goes past Python."""
        return self.under.fileno()

    def isatty(self) -> bool:
        """Nobody is to colour what becomes JSON."""
        return False


def _of_sdk(line: str) -> tuple[int, str, dict[str, str]] | None:
    """Read a line of the SDK's own log: JSON on the platform, else `INFO   | job | message`."""
    if line.startswith('{"requestId"'):
        try:
            told = json.loads(line)
            level, job, message = told["level"], told["requestId"], told["message"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
    elif found := _TEXT.fullmatch(line):
        level, job, message = found.groups()
    else:
        return None
    extra = {"source": "runpod"} | ({} if job is None else {"job": str(job)})
    return _LEVELS.get(level, logging.INFO), str(message), extra
