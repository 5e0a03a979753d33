"""What was spent, added up by day, month, backend, template, project or user."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, case, func, select, true

from pennyreel.errors import Code, error
from pennyreel.money.periods import DAY_MS, moment
from pennyreel.money.tables import attempts, entries

GROUPS = ("day", "month", "backend", "template", "project", "user")


@dataclass(frozen=True)
class Spending:
    """One group's sums, in micro-dollars."""

    group: str
    """Empty: of jobs without this label."""
    spent: int
    """Settled, or of an unknown outcome."""
    reserved: int
    """Held back for attempts that have not ended."""
    jobs: int
    attempts: int
    unknown: int
    """Attempts of which nobody knows whether they ran; what they reserved is in `spent`."""
    unpriced: int
    """Attempts whose price is unknown: the true sum may be higher, or lower."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            "group": self.group,
            "spent_microusd": self.spent,
            "reserved_microusd": self.reserved,
            "jobs": self.jobs,
            "attempts": self.attempts,
            "unknown_attempts": self.unknown,
            "unpriced_attempts": self.unpriced,
        }


def spending(
    connection: Connection, by: str, since_ms: int = 0, until_ms: int | None = None
) -> list[Spending]:
    """Add up the attempts reserved since and until then; days and months in order, the rest by sum.

    Raises:
        BadRequest: `by` is none of GROUPS.

    """
    if by not in GROUPS:
        raise error(
            Code.BAD_REQUEST,
            f"spending is not added up by {by!r}",
            hint=f"By one of: {', '.join(GROUPS)}",
        )
    until = true() if until_ms is None else entries.c.booked_ms < until_ms
    inside = (entries.c.booked_ms >= since_ms) & until
    # A job counts once in its group, however many attempts and entries it has.
    rows = connection.execute(_sums(_key(by), inside)).all()
    if by in {"day", "month"}:
        return _by_time(rows, 10 if by == "day" else 7)
    return sorted(map(_spending, rows), key=lambda s: (-s.spent - s.reserved, s.group))


def _key(by: str) -> ColumnElement[Any]:
    if by in {"day", "month"}:
        return entries.c.booked_ms - entries.c.booked_ms % DAY_MS
    return func.coalesce(entries.c[by], "")


def _sums(key: ColumnElement[Any], inside: ColumnElement[bool]) -> Any:
    return _per_group(_per_attempt(key, inside))


def _per_attempt(key: ColumnElement[Any], inside: ColumnElement[bool]) -> Any:
    """One row an attempt: its group, sums, and whether its last certainty is unknown."""
    lost = attempts.c.state == "unknown"
    spent, reserved = func.sum(entries.c.spent), func.sum(entries.c.reserved)
    settled = func.max(case((entries.c.kind == "settle", entries.c.certainty)))
    asked = func.max(case((entries.c.kind == "reserve", entries.c.certainty)))
    given_back = func.max(case((entries.c.kind == "release", 1), else_=0))
    certainty = func.coalesce(settled, asked)
    return (
        select(
            key.label("grp"),
            attempts.c.job_id.label("job_id"),
            case((lost, spent + reserved), else_=spent).label("spent"),
            case((lost, 0), else_=reserved).label("reserved"),
            case((lost, 1), else_=0).label("unknown"),
            case((given_back == 1, 0), (certainty == "unknown", 1), else_=0).label("unpriced"),
        )
        .join(attempts, attempts.c.attempt_id == entries.c.attempt_id)
        .where(inside)
        .group_by(key, attempts.c.attempt_id, attempts.c.job_id, attempts.c.state)
        .subquery()
    )


def _per_group(each: Any) -> Any:
    return (
        select(
            each.c.grp,
            func.sum(each.c.spent).label("spent"),
            func.sum(each.c.reserved).label("reserved"),
            func.count(each.c.job_id.distinct()).label("jobs"),
            func.count().label("attempts"),
            func.sum(each.c.unknown).label("unknown"),
            func.sum(each.c.unpriced).label("unpriced"),
        )
        .group_by(each.c.grp)
        .order_by(each.c.grp)
    )


def _spending(row: Row[Any]) -> Spending:
    names = [f.name for f in fields(Spending)[1:]]
    return Spending(str(row.grp), **{name: int(row._mapping[name]) for name in names})  # noqa: SLF001


def _by_time(rows: Iterable[Row[Any]], length: int) -> list[Spending]:
    """Name days, and add them up to months, by the first characters of the date."""
    found: dict[str, Spending] = {}
    for row in rows:
        name = moment(int(row.grp)).date().isoformat()[:length]
        one, old = replace(_spending(row), group=name), found.get(name)
        found[name] = one if old is None else _both(name, one, old)
    return list(found.values())


def _both(name: str, one: Spending, other: Spending) -> Spending:
    sums: dict[str, int] = {
        f.name: getattr(one, f.name) + getattr(other, f.name) for f in fields(Spending)[1:]
    }
    return Spending(name, **sums)
