"""One endpoint at run time: its jobs, its polls, its workers, and who waits for what."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from pennyreel_emulators.runpod.config import PlatformConfig
from pennyreel_emulators.runpod.events import (
    Event,
    JobExpired,
    JobFinished,
    JobQueued,
    WorkerReady,
    WorkerStarted,
    WorkerStopped,
)
from pennyreel_emulators.runpod.polls import Polls
from pennyreel_emulators.runpod.process import Guardian
from pennyreel_emulators.runpod.roster import Roster
from pennyreel_emulators.runpod.store import JobStore
from pennyreel_emulators.runpod.webhooks import Webhooks
from pennyreel_emulators.runpod.workers import Demand, Fleet, FleetHooks

_DAY_S = 86_400.0
# Endpoint-configurations page: without requests for so long, at most so many workers, until
# somebody raises the number by hand.
_UNUSED = ((7 * _DAY_S, 0), (3 * _DAY_S, 2))


class Endpoint:
    """Wires one endpoint. All of it lives on the platform's event loop."""

    def __init__(
        self,
        endpoint_id: str,
        platform: PlatformConfig,
        clock: Callable[[], float],
        emit: Callable[[Event], None],
        webhooks: Webhooks,
    ) -> None:
        self.id = endpoint_id
        self.config = platform.endpoints[endpoint_id]
        self._limits = platform.limits
        self._clock = clock
        self._tell = emit
        self._webhooks = webhooks
        self._ticks = 0
        self._used_at = clock()
        self._ticks_per_sweep = max(1, round(1 / platform.tick_s))
        self._ends: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self.roster = Roster(clock)
        self.store = JobStore(
            endpoint_id, self.config, platform.limits, self.roster, clock, self._emit
        )
        self.polls = Polls(self.store, self.roster, platform.poll_hold_s, self._may_take)
        self.fleet: Fleet | None = None

    def start_fleet(
        self,
        guardian: Guardian,
        environment: Callable[[str], dict[str, str]],
        log: Callable[[str, str], None],
    ) -> None:
        """Let the endpoint start its own workers."""
        hooks = FleetHooks(
            demand=self._demand,
            holders=self.store.holders,
            environment=environment,
            release=self.polls.release,
            log=log,
            started=lambda w, pid: self._emit(WorkerStarted(self._clock(), self.id, w, pid)),
            ended=self._worker_ended,
        )
        self.fleet = Fleet(self.id, self.config, self.roster, guardian, hooks)

    def configure(self, changes: dict[str, Any]) -> None:
        """Change settings while running, as by hand: an unused endpoint counts as used."""
        self._used_at = self._clock()
        self._reconfigure(changes)

    def _reconfigure(self, changes: dict[str, Any]) -> None:
        self.config = dataclasses.replace(self.config, **changes)
        self.store.config = self.config
        if self.fleet is not None:
            self.fleet.config = self.config

    def tick(self) -> None:
        """What happens by itself with time."""
        # Whoever asks for a job or takes one sees its expiry at once; the rest can wait a second.
        self._ticks += 1
        self.store.sweep(running_only=self._ticks % self._ticks_per_sweep != 0)
        self.polls.tick()
        self._scale_down_unused()
        if self.fleet is not None:
            self.fleet.tick()

    def _scale_down_unused(self) -> None:
        unused = self._clock() - self._used_at
        most = next((workers for age, workers in _UNUSED if unused >= age), None)
        if most is not None and self.config.workers_max > most:
            least = min(self.config.workers_min, most)
            self._reconfigure({"workers_max": most, "workers_min": least})

    def worker_polls(self, worker_id: str) -> None:
        """A worker asks for a job; the first time it becomes ready."""
        known = self.roster.get(worker_id)
        first = known is None or known.first_poll is None
        self.roster.heard(worker_id, poll=True)
        cold_start = self.fleet.ready(worker_id) if first and self.fleet else None
        if cold_start is not None:
            self._emit(WorkerReady(self._clock(), self.id, worker_id, cold_start))

    def stop_pod(self, worker_id: str) -> None:
        """A worker's answer asked for its own replacement.

        Measured with the SDK: `stopPod` in one job's answer kills the other job in flight. Here
        those end FAILED at once (UNVERIFIED: the platform may queue them again), whatever they
        still post. A worker that we did not start is left running: it is its owner's to replace.
        """
        self.store.abandon(worker_id, "worker stopped while it ran the job")
        if self.fleet is not None:
            self.fleet.stop(worker_id, "stopPod")

    async def ended(self, job_id: str, timeout: float) -> None:
        """Wait until the job has ended or is forgotten, or the time is over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        job = self.store.get(job_id)
        if job.status.final:
            return
        self._ends[job_id].add(future)
        await asyncio.wait([future], timeout=timeout)
        self._ends[job_id].discard(future)
        if not self._ends[job_id]:
            del self._ends[job_id]

    def release(self) -> None:
        """Let every held request go: the platform closes."""
        self.polls.close()
        for contact in self.roster.all():
            self.roster.bar(contact.worker_id)
        for job_id in list(self._ends):
            self._wake(job_id)

    def queue_full(self) -> bool:
        """Whether /run and /runsync are to be answered with 429."""
        room = self.config.workers_max * self._limits.queue_per_worker
        return len(self.store) >= max(self._limits.queue_floor, room)

    def health(self) -> dict[str, dict[str, int]]:
        """The answer of /health. Workers we did not start count while they are heard of."""
        since = self._clock() - self.config.report_timeout_s
        zero = dict.fromkeys(
            ("idle", "initializing", "ready", "running", "throttled", "unhealthy"), 0
        )
        workers = self.fleet.counts(since) if self.fleet else zero
        holders = self.store.holders()
        for contact in self.roster.asking(since):
            if self.fleet is not None and self.fleet.has(contact.worker_id):
                continue
            if contact.worker_id in holders:
                workers["running"] += 1
            else:
                workers["idle"] += 1
                workers["ready"] += 1
        return {"jobs": self.store.counts(), "workers": workers}

    def _may_take(self, worker_id: str) -> bool:
        if self.roster.barred(worker_id):
            return False
        return self.fleet is None or self.fleet.alive(worker_id)

    def _demand(self) -> Demand:
        waiting = [job for job in self.store.queued() if not job.policy.low_priority]
        oldest = self._clock() - waiting[0].queued_at if waiting else 0.0
        return Demand(queued=len(waiting), oldest_wait_s=oldest, held=self.store.running())

    def _worker_ended(self, worker_id: str, code: int, reason: str) -> None:
        # Jobs of a worker that died by itself end when it was not heard of for too long.
        if reason not in {"crashed", "finished"}:
            self.store.abandon(worker_id, "worker stopped while it ran the job")
        self._emit(WorkerStopped(self._clock(), self.id, worker_id, code, reason))

    def _emit(self, event: Event) -> None:
        if isinstance(event, JobQueued):
            self._used_at = self._clock()
        if isinstance(event, JobFinished | JobExpired):
            self._wake(event.job_id)
        if isinstance(event, JobFinished):
            job = self.store.peek(event.job_id)
            if job is not None and job.webhook is not None:
                self._webhooks.send(job.webhook, job.view())
        self._tell(event)

    def _wake(self, job_id: str) -> None:
        for future in self._ends.get(job_id, ()):
            if not future.done():
                future.set_result(None)
