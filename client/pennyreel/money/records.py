"""What the ledger tells of jobs, attempts and money: plain records, times in UTC milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Row, Select, func, select

from pennyreel.errors import Code, error
from pennyreel.money.periods import stamp
from pennyreel.money.tables import attempts, entries
from pennyreel.types import Handle

CERTAINTIES = ("known", "estimated", "unknown")
STATES = ("intended", "sent", "accepted", "running", "unknown", "ended")
"""Of an attempt. `unknown`: it was sent, no answer came, and nobody knows whether it ran."""


@dataclass(frozen=True)
class Labels:
    """By what spending is limited and added up, besides the backend. Free texts, or None."""

    project: str | None = None
    user: str | None = None
    template: str | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None:
                check_name(value, name)


@dataclass(frozen=True)
class Attempt:
    """One try of a job on one backend, with its money in micro-dollars."""

    attempt_id: str
    job_id: str
    backend: str
    target: str
    state: str
    handle: str | None
    code: str | None
    """How it ended: done, or an error's code."""
    intended_ms: int
    sent_ms: int | None
    accepted_ms: int | None
    running_ms: int | None
    unknown_ms: int | None
    ended_ms: int | None
    claimed_by: str | None
    claimed_until_ms: int | None
    reserved: int
    """Held back for it; of an unknown outcome, this counts as spent."""
    spent: int

    @property
    def where(self) -> Handle | None:
        """Its handle, where it was accepted."""
        return None if self.handle is None else Handle.parse(self.handle)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with times as text."""
        return _plain(self, leave_out=("claimed_by", "claimed_until_ms"))


@dataclass(frozen=True)
class Job:
    """One job. Its request is known by a digest only."""

    job_id: str
    created_ms: int
    request_sha256: str
    need: Mapping[str, Any]
    project: str | None
    user: str | None
    template: str | None
    backends: tuple[str, ...]
    """The order in which backends were to be tried, where the user gave one."""
    policy: str
    outcome: str | None
    """None: open; else done, or an error's code."""
    ended_ms: int | None
    summary: Mapping[str, Any] | None
    spent: int = 0
    reserved: int = 0
    attempts: tuple[Attempt, ...] = field(default=())

    @property
    def state(self) -> str:
        """One of open, done, unknown, cancelled, failed."""
        return {None: "open", "done": "done", **_OUTCOMES}.get(self.outcome, "failed")

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with times as text."""
        told = _plain(self, leave_out=("attempts",))
        return {**told, "state": self.state, "attempts": [a.to_json() for a in self.attempts]}


_OUTCOMES: dict[str | None, str] = {
    Code.UNKNOWN_OUTCOME.value: "unknown",
    Code.CANCELLED.value: "cancelled",
}
JOB_STATES = ("open", "done", "unknown", "cancelled", "failed")


@dataclass(frozen=True)
class Entry:
    """One line of the books. They are only ever added to."""

    attempt_id: str
    kind: str
    reference: str
    reserved: int
    """What it adds to the amount reserved, in micro-dollars; negative where it gives back."""
    spent: int
    at_ms: int
    booked_ms: int
    """When the attempt was reserved: the day and month that it counts in."""
    catalogue: str
    """The version of the prices."""
    certainty: str

    def to_json(self) -> dict[str, Any]:
        """Return plain data, with times as text."""
        return _plain(self)


def attempts_with_money() -> Select[Any]:
    """Return the query whose rows are the fields of `Attempt`."""
    return (
        select(
            attempts,
            func.coalesce(func.sum(entries.c.reserved), 0).label("reserved"),
            func.coalesce(func.sum(entries.c.spent), 0).label("spent"),
        )
        .outerjoin(entries, entries.c.attempt_id == attempts.c.attempt_id)
        .group_by(attempts.c.attempt_id)
        .order_by(attempts.c.intended_ms, attempts.c.attempt_id)
    )


def as_attempt(row: Row[Any]) -> Attempt:
    """Return a row of `attempts_with_money` as a record."""
    found = dict(row._mapping)  # noqa: SLF001 - SQLAlchemy's public name for it
    # Postgres adds whole numbers up to decimals.
    return Attempt(**{**found, "reserved": int(found["reserved"]), "spent": int(found["spent"])})


def check_name(value: str, what: str) -> None:
    """Raise BadRequest unless a label fits into a line."""
    if not value or len(value) > 200 or not value.isprintable() or value != value.strip():
        raise error(
            Code.BAD_REQUEST,
            f"the {what} is no name: {value[:40]!r}",
            hint="Use up to 200 printable characters, without white space around them.",
        )


def _plain(record: Any, leave_out: tuple[str, ...] = ()) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, value in vars(record).items():
        if name in leave_out:
            continue
        if name.endswith("_ms"):
            told[name.removesuffix("_ms")] = stamp(value)
        elif name in {"reserved", "spent"}:
            told[f"{name}_microusd"] = value
        else:
            told[name] = list(value) if isinstance(value, tuple) else value
    return told
