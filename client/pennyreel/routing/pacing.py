"""How many jobs a minute move to a paid backend: a whole queue that fails over is let in by turns.

All processes share it. What is kept of a backend is when jobs moved there in the last minute, as
epoch seconds, in the same cells as the breakers. Nobody holds a place in advance: who is cancelled,
killed or out of time takes nothing from those who wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pennyreel.errors import Code
from pennyreel.routing.breakers import Cell, KeptAs, backend_of, swap
from pennyreel.routing.machine import Trouble

MINUTE_S = 60.0
SPREAD_S = 5.0
"""Those who wait do not all come back at the same moment."""

_AGAIN_S = 1.0


@dataclass(frozen=True)
class Answer:
    """Whether a job may move there now."""

    now: bool
    at: float = 0.0
    """Else when to ask again, in epoch seconds."""
    waits: bool = True
    """False: it would have waited for longer than it may."""


def recent(moves: Sequence[float], at: float) -> list[float]:
    """Return those of the last minute, in order. A clock that is ahead by less counts as right."""
    return sorted(min(t, at) for t in moves if at - MINUTE_S < t <= at + MINUTE_S)


def free_at(moves: Sequence[float], per_minute: int, at: float) -> float:
    """Return when one more fits into the minute before it, at `at` or later."""
    last = recent(moves, at)
    return at if len(last) < per_minute else last[-per_minute] + MINUTE_S


class Pace:
    """Lets jobs in; for one job, which asks again until it may or has waited for too long."""

    def __init__(
        self, cell: Cell, per_minute: int, *, kept_as: KeptAs = lambda _backend, key: key
    ) -> None:
        """Keep all of it; `kept_as` is as in `Breakers`, and 0 a minute means no limit."""
        self._cell, self.per_minute, self._kept_as = cell, per_minute, kept_as
        self._since: dict[str, float] = {}

    def ask(self, key: str, at: float, patience_s: float, jitter: float) -> Answer:
        """Move the job there now, if that is within the limit.

        Args:
            key: the option's.
            at: the time.
            patience_s: how long it waits at most, from the first time that it asked.
            jitter: a fresh random number from 0 to 1.

        """
        if not self.per_minute:
            return Answer(now=True)
        latest = self._since.setdefault(key, at) + patience_s

        def move(state: Mapping[str, Any] | None) -> tuple[Mapping[str, Any] | None, float]:
            moves = _moves(state)
            free = free_at(moves, self.per_minute, at)
            return None if free > at else {"moves": [*recent(moves, at), at]}, free

        free = swap(self._cell, f"moves {self._kept_as(backend_of(key), key)}", move)
        if free is None:  # each swap that was lost is another job that moved
            free = at + _AGAIN_S
        if free <= at:
            del self._since[key]
            return Answer(now=True)
        return Answer(now=False, at=free + jitter * SPREAD_S, waits=free <= latest)

    def full(self) -> Trouble:
        """Return why a job that has waited for long enough is not sent there."""
        return Trouble(
            Code.RATE_LIMITED.value,
            f"{self.per_minute} jobs a minute may move here, and too many wait for that",
            "Allow more: pennyreel config set moves_per_minute NUMBER, or 0 for no limit.",
            retryable=True,
        )


def _moves(state: object) -> list[float]:
    given = state.get("moves") if isinstance(state, dict) else None
    times = given if isinstance(given, list) else []
    return [float(t) for t in times if isinstance(t, (int, float))]
