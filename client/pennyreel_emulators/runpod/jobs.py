"""A job as the platform sees it, and how it is shown to clients and to workers."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from pennyreel_emulators.runpod.config import Limits

# Outputs larger than this are not kept in the record of posts, which outlives the job.
KEEP_OUTPUT_BYTES = 64 * 1024


class Status(str, Enum):
    """The six statuses of a job (docs: job-states)."""

    IN_QUEUE = "IN_QUEUE"
    IN_PROGRESS = "IN_PROGRESS"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    TIMED_OUT = "TIMED_OUT"

    @property
    def final(self) -> bool:
        """Whether nothing more is expected of the job."""
        return self not in {Status.IN_QUEUE, Status.IN_PROGRESS}


class Absent(Enum):
    """Tells "no output" from an output of null."""

    ABSENT = "absent"


ABSENT = Absent.ABSENT


class BadRequest(Exception):
    """The client's request is answered with 400 and this text."""


class UnknownJob(KeyError):
    """No such job, or no longer: 404."""


@dataclass(frozen=True)
class Post:
    """One post of a worker to a job-done URL.

    `status` is IN_PROGRESS for progress, else what the post made of the job. `accepted` is False
    when the post changed nothing (too large, job already cancelled, not this worker's job).
    `output` is None also when it was above 64 KiB; `size` tells.
    """

    at: float
    worker_id: str
    status: str
    output: Any
    error: str | None
    size: int
    accepted: bool
    stop_pod: bool = False


@dataclass(frozen=True)
class Policy:
    """A job's policy, with the platform's defaults filled in."""

    execution_timeout_s: float
    ttl_s: float
    low_priority: bool

    @classmethod
    def parse(cls, raw: object, limits: Limits) -> Policy:
        """Read the request's `policy`; raise `BadRequest` for a value out of its range.

        That out-of-range values are refused, and not clamped, is UNVERIFIED.
        """
        if raw is None:
            raw = {}
        if not isinstance(raw, dict):
            raise BadRequest("policy must be an object")
        low = raw.get("lowPriority", False)
        if not isinstance(low, bool):
            raise BadRequest("policy.lowPriority must be a boolean")
        return cls(
            execution_timeout_s=_milliseconds(
                raw,
                "executionTimeout",
                limits.execution_timeout_ms,
                limits.execution_timeout_range_ms,
            ),
            ttl_s=_milliseconds(raw, "ttl", limits.ttl_ms, limits.ttl_range_ms),
            low_priority=low,
        )


@dataclass
class Job:
    """One job. Times are readings of the store's clock; None when it has not happened."""

    id: str
    request: Mapping[str, Any]
    policy: Policy
    sync: bool
    created_at: float
    queued_at: float
    status: Status = Status.IN_QUEUE
    taken_at: float | None = None
    finished_at: float | None = None
    worker_id: str | None = None
    output: Any = ABSENT
    error: str | None = None
    # A progress post came after the result (runpod-python issue 250): it hangs IN_PROGRESS.
    reopened: bool = False
    # The platform has stopped its worker: what that one still posts is ignored.
    abandoned: bool = False
    retention_s: float = 0.0
    chunks: list[Any] = field(default_factory=list)
    webhook: str | None = None

    @property
    def held(self) -> bool:
        """Whether a worker is believed to be running it."""
        return self.status is Status.IN_PROGRESS and not self.reopened

    @property
    def delay_ms(self) -> int | None:
        """Milliseconds in the queue, once taken."""
        if self.taken_at is None:
            return None
        return round((self.taken_at - self.queued_at) * 1000)

    @property
    def execution_ms(self) -> int | None:
        """Milliseconds with a worker, once finished."""
        if self.taken_at is None or self.finished_at is None:
            return None
        return round((self.finished_at - self.taken_at) * 1000)

    def view(self) -> dict[str, Any]:
        """The status object of /status, /runsync and webhooks.

        `workerId` is seen in other people's logs, not in the documentation; that a queued job has
        no `delayTime` is UNVERIFIED.
        """
        shown: dict[str, Any] = {"id": self.id, "status": self.status.value}
        if self.delay_ms is not None:
            shown["delayTime"] = self.delay_ms
        if self.status.final and self.execution_ms is not None:
            shown["executionTime"] = self.execution_ms
        if self.error is not None:
            shown["error"] = self.error
        if self.output is not ABSENT:
            shown["output"] = self.output
        if self.worker_id is not None:
            shown["workerId"] = self.worker_id
        return shown

    def for_worker(self) -> dict[str, Any]:
        """What a job-take poll gets: the request as sent (s3Config and all), with the id."""
        return {**self.request, "id": self.id}

    def reset(self, now: float) -> None:
        """Back to the queue for a retry: same id, old output gone, ttl still from submission."""
        self.status = Status.IN_QUEUE
        self.queued_at = now
        self.taken_at = self.finished_at = self.worker_id = self.error = None
        self.output = ABSENT
        self.reopened = self.abandoned = False
        self.chunks = []


def new_job(body: object, *, sync: bool, limits: Limits, now: float) -> Job:
    """A job from the body of /run or /runsync; raises `BadRequest`.

    Ids end in the region: `<uuid>-u1`, and start with `sync-` for /runsync.
    """
    if not isinstance(body, dict):
        raise BadRequest("the body must be a JSON object")
    if not isinstance(body.get("input"), dict):
        raise BadRequest("input is required and must be an object")
    webhook = body.get("webhook")
    if webhook is not None and not (isinstance(webhook, str) and webhook.startswith("http")):
        raise BadRequest("webhook must be a URL")
    return Job(
        id=f"{'sync-' if sync else ''}{uuid.uuid4()}-u1",
        request=body,
        policy=Policy.parse(body.get("policy"), limits),
        sync=sync,
        created_at=now,
        queued_at=now,
        retention_s=limits.runsync_retention_s if sync else limits.run_retention_s,
        webhook=webhook,
    )


def split_chunk(chunk: object, limit: int) -> list[object]:
    """A streamed chunk in pieces of at most `limit` bytes of JSON.

    The documentation says that larger chunks are split, not how: text is cut here, anything else
    is cut as its JSON text (UNVERIFIED).
    """
    if len(json.dumps(chunk)) <= limit:
        return [chunk]
    text = chunk if isinstance(chunk, str) else json.dumps(chunk)
    # One character is at most 12 bytes of ASCII JSON (a surrogate pair), plus two quotes.
    plain = text.isascii() and text.isprintable() and not {'"', "\\"} & set(text)
    widest = 1 if plain else 12
    step = max(1, (limit - 2) // widest)
    return [text[i : i + step] for i in range(0, len(text), step)]


def _milliseconds(raw: Mapping[str, Any], key: str, default: int, bounds: tuple[int, int]) -> float:
    value = raw.get(key, default)
    low, high = bounds
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise BadRequest(f"policy.{key} must be a number of milliseconds from {low} to {high}")
    return value / 1000
