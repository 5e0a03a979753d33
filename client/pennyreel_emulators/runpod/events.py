"""What happens on the emulated platform: a closed set of events. `at` is the platform's clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True)
class JobQueued:
    """A client submitted the job, or asked to retry it."""

    at: float
    endpoint: str
    job_id: str
    retry: bool = False


@dataclass(frozen=True)
class JobTaken:
    """The job was handed to a worker's poll."""

    at: float
    endpoint: str
    job_id: str
    worker_id: str


@dataclass(frozen=True)
class JobReturned:
    """The worker was gone before it could read the job: back to the head of the queue."""

    at: float
    endpoint: str
    job_id: str
    worker_id: str


@dataclass(frozen=True)
class JobProgress:
    """The worker posted IN_PROGRESS."""

    at: float
    endpoint: str
    job_id: str
    worker_id: str


@dataclass(frozen=True)
class JobFinished:
    """The job reached a final status. `error` is None when it completed."""

    at: float
    endpoint: str
    job_id: str
    worker_id: str | None
    status: str
    error: str | None = None
    delay_ms: int | None = None
    execution_ms: int | None = None


@dataclass(frozen=True)
class JobExpired:
    """The job is forgotten: its retention or its ttl has run out, or the queue was purged."""

    at: float
    endpoint: str
    job_id: str
    reason: str


@dataclass(frozen=True)
class WorkerStarted:
    """The fleet started a process."""

    at: float
    endpoint: str
    worker_id: str
    pid: int


@dataclass(frozen=True)
class WorkerReady:
    """The worker asked for its first job, `cold_start_s` after its start."""

    at: float
    endpoint: str
    worker_id: str
    cold_start_s: float


@dataclass(frozen=True)
class WorkerStopped:
    """The process has ended. `reason`: idle, stopPod, crashed, finished, closed, scale-down."""

    at: float
    endpoint: str
    worker_id: str
    exit_code: int
    reason: str


Event: TypeAlias = (
    JobQueued
    | JobTaken
    | JobReturned
    | JobProgress
    | JobFinished
    | JobExpired
    | WorkerStarted
    | WorkerReady
    | WorkerStopped
)
