"""The fleet of one endpoint: real worker processes, started and stopped by the queue."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from pennyreel_emulators.runpod.config import EndpointConfig
from pennyreel_emulators.runpod.process import Guardian, WorkerProcess
from pennyreel_emulators.runpod.roster import Roster

# Ended workers that are still listed, with their logs.
KEEP_ENDED = 100
# What a shell answers for a command that cannot be started.
CANNOT_START = 127
_POLL_S = 0.02


@dataclass(frozen=True)
class Demand:
    """What the scaler looks at. Jobs of low priority are not in it (docs: policy.lowPriority)."""

    queued: int
    oldest_wait_s: float
    held: int


@dataclass(frozen=True)
class WorkerInfo:
    """A worker of the fleet. `state`: initializing, idle, running, stopping, stopped."""

    id: str
    endpoint: str
    pid: int
    state: str
    cold_start_s: float | None
    exit_code: int | None
    reason: str | None


@dataclass(eq=False)
class _Worker:
    id: str
    process: WorkerProcess
    cold_start_s: float | None = None
    reason: str | None = None
    kill_at: float = math.inf
    exit_code: int | None = None


@dataclass(frozen=True)
class FleetHooks:
    """What the fleet needs of its endpoint, and what it tells it."""

    demand: Callable[[], Demand]
    holders: Callable[[], set[str]]
    environment: Callable[[str], dict[str, str]]
    release: Callable[[str], None]
    log: Callable[[str, str], None]
    started: Callable[[str, int], None]
    ended: Callable[[str, int, str], None]


@dataclass
class Fleet:
    """Starts, stops and replaces workers; `tick` is called many times a second."""

    endpoint: str
    config: EndpointConfig
    roster: Roster
    guardian: Guardian
    hooks: FleetHooks
    _live: dict[str, _Worker] = field(default_factory=dict)
    _ended: list[_Worker] = field(default_factory=list)
    # Slots that start again at a time; the flag: also when the queue does not ask for it.
    _restarts: list[tuple[float, bool]] = field(default_factory=list)
    _crashes: int = 0
    _throttled: int = 0

    def tick(self) -> None:
        """Notice ends, enforce the grace, and bring the number of workers to what is wanted."""
        self._reap()
        holders = self.hooks.holders()
        self._stop_idle(holders)
        self._start_wanted()

    def ready(self, worker_id: str) -> float | None:
        """Note the worker's first job-take; its cold start in seconds if it is one of ours."""
        worker = self._live.get(worker_id)
        if worker is None:
            return None
        worker.cold_start_s = time.monotonic() - worker.process.started
        self._crashes = 0
        return worker.cold_start_s

    def stop(self, worker_id: str, reason: str) -> None:
        """SIGTERM now, SIGKILL to all of it after the grace; no more jobs meanwhile."""
        worker = self._live.get(worker_id)
        if worker is None or worker.reason is not None:
            return
        worker.reason = reason
        worker.kill_at = time.monotonic() + self.config.stop_grace_s
        if not self.config.offer_after_sigterm:
            self.roster.bar(worker_id)
        # The signal first: a worker that polls again at once must know that it is to end.
        worker.process.terminate()
        if not self.config.offer_after_sigterm:
            self.hooks.release(worker_id)

    def has(self, worker_id: str) -> bool:
        """Whether the worker's process is ours and has not been seen to end."""
        return worker_id in self._live

    def alive(self, worker_id: str) -> bool:
        """Whether the worker may be given a job: not ours, or its process runs."""
        worker = self._live.get(worker_id)
        if worker is None:
            return all(w.id != worker_id for w in self._ended)
        return worker.process.exit_code() is None

    def counts(self, silent_since: float) -> dict[str, int]:
        """The `workers` of /health. `ready` is taken to be the same as idle."""
        holders = self.hooks.holders()
        states = [self._state(w, holders, silent_since) for w in self._live.values()]
        idle = states.count("idle")
        return {
            "idle": idle,
            "initializing": states.count("initializing"),
            "ready": idle,
            "running": states.count("running"),
            "throttled": self._throttled,
            "unhealthy": states.count("unhealthy") + len(self._restarts),
        }

    def infos(self) -> tuple[WorkerInfo, ...]:
        """Every worker, ended ones first."""
        holders = self.hooks.holders()
        return tuple(
            WorkerInfo(
                id=w.id,
                endpoint=self.endpoint,
                pid=w.process.pid,
                state=self._state(w, holders, -math.inf),
                cold_start_s=w.cold_start_s,
                exit_code=w.exit_code,
                reason=w.reason,
            )
            for w in [*self._ended, *self._live.values()]
        )

    def logs(self, worker_id: str) -> tuple[str, ...] | None:
        """The last lines of a worker's output; None when it is not ours."""
        for worker in [*self._ended, *self._live.values()]:
            if worker.id == worker_id:
                return tuple(worker.process.tail)
        return None

    async def close(self, grace_s: float) -> None:
        """End every worker: SIGTERM, a short grace, SIGKILL."""
        for worker in list(self._live.values()):
            self.stop(worker.id, "closed")
        self._restarts.clear()
        give_up = time.monotonic() + grace_s
        while self._live:
            if time.monotonic() >= give_up:
                for worker in self._live.values():
                    worker.process.kill()
            self._reap()
            self._restarts.clear()
            await asyncio.sleep(_POLL_S)

    def _reap(self) -> None:
        now = time.monotonic()
        for worker in list(self._live.values()):
            code = worker.process.exit_code()
            if code is not None:
                self._end(worker, code)
            elif now >= worker.kill_at:
                worker.process.kill()

    def _end(self, worker: _Worker, code: int) -> None:
        del self._live[worker.id]
        self._ended = [*self._ended, worker][-KEEP_ENDED:]
        self.roster.bar(worker.id)
        worker.process.finish()
        self.guardian.release(worker.process)
        worker.exit_code = code
        ready = worker.cold_start_s is not None
        if worker.reason == "stopPod":
            self._restarts.append((time.monotonic(), True))
        elif worker.reason is None:
            # Leaving by itself after serving is a worker's right (the SDK's refresh_worker does);
            # leaving before its first poll is a failure whatever the code.
            worker.reason = "finished" if code == 0 and ready else "crashed"
            if worker.reason == "crashed":
                self._crashed(ready)
        self.hooks.ended(worker.id, code, worker.reason)

    def _crashed(self, was_ready: bool) -> None:
        pause = self.config.crash_backoff_s * 2 ** min(self._crashes, 5)
        self._crashes += 1
        self._restarts.append((time.monotonic() + pause, was_ready))

    def _stop_idle(self, holders: set[str]) -> None:
        active = [w for w in self._live.values() if w.reason is None]
        surplus = len(active) - self.config.workers_min
        over = len(active) - self.config.workers_max
        for worker in active:
            free = worker.id not in holders
            if over > 0 and free:
                self.stop(worker.id, "scale-down")
                over, surplus = over - 1, surplus - 1
            elif surplus > 0 and free and self._idle_s(worker) >= self.config.idle_timeout_s:
                self.stop(worker.id, "idle")
                surplus -= 1

    def _idle_s(self, worker: _Worker) -> float:
        """Seconds since the worker's last job, or since it was ready; below 0 before that."""
        contact = self.roster.get(worker.id)
        if worker.cold_start_s is None or contact is None:
            return -1.0
        return time.monotonic() - contact.free_since

    def _start_wanted(self) -> None:
        now = time.monotonic()
        live = [w for w in self._live.values() if w.reason is None]
        wanted = self._wanted(live)
        capacity = self.config.capacity
        supply = wanted if capacity is None else min(wanted, capacity)
        self._throttled = wanted - supply
        missing = supply - len(live)
        limit = self.config.workers_max if capacity is None else capacity
        room = min(limit, self.config.workers_max) - len(live)
        due = [restart for restart in self._restarts if restart[0] <= now]
        self._restarts = [restart for restart in self._restarts if restart[0] > now]
        # A slot that waits for its restart is not filled by another start meanwhile.
        missing -= len(self._restarts)
        forced = sum(1 for _, always in due if always)
        for _ in range(min(room, max(missing, forced))):
            self._start()

    def _wanted(self, live: list[_Worker]) -> int:
        """How many workers there should be, within the endpoint's bounds.

        QUEUE_DELAY: one for a queue without workers, one more for a job that waits too long, one
        at a time. REQUEST_COUNT: jobs queued and running, by the jobs one worker is to serve.
        """
        demand = self.hooks.demand()
        wanted = 0
        if self.config.scaler == "REQUEST_COUNT":
            wanted = math.ceil((demand.queued + demand.held) / self.config.scaler_value)
        elif demand.queued:
            starting = any(w.cold_start_s is None for w in live)
            late = demand.oldest_wait_s >= self.config.scaler_value
            wanted = max(1, len(live) + (late and not starting))
        return max(self.config.workers_min, min(self.config.workers_max, wanted))

    def _start(self) -> None:
        worker_id = secrets.token_hex(7)
        try:
            process = WorkerProcess(
                worker_id,
                self.config.command,
                self.hooks.environment(worker_id),
                self.config.cwd,
                lambda line: self.hooks.log(worker_id, line),
            )
        except OSError as error:
            self.hooks.log(worker_id, f"cannot start: {error}")
            self._crashed(was_ready=False)
            self.hooks.ended(worker_id, CANNOT_START, "crashed")
            return
        self.guardian.guard(process)
        self._live[worker_id] = _Worker(worker_id, process)
        self.hooks.started(worker_id, process.pid)

    def _state(self, worker: _Worker, holders: set[str], silent_since: float) -> str:
        contact = self.roster.get(worker.id)
        if worker.exit_code is not None:
            return "stopped"
        if worker.cold_start_s is not None and contact and contact.last_seen <= silent_since:
            return "unhealthy"
        if worker.id in holders:
            return "running"
        if worker.reason is not None:
            return "stopping"
        return "initializing" if worker.cold_start_s is None else "idle"
