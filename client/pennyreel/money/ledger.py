"""The ledger: jobs, attempts, money and budgets in one database, shared by all processes.

`jobbook.py` has jobs and claims, `moneybook.py` reservations, `budgetbook.py` caps, and
`sharedbook.py` what processes tell one another. A ledger is thread-safe; each call is one
transaction.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from pennyreel.config import Settings
from pennyreel.errors import PennyreelError
from pennyreel.money import alerts, shares, spending
from pennyreel.money.budgetbook import BudgetBook
from pennyreel.money.claims import new_owner
from pennyreel.money.database import Database
from pennyreel.money.jobbook import JobBook
from pennyreel.money.moneybook import MoneyBook
from pennyreel.money.sharedbook import SharedBook
from pennyreel.money.upgrade import upgrade


class Ledger(JobBook, MoneyBook, BudgetBook, SharedBook):
    """One open ledger. Close it: what it follows can be followed by others then."""

    def __init__(
        self,
        database: Database,
        *,
        clock: Callable[[], float] = time.time,
        tells: alerts.Alerts | None = None,
    ) -> None:
        """Take over a database, and bring it to this version's schema.

        Args:
            database: where it is kept; closed with the ledger.
            clock: seconds since 1970, UTC.
            tells: where spend alerts go; a log line, unless given.

        Raises:
            SetupNeeded: `ledger_unusable`.

        """
        self._db, self._clock = database, clock
        self._alerts = tells or alerts.Alerts()
        self._owner = new_owner()
        try:
            upgrade(database)
        except BaseException:
            database.close()
            raise

    @classmethod
    def open(cls, settings: Settings, *, clock: Callable[[], float] = time.time) -> Ledger:
        """Open the ledger that the settings name: `ledger_url`, or ledger.db in the home folder."""
        url = settings.ledger_url
        database = Database.of_url(url) if url else Database.of_file(settings.home / "ledger.db")
        private = (settings.alert_hosts or "").lower().replace(" ", "").split(",")
        tells = alerts.Alerts(settings.alert_webhook, frozenset(filter(None, private)))
        return cls(database, clock=clock, tells=tells)

    @property
    def place(self) -> str:
        """Where it is: a path, or a server and database without the password."""
        return self._db.place

    @property
    def identity(self) -> str:
        """What tells it from other ledgers: its place, a file's in full."""
        return self._db.place if self._db.postgres else str(Path(self._db.place).resolve())

    def spending(
        self, by: str, *, since_ms: int = 0, until_ms: int | None = None
    ) -> list[spending.Spending]:
        """Return what was spent, by day, month, backend, template, project or user."""
        with self._db.read() as connection:
            return spending.spending(connection, by, since_ms, until_ms)

    def shares(self) -> dict[str, float]:
        """Return, by backend, the share of the latest attempts that went well; see `shares`."""
        with self._db.read() as connection:
            return shares.shares(connection)

    def alerts(self) -> list[alerts.Alert]:
        """Return the spend alerts there were, oldest first."""
        with self._db.read() as connection:
            return alerts.told(connection)

    def close(self) -> None:
        """Let go what is followed, wait a little for alerts on their way, and disconnect."""
        try:
            if self._follows:
                with suppress(PennyreelError):  # then its claims end by themselves
                    self.unclaim()
        finally:
            self._alerts.close()
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
