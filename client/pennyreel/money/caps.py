"""Budgets: how much may be spent in a scope and a period, and how much of it is taken.

A balance is added up from the money entries each time; nothing stores it. All of an attempt counts
in the period in which it was reserved, so that what fitted then still fits when it is settled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, true

from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.amounts import MOST, dollars
from pennyreel.money.periods import PERIODS, bounds, stamp
from pennyreel.money.records import check_name
from pennyreel.money.tables import attempts, budgets, entries

SCOPES = ("all", "backend", "project", "user")


@dataclass(frozen=True)
class Scope:
    """What a budget is of: everything, or one backend, project or user by its name."""

    kind: str
    name: str = ""

    @classmethod
    def parse(cls, text: str) -> Scope:
        """Read all, backend:runpod, project:NAME, user:NAME.

        Raises:
            BadRequest: it is none of these.

        """
        kind, colon, name = text.partition(":")
        if kind not in SCOPES or (kind == "all") == bool(colon):
            raise error(
                Code.BAD_REQUEST,
                f"{text[:60]!r} is no scope of a budget",
                hint="Write all, backend:NAME, project:NAME or user:NAME.",
            )
        if colon:
            check_name(name, kind)
        return cls(kind, name)

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


@dataclass(frozen=True)
class Cap:
    """At most `limit` micro-dollars in a scope and a period."""

    scope: Scope
    period: str
    limit: int

    def __post_init__(self) -> None:
        if self.period not in PERIODS:
            raise error(Code.BAD_REQUEST, f"{self.period!r} is no period: {', '.join(PERIODS)}")
        if not 0 <= self.limit <= MOST:
            raise error(Code.BAD_REQUEST, f"the cap of {self.scope} is no amount: {self.limit}")


@dataclass(frozen=True)
class Held:
    """What is taken of a cap, in micro-dollars."""

    spent: int
    """Settled, or of an unknown outcome and so as good as spent."""
    reserved: int
    """Held back for attempts that have not ended."""

    @property
    def counted(self) -> int:
        """Both."""
        return self.spent + self.reserved


@dataclass(frozen=True)
class Budget:
    """A cap, and what is taken of it now."""

    cap: Cap
    held: Held
    resets_ms: int | None

    @property
    def left(self) -> int:
        """What a job may cost at most; never negative."""
        return max(0, self.cap.limit - self.held.counted)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; amounts in micro-dollars, the time as text."""
        return {
            "scope": str(self.cap.scope),
            "period": self.cap.period,
            "cap_microusd": self.cap.limit,
            "spent_microusd": self.held.spent,
            "reserved_microusd": self.held.reserved,
            "left_microusd": self.left,
            "resets": stamp(self.resets_ms),
        }


def all_caps(connection: Connection) -> list[Cap]:
    """Return every cap that is set, in the order of SCOPES, names and PERIODS."""
    return _read(connection, true())


def caps_on(connection: Connection, labels: dict[str, str | None]) -> list[Cap]:
    """Return the caps that an attempt with these labels counts in."""
    named = [
        and_(budgets.c.scope == kind, budgets.c.name == name)
        for kind, name in labels.items()
        if name is not None
    ]
    return _read(connection, or_(budgets.c.scope == "all", *named))


def applies(cap: Cap, labels: dict[str, str | None]) -> bool:
    """Whether an attempt with these labels counts in a cap."""
    return cap.scope.kind == "all" or labels.get(cap.scope.kind) == cap.scope.name


def state_of(connection: Connection, cap: Cap, now_ms: int) -> Budget:
    """Add up what is taken of a cap in the period around `now_ms`."""
    begin, end = bounds(cap.period, now_ms)
    inside = _inside(cap.scope, begin, end)
    spent, reserved = _sums(connection, inside)
    lost = _lost(connection, inside)
    return Budget(cap, Held(spent + lost, reserved - lost), end)


def check(
    connection: Connection,
    caps: Sequence[Cap],
    amount: int,
    now_ms: int,
) -> None:
    """Raise Unavailable, `budget_exceeded`, if one more `amount` is too much for any of the caps.

    Nothing is too much that costs nothing.
    """
    for cap in caps:
        inside = _inside(cap.scope, *bounds(cap.period, now_ms))
        if amount and sum(_sums(connection, inside)) + amount > cap.limit:
            raise exceeded(state_of(connection, cap, now_ms), amount)


def exceeded(budget: Budget, amount: int) -> PennyreelError:
    """Return the error that says which budget has no room, why, and when it will have."""
    cap, held, resets = budget.cap, budget.held, stamp(budget.resets_ms)
    option = f"pennyreel budget set {cap.scope} --{cap.period} AMOUNT"
    return error(
        Code.BUDGET_EXCEEDED,
        f"the {cap.period} budget of {cap.scope} has {_sum(budget.left)} left, and this may cost "
        f"{_sum(amount)}: cap {_sum(cap.limit)}, spent {_sum(held.spent)}, reserved for running "
        f"jobs {_sum(held.reserved)}; " + (f"resets at {resets}" if resets else "never resets"),
        hint=f"Use a cheaper backend, {'wait until then, ' if resets else ''}or raise it: {option}",
        detail={**budget.to_json(), "wanted_microusd": amount},
    )


def _read(connection: Connection, which: ColumnElement[bool]) -> list[Cap]:
    rows = connection.execute(select(budgets).where(which)).all()
    found = [Cap(Scope(row.scope, row.name), row.period, row.cap) for row in rows]
    return sorted(found, key=_order)


def _inside(scope: Scope, begin_ms: int, end_ms: int | None) -> ColumnElement[bool]:
    named = true() if scope.kind == "all" else entries.c[scope.kind] == scope.name
    until = true() if end_ms is None else entries.c.booked_ms < end_ms
    return and_(named, entries.c.booked_ms >= begin_ms, until)


def _sums(connection: Connection, inside: ColumnElement[bool]) -> tuple[int, int]:
    both = select(func.sum(entries.c.spent), func.sum(entries.c.reserved)).where(inside)
    spent, reserved = connection.execute(both).one()
    return int(spent or 0), int(reserved or 0)


def _lost(connection: Connection, inside: ColumnElement[bool]) -> int:
    """Return what unknown attempts have reserved: it is as good as spent."""
    unknown = select(attempts.c.attempt_id).where(attempts.c.state == "unknown")
    # Mostly there is none, and then a hundred thousand entries need not be looked at for it.
    if connection.execute(unknown.limit(1)).first() is None:
        return 0
    return _sums(connection, and_(inside, entries.c.attempt_id.in_(unknown)))[1]


def _order(cap: Cap) -> tuple[int, str, int]:
    return SCOPES.index(cap.scope.kind), cap.scope.name, PERIODS.index(cap.period)


def _sum(amount: int) -> str:
    """Like `dollars`, where nothing is $0 and not free."""
    return dollars(amount) if amount else "$0.00"
