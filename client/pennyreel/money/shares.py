"""How many of a backend's latest attempts went well."""

from __future__ import annotations

from sqlalchemy import Connection, case, func, select

from pennyreel.errors import Code
from pennyreel.money.tables import attempts

LATEST = 50
"""So many of each backend's last attempts count."""

LEAST = 5
"""Fewer tell nothing."""

DONE = "done"


def shares(connection: Connection) -> dict[str, float]:
    """Return each backend's share of ended attempts that were done, 0 to 1, in one query.

    Who cancels says nothing about the backend: such attempts do not count.
    """
    newest = attempts.c.ended_ms.desc(), attempts.c.attempt_id
    place = func.row_number().over(partition_by=attempts.c.backend, order_by=newest)
    latest = (
        select(attempts.c.backend, attempts.c.code, place.label("place"))
        .where(attempts.c.state == "ended", attempts.c.code != Code.CANCELLED.value)
        .subquery()
    )
    done = func.sum(case((latest.c.code == DONE, 1), else_=0))
    rows = connection.execute(
        select(latest.c.backend, done.label("done"), func.count().label("many"))
        .where(latest.c.place <= LATEST)
        .group_by(latest.c.backend)
        .having(func.count() >= LEAST)
    )
    return {row.backend: int(row.done) / int(row.many) for row in rows}
