"""The ledger's part that processes tell one another: breakers, leases, probes, learned seconds."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, and_, select, update

from pennyreel.money.book import Book
from pennyreel.money.tables import breakers, learned, leases, probes
from pennyreel_comfy.waiting import Deadline

KEPT = 50
"""Measurements of a profile on a GPU that are kept."""

LOOK_S = 0.02
"""How often somebody looks whether another's probe has come back."""


@dataclass(frozen=True)
class Probe:
    """What a backend answered, and how long ago."""

    answer: dict[str, Any]
    age_s: float


class SharedBook(Book):
    """What every process on this ledger knows."""

    def breaker(self, backend: str) -> tuple[dict[str, Any] | None, int]:
        """Return a breaker's state and its version; (None, 0) where there is none yet."""
        query = select(breakers).where(breakers.c.backend == backend)
        with self._db.read() as connection:
            row = connection.execute(query).first()
        return (None, 0) if row is None else (dict(row.state), int(row.version))

    def put_breaker(self, backend: str, state: Mapping[str, Any], *, version: int) -> bool:
        """Store a breaker's state if it still has this version; else change nothing: False.

        Times in it have to be absolute: another process reads them.
        """
        new = {"backend": backend, "version": version + 1, "state": dict(state)}
        with self._db.write() as connection:
            if version == 0:
                known = select(breakers.c.version).where(breakers.c.backend == backend)
                if connection.execute(known).first() is not None:
                    return False
                connection.execute(breakers.insert().values(new))
                return True
            here = and_(breakers.c.backend == backend, breakers.c.version == version)
            return connection.execute(update(breakers).where(here).values(new)).rowcount == 1

    def try_lease(self, name: str, seconds: float) -> str | None:
        """Take a lease, and return a token to end it with; None while another holds it."""
        token = secrets.token_hex(8)
        with self._db.write() as connection:
            row = connection.execute(select(leases).where(leases.c.name == name)).first()
            if row is not None and row.until_ms > self.now_ms():
                return None
            self._put_lease(connection, name, token, seconds)
        return token

    def keep_lease(self, name: str, token: str, seconds: float) -> bool:
        """Hold a lease for so many seconds from now; False where it was lost."""
        with self._db.write() as connection:
            row = connection.execute(select(leases).where(leases.c.name == name)).first()
            if row is None or row.owner != token:
                return False
            self._put_lease(connection, name, token, seconds)
            return True

    def end_lease(self, name: str, token: str) -> None:
        """Give a lease back; does nothing where it was lost."""
        mine = and_(leases.c.name == name, leases.c.owner == token)
        with self._db.write() as connection:
            connection.execute(leases.delete().where(mine))

    def probe(self, name: str) -> Probe | None:
        """Return the last answer to a probe, however old, or None."""
        with self._db.read() as connection:
            row = connection.execute(select(probes).where(probes.c.name == name)).first()
        if row is None:
            return None
        return Probe(dict(row.answer), max(0, self.now_ms() - row.at_ms) / 1000)

    def put_probe(self, name: str, answer: Mapping[str, Any]) -> None:
        """Store the answer to a probe."""
        with self._db.write() as connection:
            connection.execute(probes.delete().where(probes.c.name == name))
            connection.execute(
                probes.insert().values(name=name, at_ms=self.now_ms(), answer=dict(answer))
            )

    def probed(
        self,
        name: str,
        ask: Callable[[], Mapping[str, Any]],
        *,
        fresh_s: float,
        limit_s: float = 5.0,
        keep: Callable[[Mapping[str, Any]], bool] = lambda _: True,
    ) -> Probe:
        """Return an answer that is at most `fresh_s` old, asked for by one process at a time.

        Who comes while another asks waits for that answer. `limit_s` is what `ask` may take: after
        it the next one asks. What `ask` raises is raised, and not stored; nor is what `keep` says
        no to.
        """
        lease = f"probe {name}"
        deadline = Deadline(limit_s * 2)
        while True:
            found = self.probe(name)
            if found is not None and found.age_s <= fresh_s:
                return found
            token = self.try_lease(lease, limit_s)
            if token is not None or deadline.expired:
                break
            time.sleep(LOOK_S)
        try:
            # Between the look and the lease another one may have come back.
            found = self.probe(name)
            if found is None or found.age_s > fresh_s:
                found = Probe(dict(ask()), 0.0)
                if keep(found.answer):
                    self.put_probe(name, found.answer)
            return found
        finally:
            if token is not None:
                self.end_lease(lease, token)

    def learn(self, profile: str, gpu: str, seconds: float) -> None:
        """Keep how long a job of a profile took on a GPU, for a usual size; the last KEPT stay."""
        here = and_(learned.c.profile == profile, learned.c.gpu == gpu)
        with self._db.write() as connection:
            connection.execute(
                learned.insert().values(
                    profile=profile, gpu=gpu, seconds=float(seconds), at_ms=self.now_ms()
                )
            )
            newest = select(learned.c.id).where(here).order_by(learned.c.id.desc())
            oldest = connection.execute(newest.offset(KEPT - 1).limit(1)).scalar()
            if oldest is not None:
                connection.execute(learned.delete().where(here, learned.c.id < oldest))

    def learned(self, profile: str, gpu: str) -> tuple[float, ...]:
        """Return those seconds, newest first."""
        here = and_(learned.c.profile == profile, learned.c.gpu == gpu)
        query = select(learned.c.seconds).where(here).order_by(learned.c.id.desc())
        with self._db.read() as connection:
            return tuple(connection.execute(query).scalars())

    def _put_lease(self, connection: Connection, name: str, token: str, seconds: float) -> None:
        until = self.now_ms() + int(seconds * 1000)
        connection.execute(leases.delete().where(leases.c.name == name))
        connection.execute(leases.insert().values(name=name, owner=token, until_ms=until))
