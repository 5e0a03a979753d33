"""What an installation tells while it runs: a closed set of events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StageStarted:
    """A stage begins: the `index`-th of `total`, counted from 1."""

    name: str
    index: int
    total: int


@dataclass(frozen=True)
class StageProgress:
    """A stage goes on. `fraction` (0 to 1) is None where it cannot be known."""

    name: str
    fraction: float | None
    text: str


@dataclass(frozen=True)
class StageDone:
    """A stage is complete. `skipped`: it was complete before, and still is."""

    name: str
    seconds: float
    skipped: bool


@dataclass(frozen=True)
class Note:
    """A line worth showing to a person, such as a choice and its reason."""

    text: str


Event = StageStarted | StageProgress | StageDone | Note
Report = Callable[[Event], None]
