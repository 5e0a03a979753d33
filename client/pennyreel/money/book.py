"""What the parts of the ledger have in common: its database, its clock, its name."""

from __future__ import annotations

from collections.abc import Callable

from pennyreel.money.alerts import Alerts
from pennyreel.money.database import Database


class Book:
    """A part of the ledger. `Ledger` sets these."""

    _db: Database
    _clock: Callable[[], float]
    _owner: str
    """As whom it follows attempts."""
    _follows: bool = False
    """Whether it may have taken any."""
    _alerts: Alerts

    def now_ms(self) -> int:
        """Return the time by the ledger's clock, in UTC milliseconds."""
        return int(self._clock() * 1000)
