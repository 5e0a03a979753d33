"""How a simulated backend behaves: numbers, a seed and a clock."""

from __future__ import annotations

import math
import random
import threading
import time
from dataclasses import dataclass, fields
from typing import Any, Protocol

from typing_extensions import Self

from pennyreel.errors import Code, error
from pennyreel.need import Abilities, Unit

ABLE = Abilities(
    kinds=frozenset({"image", "video"}),
    workflows=True,
    prompts=True,
    formats=frozenset({"gif", "png"}),
    image_input=True,
    lora=True,
    negative_prompt=True,
    seed=True,
    cancels=True,
    looks_up=True,
    replays=True,
    private=True,
    quality=0,
)


class Clock(Protocol):
    """Where its time comes from."""

    def now(self) -> float:
        """Return the time in seconds, from any beginning."""

    def wait(self, seconds: float, woken: threading.Event) -> None:
        """Let so many seconds pass, or fewer if `woken` is set."""


class WallClock:
    """The machine's own, which processes share."""

    def now(self) -> float:
        """See `Clock`."""
        return time.time()

    def wait(self, seconds: float, woken: threading.Event) -> None:
        """See `Clock`."""
        woken.wait(seconds)


@dataclass(frozen=True)
class Fate:
    """What becomes of one attempt."""

    refused: Code | None
    """It is not taken, and the answer says so."""
    taken: bool
    answered: bool
    queue_s: float
    run_s: float
    """Infinite, where it never ends by itself."""
    ends: Code | None
    """How its run ends; None = well."""


@dataclass(frozen=True)
class Simulation:
    """How it behaves. `refuse`, `drop`, `lose`, `fail` and `hang` are shares of 1."""

    queue_s: float = 0.0
    run_s: float = 0.0
    """Of a job of the usual size."""
    spread: float = 0.0
    """By what share of them either time is longer or shorter, at most."""
    refuse: float = 0.0
    """Submits that are refused with `refuse_code`."""
    drop: float = 0.0
    """Submits that get no answer, and are not taken."""
    lose: float = 0.0
    """Submits that get no answer, and are taken."""
    fail: float = 0.0
    """Jobs that fail in their run with `fail_code`."""
    hang: float = 0.0
    """Jobs that never end by themselves."""
    deaf: bool = False
    """It does not act on a cancel."""
    outages: tuple[tuple[float, float], ...] = ()
    """From when to when, by the clock, it cannot be reached; jobs go on."""
    kept_s: float = math.inf
    """How long a result is kept."""
    refuse_code: Code = Code.BACKEND_UNAVAILABLE
    retry_after_s: float | None = None
    fail_code: Code = Code.EXECUTION_FAILED
    sku: str = "simulated"
    unit: Unit = Unit.RUN
    startup_s: float = 0.0
    idle_s: float = 0.0
    able: Abilities = ABLE
    seed: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "run_s=2,fail=0.1": numbers by name.

        Raises:
            SetupNeeded: a name or a number is none.

        """
        known = {f.name for f in fields(cls) if isinstance(f.default, float)}
        found: dict[str, Any] = {}
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, value = (p.strip() for p in part.partition("="))
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if name not in known or not number >= 0:
                raise error(
                    Code.NOT_CONFIGURED,
                    f"PENNYREEL_SIMULATED: {part!r} is not NAME=NUMBER",
                    hint=f"Write it like run_s=2,fail=0.1; names: {', '.join(sorted(known))}",
                )
            found[name] = number
        return cls(**found)

    def down(self, at: float) -> bool:
        """Whether it cannot be reached."""
        return any(start <= at < end for start, end in self.outages)

    def fate(self, attempt_id: str, at: float, size: float = 1.0) -> Fate:
        """Return what becomes of an attempt that is sent at a time. Pure."""
        rolls = random.Random(f"{self.seed}:{attempt_id}")  # noqa: S311 - not a secret
        refuse, drop, lose, fail, hang = (rolls.random() for _ in range(5))
        longer = [1 + self.spread * rolls.uniform(-1, 1) for _ in range(2)]
        refused = self.refuse_code if refuse < self.refuse else None
        if self.down(at):
            refused = Code.BACKEND_UNAVAILABLE
        taken = refused is None and drop >= self.drop
        return Fate(
            refused=refused,
            taken=taken,
            answered=refused is not None or (taken and lose >= self.lose),
            queue_s=self.queue_s * longer[0],
            run_s=math.inf if hang < self.hang else self.run_s * longer[1] * size,
            ends=self.fail_code if fail < self.fail else None,
        )
