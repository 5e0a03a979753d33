"""What the ledger's tests share: where it is, what time it is, jobs to pay for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import sqlalchemy as sa

from pennyreel.config import Secret
from pennyreel.money.alerts import Alerts
from pennyreel.money.database import Database
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Attempt, Labels
from pennyreel.need import Need

NOON = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)


class Clock:
    """Seconds since 1970; stands still."""

    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now.timestamp()

    def forward(self, **time: float) -> None:
        self.now += timedelta(**time)


@dataclass(frozen=True)
class Place:
    """A database for one test."""

    url: str

    @property
    def postgres(self) -> bool:
        return self.url.startswith("postgresql")

    def database(self) -> Database:
        return Database.of_url(Secret(self.url))

    def open(self, clock: Callable[[], float] | None = None, tells: Alerts | None = None) -> Ledger:
        options: dict[str, Any] = {} if clock is None else {"clock": clock}
        return Ledger(self.database(), tells=tells, **options)

    @contextmanager
    def connection(self) -> Iterator[sa.Connection]:
        """The database without the ledger's care."""
        engine = sa.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"))
        try:
            with engine.begin() as connection:
                yield connection
        finally:
            engine.dispose()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with self.connection() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(query)]

    def run(self, statement: str) -> None:
        with self.connection() as connection:
            connection.exec_driver_sql(statement)


def job(ledger: Ledger, job_id: str = "j1", **labels: str) -> str:
    """Record a job."""
    ledger.record_job(
        job_id,
        request_sha256=f"digest of {job_id}",
        need=Need(profile="hello-video"),
        labels=Labels(**labels),
    )
    return job_id


def reserve(ledger: Ledger, attempt_id: str, amount: int, **more: Any) -> Attempt:
    """Record a job of its own for an attempt, and reserve."""
    labels = {k: more.pop(k) for k in ("project", "user", "template") if k in more}
    options = {"backend": "runpod", "job_id": f"job-{attempt_id}", **more}
    job(ledger, options["job_id"], **labels)
    return ledger.reserve(attempt_id, amount, **options)
