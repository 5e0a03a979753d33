"""The jobs that providers were sent, and the bill."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pennyreel_emulators.huggingface.config import IMAGE, HubConfig, Plan

State = Literal["queued", "running", "done", "failed", "cancelled"]


class Refused(Exception):
    """The request is answered with this status and was not accepted."""

    def __init__(self, status: int, body: object, **headers: str | None) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = {k.replace("_", "-"): v for k, v in headers.items() if v is not None}


class Lost(Exception):
    """The answer does not arrive."""


class Garbled(Exception):
    """The answer arrives, and is none."""


@dataclass
class Job:
    """One accepted job. `looks_left` counts down with each look at it."""

    id: str
    provider: str
    provider_id: str
    task: str
    body: Mapping[str, Any]
    plan: Plan
    looks_left: int
    cancelled: bool = False
    transfers: int = 0

    @property
    def state(self) -> State:
        """What has become of it."""
        if self.cancelled:
            return "cancelled"
        if self.looks_left > 0 or self.plan.end == "never":
            first = self.looks_left > max(1, self.plan.looks - 1)
            return "queued" if first else "running"
        return "done" if self.plan.end == "done" else "failed"


@dataclass
class Store:
    """All jobs by id. Every accepted one is billed, whatever becomes of it."""

    config: HubConfig
    files_url: str = ""
    jobs: dict[str, Job] = field(default_factory=dict)
    plans: deque[Plan] = field(default_factory=deque)
    usual: Plan = field(default_factory=Plan)
    _ids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def accept(self, provider: str, provider_id: str, task: str, body: Mapping[str, Any]) -> Job:
        """Take a job on; raises `Refused` or `Lost`."""
        plan = self.plans.popleft() if self.plans else self.usual
        if plan.refuse is not None:
            body = refusal(plan.refuse, provider_id)
            raise Refused(plan.refuse, body, Retry_After=plan.retry_after, Location=plan.location)
        if plan.answer == "never":
            raise Lost
        self._check(provider, provider_id, task)
        if self.config.credits is not None and len(self.jobs) >= self.config.credits:
            raise Refused(402, refusal(402, provider_id))
        number = next(self._ids)
        job = Job(
            f"{number:08x}-0000-4000-8000-000000000000",
            provider,
            provider_id,
            task,
            body,
            plan,
            looks_left=plan.looks,
        )
        self.jobs[job.id] = job
        if plan.answer != "given":
            raise Lost if plan.answer == "lost" else Garbled
        return job

    def look(self, provider: str, job_id: str) -> Job:
        """One look at a job of this provider; raises `Refused` (404)."""
        job = self.get(provider, job_id)
        seen = replace(job)  # what is told is the state before it moves on
        job.looks_left = max(0, job.looks_left - 1)
        return seen

    def get(self, provider: str, job_id: str) -> Job:
        """Find a job; raises `Refused` (404)."""
        job = self.jobs.get(job_id)
        if job is None or job.provider != provider:
            raise Refused(404, {"detail": "Not found"})
        return job

    def urls(self, job: Job) -> list[str]:
        """Where its files are: on another host, which wants no token."""
        if job.plan.file_url is not None:
            return [job.plan.file_url]
        name = "image.png" if job.task == IMAGE else "video.mp4"
        return [f"{self.files_url}/files/{job.id}/{n}/{name}" for n in range(job.plan.outputs)]

    def _check(self, provider: str, provider_id: str, task: str) -> None:
        for served in self.config.models.values():
            entry = served.get(provider)
            if entry is not None and (entry.provider_id, entry.task) == (provider_id, task):
                return
        raise Refused(404, refusal(404, provider_id))


def refusal(status: int, provider_id: str) -> dict[str, Any]:
    """The body of a refusal. The words of 402 are the router's (agents-course issue 386).

    503 is hf-inference's "loading" (UNVERIFIED); the others are likenesses.
    """
    bodies: dict[int, dict[str, Any]] = {
        402: {
            "error": "You have exceeded your monthly included credits for Inference Providers. "
            "Subscribe to PRO to get 20x more monthly included credits."
        },
        404: {"error": f"Model {provider_id} does not exist"},
        422: {"detail": [{"loc": ["body", "prompt"], "msg": "Field required", "type": "missing"}]},
        429: {"error": "Too many requests"},
        503: {"error": f"Model {provider_id} is currently loading", "estimated_time": 20.0},
    }
    return bodies.get(status, {"error": f"emulated failure {status}"})
