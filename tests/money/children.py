"""Real processes on one ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class Child:
    """A program of this folder: says "ready", waits for a line, then does its work."""

    def __init__(self, program: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / program), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )

    def ready(self) -> None:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == "ready\n", (line, self.process.communicate())

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        out, problem = self.process.communicate(timeout=110)
        assert self.process.returncode == 0, problem
        return json.loads(out.splitlines()[-1])


@contextmanager
def children(program: str, arguments: Sequence[Sequence[str]]) -> Iterator[list[Child]]:
    """Start one child for each set of arguments; none is left behind."""
    started: list[Child] = []
    try:
        started += [Child(program, *given) for given in arguments]
        yield started
    finally:
        for one in started:
            one.process.kill()
            one.process.communicate()


def together(program: str, arguments: Sequence[Sequence[str]]) -> list[Any]:
    """Run them all at the same time, from the moment that all are ready; return their answers."""
    with children(program, arguments) as started:
        for one in started:
            one.ready()
        for one in started:
            one.go()
        return [one.answer() for one in started]
