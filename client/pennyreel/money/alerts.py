"""Tells that half, four fifths or all of a cap is spent: once for each cap, level and period.

The level is marked in the transaction that reaches it, so no other process tells it again. Telling
comes after it, in a thread of its own: a log line and, where one is configured, a webhook. A
webhook that fails is logged and not tried again; the job does not notice.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from pennyreel.config import Secret
from pennyreel.errors import PennyreelError
from pennyreel.money.amounts import dollars
from pennyreel.money.caps import Cap, Scope, caps_on, state_of
from pennyreel.money.periods import bounds, stamp
from pennyreel.money.tables import alerts
from pennyreel_comfy.fetch import post
from pennyreel_comfy.waiting import Deadline

LEVELS = (50, 80, 100)
"""Percent of a cap."""

POST_S = 5.0
LEAVE_S = 3.0
"""How long closing the ledger waits for webhooks on their way."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Alert:
    """A level that was reached."""

    cap: Cap
    level: int
    spent: int
    start_ms: int
    at_ms: int

    def __str__(self) -> str:
        return (
            f"{self.level} % of the {self.cap.period} budget of {self.cap.scope} is spent: "
            f"{dollars(self.spent)} of {dollars(self.cap.limit)}"
        )

    def to_json(self) -> dict[str, Any]:
        """Return what the webhook is sent; `text` is what chat programs show."""
        return {
            "event": "pennyreel.budget",
            "text": f"pennyreel: {self}",
            "scope": str(self.cap.scope),
            "period": self.cap.period,
            "level": self.level,
            "cap_microusd": self.cap.limit,
            "spent_microusd": self.spent,
            "since": stamp(self.start_ms),
            "at": stamp(self.at_ms),
        }


def crossed(
    connection: Connection, labels: dict[str, str | None], booked_ms: int, now_ms: int
) -> list[Alert]:
    """Mark and return the levels that are reached and were not told, lowest first.

    Of the period around `booked_ms`, the time of the reservation.
    """
    return [
        new
        for cap in caps_on(connection, labels)
        if cap.limit
        for new in _new(connection, cap, booked_ms, now_ms)
    ]


def told(connection: Connection) -> list[Alert]:
    """Return every alert there was, oldest first."""
    rows = connection.execute(select(alerts).order_by(alerts.c.at_ms, alerts.c.level)).all()
    return [
        Alert(Cap(Scope(r.scope, r.name), r.period, r.cap), r.level, r.spent, r.start_ms, r.at_ms)
        for r in rows
    ]


def _new(connection: Connection, cap: Cap, booked_ms: int, now_ms: int) -> list[Alert]:
    spent = state_of(connection, cap, booked_ms).held.spent
    start = bounds(cap.period, booked_ms)[0]
    reached = [level for level in LEVELS if spent * 100 >= cap.limit * level]
    if not reached:
        return []
    mark = {
        "scope": cap.scope.kind,
        "name": cap.scope.name,
        "period": cap.period,
        "start_ms": start,
        "cap": cap.limit,
    }
    query = select(alerts.c.level).where(*(alerts.c[k] == v for k, v in mark.items()))
    known = set(connection.execute(query).scalars())
    new = [Alert(cap, level, spent, start, now_ms) for level in reached if level not in known]
    for one in new:
        connection.execute(
            alerts.insert().values(**mark, level=one.level, spent=spent, at_ms=now_ms)
        )
    return new


class Alerts:
    """Where alerts go."""

    def __init__(
        self, webhook: Secret | None = None, private: frozenset[str] = frozenset()
    ) -> None:
        """Keep the webhook's URL, and the `host:port` pairs that may be private or without TLS."""
        self._webhook, self._private = webhook, private
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()

    def tell(self, new: Sequence[Alert]) -> None:
        """Log them and send them on their way; returns at once and never raises."""
        for one in new:
            _log.warning("%s", one)
        if new and self._webhook:
            thread = threading.Thread(
                target=self._post_all, args=(list(new),), name="pennyreel-alerts", daemon=True
            )
            with self._guard:
                self._threads = [t for t in self._threads if t.is_alive()]
                self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Wait a little for those on their way."""
        limit = Deadline(LEAVE_S)
        with self._guard:
            threads, self._threads = self._threads, []
        for thread in threads:
            thread.join(limit.left())

    def _post_all(self, new: Sequence[Alert]) -> None:
        for one in new:
            problem = self._post(one)
            if problem:
                _log.warning("the alert webhook was not told: %s", problem)

    def _post(self, one: Alert) -> str:
        """Send one; return what went wrong. The URL is a secret: with chat programs its path is."""
        try:
            status = post(
                self._webhook.reveal() if self._webhook else "",
                json.dumps(one.to_json()).encode(),
                deadline=Deadline(POST_S),
                allow_hosts=self._private,
            )
        except PennyreelError as problem:
            return problem.code
        except Exception as problem:  # noqa: BLE001 - a thread's last resort
            return type(problem).__name__
        return "" if 200 <= status < 300 else f"it answers {status}"
