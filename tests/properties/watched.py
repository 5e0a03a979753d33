"""A supervisor that is watched: every move of its state, every child that it ever started."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from pennyreel_comfy.process import ComfyProcess, State

PROGRAM = Path(__file__).with_name("child.py")
RUNNING = {State.STARTING, State.READY, State.BUSY}

# The diagram at the top of process.py. A start that finds no program fails at once.
DRAWN: dict[State, set[State]] = {
    State.NEW: {State.STARTING, State.FAILED},
    State.STARTING: {State.READY, State.FAILED, State.STOPPED},
    State.READY: {State.BUSY, State.FAILED, State.STOPPED},
    State.BUSY: {State.READY, State.FAILED, State.STOPPED},
    State.FAILED: {State.STARTING, State.STOPPED},
    State.STOPPED: {State.STARTING, State.FAILED},
}


class Watched(ComfyProcess):
    """`how` is what the next child does (see child.py); "missing" is no program at all."""

    def __init__(self, gate: Path) -> None:
        self.moves: list[tuple[State, State]] = []
        self.children: list[subprocess.Popen[bytes]] = []
        self.how = "good"
        self._gate = gate
        super().__init__(self._words)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_state" and (before := self.__dict__.get(name)) not in {None, value}:
            self.moves.append((before, value))
        super().__setattr__(name, value)

    def prepare(self, how: str) -> None:
        """Say what the next child does, and how long it may take to answer."""
        self.how = how
        # Those that cannot answer get little time; the others more than a busy machine needs.
        self._start_s = 0.15 if how in {"silent", "sulky", "ghost"} else 30.0

    @property
    def deaths(self) -> int:
        """How often a child was found dead, or given up, unasked."""
        return sum(before in RUNNING and after is State.FAILED for before, after in self.moves)

    def join(self) -> None:
        """Wait until its threads have nothing more to say of the present child."""
        for thread in list(self._threads):
            thread.join(30)
            assert not thread.is_alive()

    def left(self) -> list[str]:
        """Living processes of all groups that its children led."""
        groups = {str(child.pid) for child in self.children}
        found = []
        for entry in Path("/proc").iterdir():
            try:
                words = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if words[0] not in "ZX" and words[2] in groups:
                found.append(f"{entry.name} of {words[2]}")
        return found

    def _words(self, port: int) -> list[str]:
        if self.how == "missing":
            return ["/no/such/program"]
        return [sys.executable, "-S", "-E", str(PROGRAM), self.how, str(port), str(self._gate)]

    def _spawn(self) -> subprocess.Popen[bytes]:
        child = super()._spawn()
        self.children.append(child)
        return child
