"""The jobs of one endpoint: a queue, their posts, their ends. No I/O; the clock is given."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from pennyreel_emulators.runpod.config import EndpointConfig, Limits
from pennyreel_emulators.runpod.events import (
    Event,
    JobExpired,
    JobFinished,
    JobProgress,
    JobQueued,
    JobReturned,
    JobTaken,
)
from pennyreel_emulators.runpod.jobs import (
    ABSENT,
    BadRequest,
    Job,
    Post,
    Status,
    UnknownJob,
    new_job,
    split_chunk,
)
from pennyreel_emulators.runpod.journal import Journal, is_progress
from pennyreel_emulators.runpod.roster import Roster

# A worker that still posts about such a job is answered with 200 and changes nothing (UNVERIFIED).
_ENDED_FROM_OUTSIDE = frozenset({Status.CANCELLED, Status.TIMED_OUT})


@dataclass(frozen=True)
class Posted:
    """What became of a worker's post: refused posts are answered with 400 and `refusal`."""

    refusal: str | None = None
    stop_pod: bool = False


class JobStore:
    """All jobs of one endpoint. Every method runs on the platform's one event loop."""

    def __init__(
        self,
        endpoint: str,
        config: EndpointConfig,
        limits: Limits,
        roster: Roster,
        clock: Callable[[], float],
        emit: Callable[[Event], None],
    ) -> None:
        self.endpoint = endpoint
        self.config = config
        self._limits = limits
        self._roster = roster
        self._clock = clock
        self._emit = emit
        self._jobs: dict[str, Job] = {}
        self._queue: deque[Job] = deque()
        # The jobs that workers are believed to run: those with `held`.
        self._running: dict[str, Job] = {}
        self._journal = Journal()
        self._ended = {"completed": 0, "failed": 0, "retried": 0}

    # Clients.

    def submit(self, body: object, *, sync: bool) -> Job:
        """Queue a job from a request body; raises `BadRequest`."""
        job = new_job(body, sync=sync, limits=self._limits, now=self._clock())
        self._jobs[job.id] = job
        self._queue.append(job)
        self._emit(JobQueued(self._clock(), self.endpoint, job.id))
        return job

    def get(self, job_id: str) -> Job:
        """The job; raises `UnknownJob` also when its time has just run out."""
        job = self._jobs.get(job_id)
        if job is not None:
            self._expire(job)
        if job_id not in self._jobs:
            raise UnknownJob(job_id)
        return self._jobs[job_id]

    def peek(self, job_id: str) -> Job | None:
        """The job if it is still there, whatever the time."""
        return self._jobs.get(job_id)

    def read_stream(self, job_id: str) -> list[Any]:
        """The chunks streamed since they were last read."""
        job = self.get(job_id)
        chunks, job.chunks = job.chunks, []
        return chunks

    def cancel(self, job_id: str) -> Job:
        """Cancel a queued or running job. One that has ended stays as it is (UNVERIFIED)."""
        job = self.get(job_id)
        if not job.status.final:
            self._interrupt(job, Status.CANCELLED, None)
        return job

    def retry(self, job_id: str) -> Job:
        """Queue a FAILED or TIMED_OUT job again, under the same id."""
        job = self.get(job_id)
        if job.status not in {Status.FAILED, Status.TIMED_OUT}:
            raise BadRequest(
                f"only FAILED and TIMED_OUT jobs are retried; it is {job.status.value}"
            )
        job.reset(self._clock())
        self._queue.append(job)
        self._ended["retried"] += 1
        self._emit(JobQueued(self._clock(), self.endpoint, job.id, retry=True))
        return job

    def purge(self) -> int:
        """Remove every queued job; returns how many. Their status is 404 then (UNVERIFIED)."""
        queued = list(self._queue)
        for job in queued:
            self._forget(job, "purged")
        return len(queued)

    def limit_retention(self, job_id: str, seconds: float) -> None:
        """Keep the job's result for no longer than this after its end (`/status?ttl=`)."""
        job = self.get(job_id)
        job.retention_s = min(job.retention_s, seconds)

    # Workers.

    def take(self, worker_id: str, count: int) -> list[Job]:
        """Hand the oldest queued jobs to a worker."""
        taken: list[Job] = []
        while self._queue and len(taken) < count:
            job = self._queue[0]
            if self._expire(job):
                continue
            self._queue.popleft()
            job.status, job.worker_id, job.taken_at = Status.IN_PROGRESS, worker_id, self._clock()
            self._running[job.id] = job
            taken.append(job)
            self._emit(JobTaken(self._clock(), self.endpoint, job.id, worker_id))
        return taken

    def put_back(self, jobs: Iterable[Job], worker_id: str) -> None:
        """Undo `take` for a worker that never got the answer: head of the queue, same order."""
        for job in reversed(list(jobs)):
            if not job.held or job.worker_id != worker_id or job.id not in self._jobs:
                continue
            self._emit(JobReturned(self._clock(), self.endpoint, job.id, worker_id))
            job.status, job.worker_id, job.taken_at = Status.IN_QUEUE, None, None
            del self._running[job.id]
            self._queue.appendleft(job)

    def post(self, job_id: str, worker_id: str, body: dict[str, Any] | None, size: int) -> Posted:
        """A post to the job-done URL: progress, or the result. `body` is None when too large."""
        read = body or {}
        job = self._jobs.get(job_id)
        refusal, accepted = None, False
        if job is not None and job.worker_id != worker_id:
            refusal = "this worker does not hold the job"
        elif job is not None and not job.abandoned and job.status not in _ENDED_FROM_OUTSIDE:
            if is_progress(read):
                accepted = self._progress(job, read)
            else:
                accepted, refusal = body is not None, self._result(job, body)
        self._journal.record(
            job_id, worker_id, read, at=self._clock(), size=size, accepted=accepted
        )
        if job is None:
            raise UnknownJob(job_id)
        return Posted(refusal, bool(read.get("stopPod")))

    def add_chunk(self, job_id: str, worker_id: str, chunk: Any) -> None:
        """A post to the job-stream URL. Chunks for an ended job are dropped."""
        job = self.get(job_id)
        if job.held and job.worker_id == worker_id:
            job.chunks.extend(split_chunk(chunk, self._limits.chunk_bytes))

    def result_limit(self, job_id: str) -> int:
        """The largest post (bytes) for this job: 10 MB for /run, 20 MB for /runsync."""
        job = self._jobs.get(job_id)
        return self._limits.runsync_bytes if job and job.sync else self._limits.run_bytes

    def abandon(self, worker_id: str, error: str) -> None:
        """Fail the jobs of a worker that the platform itself has stopped."""
        for job in self.held_by(worker_id):
            job.abandoned = True
            job.output = ABSENT
            self._finish(job, Status.FAILED, error)

    # Time, and the numbers.

    def sweep(self, *, running_only: bool = False) -> None:
        """Let time do its work: ttl, execution time, silent workers, retention."""
        for job in list((self._running if running_only else self._jobs).values()):
            self._expire(job)

    def posts(self, job_id: str) -> tuple[Post, ...]:
        """Every post of a worker about the job, oldest first; also after the job is forgotten."""
        return self._journal.posts(job_id)

    def held_by(self, worker_id: str) -> list[Job]:
        """The jobs the worker is believed to be running."""
        return [job for job in self._running.values() if job.worker_id == worker_id]

    def holders(self) -> set[str]:
        """The workers with a job."""
        return {job.worker_id for job in self._running.values() if job.worker_id}

    def running(self) -> int:
        """How many jobs workers are believed to run."""
        return len(self._running)

    def queued(self) -> list[Job]:
        """The queue, oldest first."""
        return list(self._queue)

    def __len__(self) -> int:
        return len(self._queue)

    def counts(self) -> dict[str, int]:
        """The `jobs` of /health. That `failed` includes TIMED_OUT is UNVERIFIED."""
        progress = sum(1 for j in self._jobs.values() if j.status is Status.IN_PROGRESS)
        return {
            "completed": self._ended["completed"],
            "failed": self._ended["failed"],
            "inProgress": progress,
            "inQueue": len(self._queue),
            "retried": self._ended["retried"],
        }

    def _progress(self, job: Job, body: dict[str, Any]) -> bool:
        if job.status.final:
            if self.config.late_progress == "ignored":
                return False
            self._count(job, -1)
            job.status, job.reopened, job.error = Status.IN_PROGRESS, True, None
        job.output = body.get("output", ABSENT)
        self._emit(JobProgress(self._clock(), self.endpoint, job.id, job.worker_id or ""))
        return True

    def _result(self, job: Job, body: dict[str, Any] | None) -> str | None:
        """End the job by a post; returns the refusal when the post was too large.

        A refused result is lost while the job looks COMPLETED (worker-comfyui issue 129, and the
        SDK, which posts it once and logs the job as finished). An error in it is as unreadable.
        """
        job.output, error = ABSENT, None
        if body is not None:
            job.output = body.get("output", ABSENT)
            error = body.get("error") or None
        if error is not None and not isinstance(error, str):
            error = json.dumps(error)
        if job.status.final:
            self._count(job, -1)
        self._finish(job, Status.FAILED if error else Status.COMPLETED, error)
        return None if body is not None else "the result is larger than the platform accepts"

    def _interrupt(self, job: Job, status: Status, error: str | None) -> None:
        """End a job from outside, and tell the worker that holds it."""
        if job.held and job.worker_id:
            self._roster.stop_job(job.worker_id, job.id)
        if job.status is Status.IN_QUEUE:
            self._queue.remove(job)
        job.output = ABSENT
        self._finish(job, status, error)

    def _finish(self, job: Job, status: Status, error: str | None) -> None:
        job.status, job.error, job.finished_at = status, error, self._clock()
        self._running.pop(job.id, None)
        job.reopened = False
        self._count(job, 1)
        self._roster.freed(job.worker_id)
        self._emit(
            JobFinished(
                self._clock(),
                self.endpoint,
                job.id,
                job.worker_id,
                status.value,
                error,
                job.delay_ms,
                job.execution_ms,
            )
        )

    def _count(self, job: Job, step: int) -> None:
        if job.status is Status.COMPLETED:
            self._ended["completed"] += step
        elif job.status in {Status.FAILED, Status.TIMED_OUT}:
            self._ended["failed"] += step

    def _expire(self, job: Job) -> bool:
        """Apply the clock to one job; True when it is forgotten."""
        now = self._clock()
        if now - job.created_at >= job.policy.ttl_s:
            if job.held and job.worker_id:
                self._roster.stop_job(job.worker_id, job.id)
            self._forget(job, "ttl")
            return True
        if job.status.final and job.finished_at is not None:
            if now - job.finished_at >= job.retention_s:
                self._forget(job, "retention")
                return True
        elif job.held and job.taken_at is not None:
            seen = max(job.taken_at, self._roster.last_seen(job.worker_id) or 0.0)
            if now - job.taken_at >= job.policy.execution_timeout_s:
                self._interrupt(job, Status.TIMED_OUT, "execution timeout exceeded")
            elif now - seen >= self.config.report_timeout_s:
                self._interrupt(job, Status.TIMED_OUT, "worker stopped reporting")
        return False

    def _forget(self, job: Job, reason: str) -> None:
        if job.status is Status.IN_QUEUE:
            self._queue.remove(job)
        if self._running.pop(job.id, None):
            self._roster.freed(job.worker_id)
        del self._jobs[job.id]
        self._emit(JobExpired(self._clock(), self.endpoint, job.id, reason))
