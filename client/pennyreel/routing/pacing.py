"""How many jobs a minute move to a paid backend: a whole queue that fails over is let in by turns.

All processes share the line. What is kept of a backend is the last turns that were given out there,
as epoch seconds, in the same cells as the breakers: in no minute there are more than the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pennyreel.errors import Code
from pennyreel.routing.breakers import TRIES, Cell, KeptAs
from pennyreel.routing.machine import Trouble

MINUTE_S = 60.0
_AGAIN_S = 1.0


@dataclass(frozen=True)
class Place:
    """A job's place in the line."""

    at: float
    """When its turn is, in epoch seconds."""
    given: bool = True
    """False: it would have to wait for longer than it may."""


def place(taken: Sequence[float], per_minute: int, at: float) -> float:
    """Return when the next turn is, at `at` or later. `taken`: the turns given out before."""
    last = sorted(taken)[-per_minute:]
    return at if len(last) < per_minute else max(at, last[0] + MINUTE_S)


class Pace:
    """Hands out places; for one job, which keeps what it was given."""

    def __init__(
        self, cell: Cell, per_minute: int, *, kept_as: KeptAs = lambda _backend, key: key
    ) -> None:
        """Keep all of it; `kept_as` is as in `Breakers`, and 0 a minute means no limit."""
        self._cell, self.per_minute, self._kept_as = cell, per_minute, kept_as
        self._mine: dict[str, float] = {}
        self._since: dict[str, float] = {}

    def turn(self, key: str, at: float, patience_s: float) -> Place:
        """Return the job's place at a backend: a new one, or that which it has.

        Args:
            key: the option's.
            at: the time.
            patience_s: how long it waits at most, from the first time that it asked.

        """
        if not self.per_minute or key in self._mine:
            return Place(self._mine.get(key, at))
        latest = self._since.setdefault(key, at) + patience_s
        name = f"moves {self._kept_as(key.partition(':')[0], key)}"
        for _ in range(TRIES):
            state, version = self._cell.breaker(name)
            taken = _turns(state)
            turn = place(taken, self.per_minute, at)
            if turn > latest:
                return Place(turn, given=False)
            kept = sorted([*taken, turn])[-self.per_minute :]
            if self._cell.put_breaker(name, {"turns": kept}, version=version):
                self._mine[key] = turn
                return Place(turn)
        # Each swap that was lost is another job's place: ask again for one.
        return Place(at + _AGAIN_S, given=at + _AGAIN_S <= latest)

    def full(self, turn: Place, at: float) -> Trouble:
        """Return why a job that got no place is not sent there."""
        return Trouble(
            Code.RATE_LIMITED.value,
            f"{self.per_minute} jobs a minute may move here, and the next turn is in "
            f"{turn.at - at:.0f} s",
            "Allow more: pennyreel config set moves_per_minute NUMBER, or 0 for no limit.",
            retryable=True,
        )


def _turns(state: object) -> list[float]:
    given = state.get("turns") if isinstance(state, dict) else None
    return [float(t) for t in given if isinstance(t, (int, float))] if given else []
