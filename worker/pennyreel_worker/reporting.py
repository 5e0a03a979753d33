"""Ordered progress: one post at a time, the newest only, and none after the result.

The SDK's `progress_update` starts an unordered thread a call. Measured: jobs that ended at once had
IN_PROGRESS as their last post, and on the platform such a job hangs for ever. So the updates go
through one task, to the same URL, and after `stop` none is sent any more.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

from pennyreel_comfy.events import Event, Image
from pennyreel_comfy.tracker import NodeClock, Tracker
from pennyreel_contract import Progress
from pennyreel_contract.result import NodeTiming

log = logging.getLogger(__name__)

FIRST_S = 0.15
"""Nothing is posted of a job that ends sooner: it would only keep the answer waiting."""

MIN_INTERVAL_S = 0.4
PREPARED, EXECUTED, DELIVERED = 5.0, 95.0, 99.0
"""Where the stages lie in the job's percentage."""

MAX_PREVIEW = 100_000
"""Bytes of a thumbnail. ComfyUI's are JPEGs of 10 to 60 kB at its 512 pixels; larger ones are
dropped, since nothing here could scale them down."""

PREVIEW_S = 1.0
"""Thumbnails are no more frequent than this: each is dozens of times as large as the rest."""

KEPT_S = 2.0
"""How long the posts after it carry a thumbnail, too. The platform shows the last post alone, and
its clients ask every second or two."""

_PREVIEWS = {"image/jpeg", "image/png", "image/webp"}

Post = Callable[[dict[str, Any]], Awaitable[None]]


class Reporter:
    """One job's progress. `offer` may be called from any thread; the rest from the event loop.

    One post is under way at a time, and no more than one each `interval_s`. Of what could not be
    sent in between, the newest of each stage is kept, so that every stage is told, and its last.
    """

    def __init__(self, post: Post, *, interval_s: float = MIN_INTERVAL_S) -> None:
        """Begin without posting anything."""
        self._post = post
        self._interval_s = interval_s
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._pending: list[Progress] = []
        self._percent = 0.0
        self._preview: str | None = None
        self._preview_ends = 0.0
        self._closed = False
        self._lock = threading.Lock()
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(min(FIRST_S, interval_s), self._start)

    def offer(self, progress: Progress) -> None:
        """Report this unless something newer comes before it can be sent."""
        with self._lock:
            if self._closed:
                return
            # Nobody listens before the task has begun; then it looks by itself.
            first = not self._pending and self._task is not None
            self._merge(progress)
        if first:  # else it knows: to wake it for each of a sampler's events would cost more
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody listens
                self._loop.call_soon_threadsafe(self._news.set)

    def stage(self, stage: str, percent: float) -> None:
        """Report that a stage begins."""
        self.offer(Progress(percent=percent, stage=stage))

    def stop(self) -> asyncio.Task[None] | None:
        """Send nothing more; return what ends when the post under way, if any, was answered."""
        with self._lock:
            self._closed = True
            self._pending.clear()
        self._timer.cancel()
        self._news.set()
        return self._task

    def _start(self) -> None:
        self._task = self._loop.create_task(self._run())
        with self._lock:
            if self._pending:
                self._news.set()

    def _merge(self, progress: Progress) -> None:
        self._percent = max(self._percent, progress.percent)
        changes: dict[str, Any] = {"percent": round(self._percent, 1)}
        if self._pending and self._pending[-1].stage == progress.stage:
            former = self._pending.pop()
            changes["preview"] = progress.preview or former.preview
        self._pending.append(progress.model_copy(update=changes))

    async def _run(self) -> None:
        while not self._closed:
            await self._news.wait()
            self._news.clear()
            with self._lock:
                progress = self._pending.pop(0) if self._pending else None
            if progress is None:
                continue
            began = time.monotonic()
            try:
                await self._post(self._shown(progress).wire())
            except Exception as problem:  # noqa: BLE001 - progress decorates: it may never fail a job
                log.warning("progress could not be posted: %s", type(problem).__name__)
            left = self._interval_s - (time.monotonic() - began)
            if left > 0 and not self._closed:
                await self._pause(left)
            if self._pending:
                self._news.set()

    def _shown(self, progress: Progress) -> Progress:
        """Return it with the thumbnail that is to be seen now."""
        now = self._loop.time()
        if progress.preview is not None:
            self._preview, self._preview_ends = progress.preview, now + KEPT_S
        elif self._preview is not None and now < self._preview_ends:
            return progress.model_copy(update={"preview": self._preview})
        return progress

    async def _pause(self, seconds: float) -> None:
        """Keep to the interval, ended early by `stop` only."""
        limit = self._loop.time() + seconds
        while not self._closed and self._loop.time() < limit:
            self._news.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._news.wait(), limit - self._loop.time())


class Listener:
    """Hears a session's events: tells of them, times the nodes, and estimates the end.

    Called in the session's reader thread; what it returns may be asked from any.
    """

    def __init__(
        self,
        reporter: Reporter,
        graph: Mapping[str, Any],
        *,
        previews: bool = False,
        runs: Collection[str] | None = None,
        expected_s: float | None = None,
        node_s: Mapping[str, float] | None = None,
        deliver_s: float = 0.0,
    ) -> None:
        """Begin with nothing heard.

        Args:
            reporter: gets the progress.
            graph: as submitted.
            previews: whether thumbnails were asked for.
            runs: the nodes that will run, where that is known.
            expected_s: seconds on the GPU, as former jobs of this kind took.
            node_s: seconds of each of their nodes.
            deliver_s: seconds that delivery takes afterwards; the ETA told is of the whole job.

        """
        self._reporter = reporter
        self._classes = {n: str(v.get("class_type", "")) for n, v in graph.items()}
        self._tracker = Tracker(graph, runs=runs, expected_s=expected_s, node_s=node_s)
        self._clock = NodeClock(graph)
        self._previews = previews
        self._deliver_s = deliver_s
        self._preview: str | None = None
        self._shown_at = -PREVIEW_S
        self._node: str | None = None

    def __call__(self, event: Event) -> None:
        """Take one event of the job."""
        if isinstance(event, Image):
            self._keep(event)
            return
        self._clock.feed(event)
        position = self._tracker.feed(event)
        if position is None:
            return
        self._node = position.node
        preview, self._preview = self._preview, None
        eta_s = None if position.eta_s is None else round(position.eta_s + self._deliver_s, 1)
        self._reporter.offer(
            Progress(
                percent=PREPARED + position.fraction * (EXECUTED - PREPARED),
                stage="executing",
                node=position.node,
                node_class=position.node_class,
                step=position.step,
                steps=position.steps,
                eta_s=eta_s,
                preview=preview,
            )
        )

    def remaining_s(self) -> float | None:
        """Return the seconds until the graph has run; None where nobody knows."""
        return self._tracker.remaining_s()

    def nodes(self) -> tuple[NodeTiming, ...]:
        """Return how long each node ran, the longest first."""
        return self._clock.timings()

    def _keep(self, image: Image) -> None:
        """Hold a thumbnail for the next progress; images that are results are none."""
        if not self._previews or image.mime not in _PREVIEWS or len(image.data) > MAX_PREVIEW:
            return
        if self._classes.get(image.node or self._node or "") == "SaveImageWebsocket":
            return
        now = time.monotonic()
        if now - self._shown_at >= PREVIEW_S:
            self._shown_at = now
            self._preview = _data_uri(image)


def _data_uri(image: Image) -> str:
    return f"data:{image.mime};base64,{base64.b64encode(image.data).decode()}"
