"""The installer's events and errors as plain lines, for a build's log."""

from __future__ import annotations

import sys

from pennyreel_comfy.install.events import Event, Note, StageDone, StageProgress, StageStarted
from pennyreel_contract.errors import PennyreelError


class Lines:
    """Writes events as plain lines."""

    def __init__(self) -> None:
        """Begin with nothing said."""
        self._last = ""

    def __call__(self, event: Event) -> None:
        """Write an event's line, if it is worth one."""
        if isinstance(event, StageStarted):
            say(f"[{event.index}/{event.total}] {event.name}")
        elif isinstance(event, StageProgress):
            # A fraction alone would fill a build log.
            if event.text != self._last:
                self._last = event.text
                say(f"    {event.text}")
        elif isinstance(event, StageDone):
            say(f"    {'was done' if event.skipped else f'done in {event.seconds:.1f} s'}")
        elif isinstance(event, Note):
            say(event.text)


def complain(problem: PennyreelError) -> None:
    """Write an error to standard error, with the tail of the output that led to it."""
    tail = str(problem.info.detail.get("tail", ""))
    sys.stderr.write(f"{tail}\n" if tail else "")
    sys.stderr.write(f"error: {problem}\n{problem.hint}\n")


def say(text: str) -> None:
    """Write a line to standard output at once: a build's log is read while it grows."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
