"""Rate and concurrency limits, per key, endpoint and operation (docs: operation-reference)."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from pennyreel_emulators.runpod.config import RateLimit


class TooMany(Exception):
    """The request is answered with 429."""


class RateLimiter:
    """A sliding window of request times and a count of open requests, for each caller."""

    def __init__(
        self,
        table: Mapping[str, RateLimit],
        requests_per_worker: int,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._per_worker = requests_per_worker
        self._clock = clock
        self._times: defaultdict[tuple[str, str, str], deque[float]] = defaultdict(deque)
        self._open: defaultdict[tuple[str, str, str], int] = defaultdict(int)

    @contextmanager
    def admit(self, key: str, endpoint: str, operation: str, running: int) -> Iterator[None]:
        """Count one request for as long as it is open; raises `TooMany`.

        `running` workers raise the limit: max(table, running * requests_per_worker). That this
        holds for the concurrent limit too, and that refused requests do not count, is UNVERIFIED.
        """
        limit = self._table.get(operation, RateLimit())
        caller = (key, endpoint, operation)
        raised = running * self._per_worker
        times, now = self._times[caller], self._clock()
        while times and now - times[0] >= limit.window_s:
            times.popleft()
        if limit.requests is not None and len(times) >= max(limit.requests, raised):
            raise TooMany(f"too many requests to {operation}")
        if limit.concurrent is not None and self._open[caller] >= max(limit.concurrent, raised):
            raise TooMany(f"too many requests to {operation} at one time")
        times.append(now)
        self._open[caller] += 1
        try:
            yield
        finally:
            self._open[caller] -= 1
