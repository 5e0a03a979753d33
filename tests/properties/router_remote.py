"""An adversary behind each option: what it says, what is true, and what it bills."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from pennyreel.routing.machine import Option, Trouble

MOVABLE = Trouble("comfy_crashed", "it crashed", retryable=True)
NO_MEMORY = Trouble("out_of_memory", "too little memory")
FATAL = Trouble("execution_failed", "node 7 divides by zero")
EXPIRED = Trouble("result_expired", "the result is gone")
BUSY = Trouble("rate_limited", "too many requests", retryable=True)
DOWN = Trouble("backend_unavailable", "it answers 503", retryable=True)
BAD = Trouble("bad_request", "it takes no such size")
SILENT = Trouble("unknown_outcome", "no answer")
LATE = Trouble("timeout", "the deadline passed", retryable=True)
CANCELLED = Trouble("cancelled", "the job was cancelled", retryable=True)


@dataclass(frozen=True)
class Temper:
    """How likely each kind of trouble is. All zero: it works."""

    refuses: float = 0.0
    loses: float = 0.0
    lies: float = 0.0
    hangs: float = 0.0
    """Accepted, and never started or never ended."""
    fails: float = 0.0
    silent: float = 0.0
    """Falls silent while it is followed, or looked up."""
    unconfirmed: float = 0.0
    meddled: float = 0.0
    """Somebody else cancels the job there."""

    @property
    def works(self) -> bool:
        return self == Temper()


@dataclass
class Remote:
    """One option's backend, and the one job that it may have."""

    option: Option
    temper: Temper
    random: Random
    accepted_at: float | None = None
    starts_at: float | None = None
    ends_at: float | None = None
    success: bool = True
    trouble: Trouble | None = None
    stopped_at: float | None = None
    bill: int = 0
    lied: bool = False
    submits: int = 0

    def happens(self, chance: float) -> bool:
        return chance > 0 and self.random.random() < chance

    def accept(self, at: float) -> None:
        """Take the job, and fix its fate."""
        if self.accepted_at is not None:
            return  # a replay
        self.accepted_at = at
        self.bill = self.random.randint(1, max(1, self.option.reserve_microusd))
        if self.option.reserve_microusd == 0:
            self.bill = 0
        r = self.random
        fate = r.random() if self.temper.hangs else 1.0
        longest = 10 if self.temper.works else 20
        self.starts_at = None if fate < self.temper.hangs / 2 else at + r.uniform(0, longest)
        if self.starts_at is not None and fate >= self.temper.hangs:
            most = 1.0 if self.temper.works else 2.0
            self.ends_at = self.starts_at + r.uniform(0, most) * self.option.expect_s
        if self.happens(self.temper.fails):
            self.success = False
            self.trouble = r.choice([MOVABLE, MOVABLE, NO_MEMORY, FATAL, EXPIRED])

    def ended(self, at: float) -> bool:
        """Whether it has come to its own end by now."""
        if self.ends_at is None or self.ends_at > at:
            return False
        return self.stopped_at is None or self.stopped_at > self.ends_at

    def started(self, at: float) -> bool:
        return self.starts_at is not None and self.starts_at <= at

    def stop(self, at: float) -> bool:
        """Cancel it, and say whether that is confirmed."""
        if self.stopped_at is not None and self.stopped_at <= at:
            return not self.happens(self.temper.unconfirmed)
        if not self.option.cancels:
            return False
        if self.happens(self.temper.unconfirmed):
            if self.random.random() < 0.5:
                self.stopped_at = at  # it did stop, and did not say so
            return False
        if self.happens(self.temper.lies):
            self.lied = True
            return True
        self.stopped_at = at
        return True

    def billed(self) -> int:
        """What it bills in the end, lies included."""
        if self.accepted_at is None:
            return 0
        if self.stopped_at is not None and not self.ended(self.stopped_at):
            waited = min(self.option.start_microusd, self.option.reserve_microusd)
            return self.bill if self.started(self.stopped_at) else waited
        return self.bill

    def paid_result(self) -> bool:
        """Whether it makes, and bills, a result in the end."""
        return self.accepted_at is not None and self.success and self.ended(float("inf"))


@dataclass
class Word:
    """What a backend has told the router of its attempt: all that the router can go by."""

    said: str = "nothing"
    """nothing, maybe (sent, no answer), accepted, over."""
    unsure: bool = False
    torn: bool = False
    """The client was killed between sending and knowing."""
    losses: int = 0
    silences: int = 0
    unconfirmed: int = 0
    refusals: int = 0
    big_pause: bool = False
    not_before: float = 0.0
    last: Trouble | None = None
