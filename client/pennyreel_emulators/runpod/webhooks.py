"""Webhooks: the status object, posted to the client when its job has ended.

"The same information as /status"; 200 acknowledges; else up to 2 more tries, 10 s apart (docs:
send-requests). Whether other 2xx answers count, and whether CANCELLED is told, is UNVERIFIED.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp

TRIES = 3


class Webhooks:
    """Posts of job ends that are under way."""

    def __init__(self, retry_s: float, timeout_s: float) -> None:
        self._retry_s = retry_s
        self._timeout_s = timeout_s
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, url: str, view: dict[str, Any]) -> None:
        """Post the status object in the background."""
        task = asyncio.ensure_future(self._deliver(url, view))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, url: str, view: dict[str, Any]) -> None:
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            for attempt in range(TRIES):
                if attempt:
                    await asyncio.sleep(self._retry_s)
                try:
                    async with session.post(url, json=view) as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, asyncio.TimeoutError, ValueError):
                    # ValueError: not a URL after all. A try like any other.
                    continue
