"""The ledger's part about budgets: set, shown, lifted. `caps.py` has what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import ColumnElement, and_

from pennyreel.money.book import Book
from pennyreel.money.caps import Budget, Cap, Scope, all_caps, applies, caps_on, state_of
from pennyreel.money.records import Labels
from pennyreel.money.tables import budgets


class BudgetBook(Book):
    """How much may be spent, and how much of it is taken."""

    def set_budget(self, scope: Scope, period: str, limit: int) -> Budget:
        """Allow at most `limit` micro-dollars in a scope and period, from now on."""
        cap = Cap(scope, period, limit)
        with self._db.write() as connection:
            connection.execute(budgets.delete().where(_is(scope, period)))
            connection.execute(
                budgets.insert().values(
                    scope=scope.kind,
                    name=scope.name,
                    period=period,
                    cap=limit,
                    set_ms=self.now_ms(),
                )
            )
            return state_of(connection, cap, self.now_ms())

    def remove_budget(self, scope: Scope, period: str) -> bool:
        """Lift a cap; return whether there was one."""
        with self._db.write() as connection:
            return connection.execute(budgets.delete().where(_is(scope, period))).rowcount > 0

    def budgets(self) -> list[Budget]:
        """Return every cap with what is taken of it now."""
        with self._db.read() as connection:
            return [state_of(connection, cap, self.now_ms()) for cap in all_caps(connection)]

    def room(
        self, *, backend: str, labels: Labels | None = None, caps: Sequence[Cap] = ()
    ) -> int | None:
        """Return the micro-dollars that a job could cost now, or None where no cap applies.

        Only `reserve` takes them: another job may be faster.
        """
        given = {**asdict(labels or Labels()), "backend": backend}
        with self._db.read() as connection:
            limits = [*caps_on(connection, given), *(c for c in caps if applies(c, given))]
            now = self.now_ms()
            return min((state_of(connection, cap, now).left for cap in limits), default=None)


def _is(scope: Scope, period: str) -> ColumnElement[bool]:
    row = budgets.c
    return and_(row.scope == scope.kind, row.name == scope.name, row.period == period)
