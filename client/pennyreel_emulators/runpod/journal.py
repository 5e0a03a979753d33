"""Every post of the workers, by job: for tests that judge a worker by what it said, in order."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from pennyreel_emulators.runpod.jobs import KEEP_OUTPUT_BYTES, Post, Status

# The record outlives its job, so that it can be looked at later; it must end somewhere.
JOURNAL_JOBS = 10_000


class Journal:
    """The posts of the last ten thousand jobs."""

    def __init__(self) -> None:
        self._posts: OrderedDict[str, list[Post]] = OrderedDict()

    def posts(self, job_id: str) -> tuple[Post, ...]:
        """The posts about one job, oldest first."""
        return tuple(self._posts.get(job_id, ()))

    def record(
        self,
        job_id: str,
        worker_id: str,
        body: dict[str, Any],
        *,
        at: float,
        size: int,
        accepted: bool,
    ) -> None:
        """Note one post; `body` is empty when it was too large to be read."""
        error = body.get("error")
        status = Status.FAILED if error else Status.COMPLETED
        if is_progress(body):
            status = Status.IN_PROGRESS
        post = Post(
            at=at,
            worker_id=worker_id,
            status=status.value,
            output=body.get("output") if size <= KEEP_OUTPUT_BYTES else None,
            error=None if error is None else str(error),
            size=size,
            accepted=accepted,
            stop_pod=bool(body.get("stopPod")),
        )
        self._posts.setdefault(job_id, []).append(post)
        if len(self._posts) > JOURNAL_JOBS:
            self._posts.popitem(last=False)


def is_progress(body: dict[str, Any]) -> bool:
    """Whether a post to the job-done URL is progress and not the result (rp_progress)."""
    return body.get("status") == Status.IN_PROGRESS.value
