"""Ordered progress: one post at a time, the newest only, and none after the result.

The SDK's `progress_update` starts an unordered thread a call. Measured: jobs that ended at once had
IN_PROGRESS as their last post, and on the platform such a job hangs for ever. So the updates go
through one task, to the same URL, and `close` returns when the last one was answered.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from pennyreel_comfy.events import Event, Image
from pennyreel_comfy.tracker import Tracker
from pennyreel_contract import Progress

log = logging.getLogger(__name__)

MIN_INTERVAL_S = 0.4
PREPARED, EXECUTED = 5.0, 95.0
"""Where the stages lie in the job's percentage."""

MAX_PREVIEW = 200_000

Post = Callable[[dict[str, Any]], Awaitable[None]]


class Reporter:
    """One job's progress. `offer` may be called from any thread; the rest from the event loop."""

    def __init__(self, post: Post, *, interval_s: float = MIN_INTERVAL_S) -> None:
        """Begin without posting anything."""
        self._post = post
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._next: Progress | None = None
        self._percent = 0.0
        self._closed = False
        self._task = self._loop.create_task(self._run())

    def offer(self, progress: Progress) -> None:
        """Report this unless something newer comes before it can be sent."""
        with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
            self._loop.call_soon_threadsafe(self._take, progress)

    def stage(self, stage: str, percent: float) -> None:
        """Report that a stage begins."""
        self.offer(Progress(percent=percent, stage=stage))

    async def close(self) -> None:
        """Send nothing more; return when the post under way, if any, was answered."""
        self._closed = True
        self._next = None
        self._news.set()
        await asyncio.wait({self._task})

    def _take(self, progress: Progress) -> None:
        if self._closed:
            return
        self._percent = max(self._percent, progress.percent)
        self._next = progress.model_copy(update={"percent": round(self._percent, 1)})
        self._news.set()

    async def _run(self) -> None:
        while not self._closed:
            await self._news.wait()
            self._news.clear()
            progress, self._next = self._next, None
            if progress is None or self._closed:
                continue
            began = time.monotonic()
            try:
                await self._post(progress.wire())
            except Exception as problem:  # noqa: BLE001 - progress decorates: it may never fail a job
                log.warning("progress could not be posted: %s", type(problem).__name__)
            left = self._interval_s - (time.monotonic() - began)
            if left > 0 and not self._closed:
                await self._pause(left)

    async def _pause(self, seconds: float) -> None:
        """Keep to the interval, ended early by `close` only."""
        limit = self._loop.time() + seconds
        while not self._closed and self._loop.time() < limit:
            self._news.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), limit - self._loop.time())
        if self._next is not None:
            self._news.set()


def listener(
    reporter: Reporter, graph: Mapping[str, Any], *, previews: bool
) -> Callable[[Event], None]:
    """Return what turns a session's events into progress of the whole job."""
    tracker = Tracker(graph)
    latest: dict[str, str] = {}

    def listen(event: Event) -> None:
        if isinstance(event, Image):
            if previews and len(event.data) <= MAX_PREVIEW:
                latest["preview"] = _data_uri(event)
            return
        position = tracker.feed(event)
        if position is None:
            return
        reporter.offer(
            Progress(
                percent=PREPARED + position.fraction * (EXECUTED - PREPARED),
                stage="executing",
                node=position.node,
                node_class=position.node_class,
                step=position.step,
                steps=position.steps,
                eta_s=position.eta_s,
                preview=latest.pop("preview", None),
            )
        )

    return listen


def _data_uri(image: Image) -> str:
    return f"data:{image.mime};base64,{base64.b64encode(image.data).decode()}"
