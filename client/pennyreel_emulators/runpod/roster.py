"""Who the workers of one endpoint are, and when each was last heard of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Contact:
    """One worker as the platform's front door sees it. Times are of the platform's clock."""

    worker_id: str
    last_seen: float
    # Real time, as the fleet's: how long a worker starts or idles is not a matter of job clocks.
    first_poll: float | None = None
    free_since: float = 0.0
    # Sent SIGTERM, or killed: no job is offered any more, its polls are answered at once.
    barred: bool = False
    pings: int = 0
    # Jobs the worker must stop, and the wake-up of the poll that asks for them.
    stops: list[str] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Roster:
    """The contacts of one endpoint, made on a worker's first request."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._contacts: dict[str, Contact] = {}

    def heard(self, worker_id: str, *, poll: bool = False, ping: bool = False) -> Contact:
        """Note a request of the worker; `poll` for one that asks for jobs."""
        now = self._clock()
        contact = self._contacts.setdefault(worker_id, Contact(worker_id, now))
        contact.last_seen = now
        contact.pings += ping
        if poll and contact.first_poll is None:
            contact.first_poll = contact.free_since = time.monotonic()
        return contact

    def get(self, worker_id: str) -> Contact | None:
        """The contact of the worker, if it was ever heard of."""
        return self._contacts.get(worker_id)

    def last_seen(self, worker_id: str | None) -> float | None:
        """When the worker was last heard of."""
        contact = self._contacts.get(worker_id or "")
        return contact.last_seen if contact else None

    def bar(self, worker_id: str) -> None:
        """Offer the worker no more jobs, and let its stop poll go."""
        contact = self._contacts.setdefault(worker_id, Contact(worker_id, self._clock()))
        contact.barred = True
        contact.wake.set()

    def barred(self, worker_id: str) -> bool:
        """Whether the worker gets no more jobs."""
        contact = self._contacts.get(worker_id)
        return contact is not None and contact.barred

    def stop_job(self, worker_id: str, job_id: str) -> None:
        """Tell the worker, by its next or its held job-stop poll, to stop the job."""
        contact = self._contacts.get(worker_id)
        if contact is not None and job_id not in contact.stops:
            contact.stops.append(job_id)
            contact.wake.set()

    def freed(self, worker_id: str | None) -> None:
        """Note that a job of the worker has ended: its idle time starts anew."""
        contact = self._contacts.get(worker_id or "")
        if contact is not None:
            contact.free_since = time.monotonic()

    def asking(self, since: float) -> list[Contact]:
        """Workers that have asked for jobs, are not barred, and were heard of after `since`."""
        return [
            c
            for c in self._contacts.values()
            if c.first_poll is not None and not c.barred and c.last_seen > since
        ]

    def all(self) -> list[Contact]:
        """Every contact there ever was."""
        return list(self._contacts.values())
