"""RunPod serverless on loopback: the job API for clients, and the platform for real workers.

    config = PlatformConfig(endpoints={"ep": EndpointConfig(command=(sys.executable, "worker.py"))})
    with RunPodPlatform(config, on_event=print) as platform:
        os.environ["RUNPOD_ENDPOINT_BASE_URL"] = platform.base_url
        ...  # any client, with config.api_key

Reading order: `platform` wires, `endpoint` is one endpoint at run time, `store` keeps its jobs,
`polls` and `delivery` hand them to workers, `workers` and `process` run those, `client_api` and
`worker_api` are the two sides. What RunPod does not document is marked UNVERIFIED where it is
decided.
"""

from __future__ import annotations

from pennyreel_emulators.runpod.config import (
    EndpointConfig,
    Limits,
    PlatformConfig,
    RateLimit,
)
from pennyreel_emulators.runpod.events import (
    Event,
    JobExpired,
    JobFinished,
    JobProgress,
    JobQueued,
    JobReturned,
    JobTaken,
    WorkerReady,
    WorkerStarted,
    WorkerStopped,
)
from pennyreel_emulators.runpod.jobs import Post, Status
from pennyreel_emulators.runpod.platform import RunPodPlatform
from pennyreel_emulators.runpod.workers import WorkerInfo

__all__ = [
    "EndpointConfig",
    "Event",
    "JobExpired",
    "JobFinished",
    "JobProgress",
    "JobQueued",
    "JobReturned",
    "JobTaken",
    "Limits",
    "PlatformConfig",
    "Post",
    "RateLimit",
    "RunPodPlatform",
    "Status",
    "WorkerInfo",
    "WorkerReady",
    "WorkerStarted",
    "WorkerStopped",
]
