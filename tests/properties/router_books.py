"""Books in memory that object to whatever the rules forbid."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from pennyreel.routing.machine import (
    AttemptRecord,
    JobRecord,
    Option,
    Outcome,
    Rules,
    Stage,
    Trouble,
)

ENDS = {Stage.REFUSED, Stage.FAILED, Stage.STOPPED, Stage.DONE, Stage.UNKNOWN}
LEGAL = {
    Stage.RESERVED: {Stage.SENDING, Stage.ACCEPTED, Stage.REFUSED, Stage.RESERVED},
    Stage.SENDING: {Stage.SENDING, Stage.RESERVED, Stage.ACCEPTED, *ENDS},
    Stage.ACCEPTED: {Stage.ACCEPTED, Stage.STOPPING, *(ENDS - {Stage.REFUSED})},
    Stage.STOPPING: {Stage.STOPPING, *(ENDS - {Stage.REFUSED})},
    # A success is a truth whenever it comes.
    **{end: {Stage.DONE} for end in ENDS},
}


class OverLimit(Exception):
    """The budget does not allow it."""


@dataclass
class Books:
    """One job's books, and the budget that it draws on."""

    job_id: str
    options: tuple[Option, ...]
    limit: int
    rules: Rules = field(default_factory=Rules)
    attempts: dict[int, AttemptRecord] = field(default_factory=dict)
    costs: dict[int, int] = field(default_factory=dict)
    """What each attempt counts as: its reservation until it is settled."""
    settled: set[int] = field(default_factory=set)
    cancel: bool = False
    outcome: Outcome | None = None
    ends: int = 0
    most: int | None = None
    """What the job may cost altogether without another yes."""
    returns: int = 0
    """To what was set aside."""

    @property
    def counted(self) -> int:
        return sum(self.costs.values())

    def reserve(self, n: int, option: Option) -> None:
        before = self.attempts.get(n)
        again = before is None or before.stage is Stage.REFUSED
        assert again, "each option has one attempt, but for what was refused and set aside"
        keys = [self.options[k].key for k in self.attempts if k != n]
        assert option.key not in keys, "each backend is tried once"
        assert self.outcome is None
        if self.counted + option.reserve_microusd > self.limit:
            raise OverLimit
        self.returns += self.attempts.pop(n, None) is not None
        self.settled.discard(n)
        self.attempts[n] = AttemptRecord(n, Stage.RESERVED)
        self.costs[n] = option.reserve_microusd

    def write(self, n: int, stage: Stage, handle: str | None, at: float | None) -> None:
        self._move(n, stage)
        kept = self.attempts[n]
        assert stage not in ENDS, "an end has a cost: it is settled"
        if stage in {Stage.ACCEPTED, Stage.STOPPING}:
            assert handle, "what is accepted has a handle"
        self.attempts[n] = replace(
            kept,
            stage=stage,
            handle=handle or kept.handle,
            accepted_at=at if at is not None else kept.accepted_at,
        )

    def settle(self, n: int, stage: Stage, microusd: int | None, trouble: Trouble | None) -> None:
        assert stage in ENDS
        self._move(n, stage)
        self.settled.add(n)
        self.costs[n] = self.options[n].reserve_microusd if microusd is None else microusd
        self.attempts[n] = replace(
            self.attempts[n], stage=stage, trouble=trouble, cost=self.costs[n]
        )

    def end(self, outcome: Outcome) -> None:
        assert self.outcome is None, "a job ends once"
        self.ends += 1
        self.outcome = outcome

    def record(self) -> JobRecord:
        return JobRecord(
            self.job_id,
            self.options,
            tuple(self.attempts.values()),
            self.cancel,
            self.outcome,
            self.rules,
            self.most,
        )

    def _move(self, n: int, stage: Stage) -> None:
        assert n in self.attempts, "nothing is written of an attempt before its intent"
        assert self.outcome is None, "nothing is written after the end"
        now = self.attempts[n].stage
        assert stage in LEGAL[now], f"{now.value} -> {stage.value}"
