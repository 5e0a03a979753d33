"""What can be set on the emulated platform. Times are seconds unless the name ends in `_ms`.

The defaults are RunPod's own where its documentation gives them (serverless/endpoints pages of
docs.runpod.io, July 2026); where it gives none, the comment says UNVERIFIED.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

Scaler = Literal["QUEUE_DELAY", "REQUEST_COUNT"]


@dataclass(frozen=True)
class RateLimit:
    """So many requests per `window_s`, so many at one time; None is no limit."""

    requests: int | None = None
    concurrent: int | None = None
    window_s: float = 10.0


# Per key and endpoint. /retry and /health have no row in the documentation's table.
RATE_LIMITS: Mapping[str, RateLimit] = MappingProxyType(
    {
        "run": RateLimit(1000, 200),
        "runsync": RateLimit(2000, 400),
        "status": RateLimit(2000, 400),
        "stream": RateLimit(2000, 400),
        "cancel": RateLimit(100, 20),
        "purge-queue": RateLimit(2),
    }
)


@dataclass(frozen=True)
class Limits:
    """Sizes of bodies (bytes), retention of results, bounds of a job's policy."""

    # The documentation says "10 MB" and "20 MB"; this is the smaller reading of MB (UNVERIFIED).
    run_bytes: int = 10_000_000
    runsync_bytes: int = 20_000_000
    chunk_bytes: int = 1_000_000
    run_retention_s: float = 30 * 60
    runsync_retention_s: float = 60
    # Older operations page: 429 when the queue is above 50 jobs and above workersMax * 500.
    queue_floor: int = 50
    queue_per_worker: int = 500
    execution_timeout_ms: int = 600_000
    execution_timeout_range_ms: tuple[int, int] = (5_000, 7 * 86_400_000)
    ttl_ms: int = 86_400_000
    ttl_range_ms: tuple[int, int] = (10_000, 7 * 86_400_000)
    wait_ms: int = 90_000
    wait_range_ms: tuple[int, int] = (1_000, 300_000)


@dataclass(frozen=True)
class EndpointConfig:
    """One endpoint and the workers that serve it.

    Without `command` the fleet is off and workers are started by somebody else, with the variables
    of `RunPodPlatform.worker_environment`. With `workers_max=0` jobs stay IN_QUEUE, as on the real
    platform after seven idle days.
    """

    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    # Whether workers also get this process's own variables (RUNPOD_* apart): keys, buckets and all.
    inherit_environment: bool = True
    cwd: Path | None = None
    workers_min: int = 0
    workers_max: int = 3
    # Workers the data centre can supply; what is wanted beyond them counts as throttled.
    capacity: int | None = None
    scaler: Scaler = "QUEUE_DELAY"
    # QUEUE_DELAY: seconds a job may wait before one more worker; REQUEST_COUNT: jobs per worker.
    scaler_value: float = 4.0
    idle_timeout_s: float = 5.0
    # Between SIGTERM and SIGKILL. UNVERIFIED for RunPod.
    stop_grace_s: float = 30.0
    # First pause after a crash; doubled for each further one, up to 32 times. UNVERIFIED.
    crash_backoff_s: float = 1.0
    # True keeps offering jobs to a worker that has been sent SIGTERM: that race was measured with
    # the SDK's loop, which accepts such a job and loses it. False lets its open polls go at once.
    offer_after_sigterm: bool = False
    ping_interval_ms: int = 2_000
    # A worker that holds a job and was not heard of for so long loses it. UNVERIFIED.
    report_timeout_s: float = 30.0
    # "wins" is the real platform (runpod-python issue 250): a progress post that arrives after the
    # result makes the job IN_PROGRESS again, for good. "ignored" is what one would wish.
    late_progress: Literal["wins", "ignored"] = "wins"


@dataclass(frozen=True)
class PlatformConfig:
    """The platform: its endpoints by id, its keys, and its patience."""

    endpoints: Mapping[str, EndpointConfig]
    api_key: str = "rpa_EMULATED"
    worker_key: str = "worker-key-EMULATED"
    host: str = "127.0.0.1"
    port: int = 0
    rate_limits: Mapping[str, RateLimit] = field(default_factory=lambda: RATE_LIMITS)
    # Effective limit: max(table, running workers * this). Its real value is not published.
    requests_per_worker: int = 0
    limits: Limits = field(default_factory=Limits)
    # How long a job-take or job-stop poll is held open. UNVERIFIED; the SDK waits 90 s.
    poll_hold_s: float = 20.0
    webhook_retry_s: float = 10.0
    webhook_timeout_s: float = 10.0
    tick_s: float = 0.05
    # Between SIGTERM and SIGKILL of the workers when the platform closes.
    close_grace_s: float = 3.0
    # Each worker's output is appended to <log_dir>/<worker id>.log.
    log_dir: Path | None = None

    def __post_init__(self) -> None:
        if sys.platform == "win32" and any(e.command for e in self.endpoints.values()):
            raise RuntimeError("the fleet needs POSIX process groups; start workers by hand")
