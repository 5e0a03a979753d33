"""Replicate against its emulation: the contract suite."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from backends.contract import BackendContract
from backends.replicate.support import MANY, TEXT, TOKEN, job
from backends.rig import Rig, Scene
from client.support import Request
from fakes.ports import dead_port
from pennyreel.backends.base import Work
from pennyreel.backends.replicate import ReplicateBackend
from pennyreel.config import Secret, Settings
from pennyreel.types import Handle
from pennyreel_emulators.replicate import (
    NSFW,
    OUT_OF_MEMORY,
    Behaviour,
    Fault,
    ReplicatePlatform,
)
from pennyreel_emulators.replicate.hotshot import render

INVALID = {
    "title": "Input validation failed",
    "detail": "- input.width: width must be one of the following: 256\n",
    "status": 422,
    "invalid_fields": [{"type": "enum", "field": "input.width", "description": "…"}],
}


class ReplicateRig(Rig):
    """The emulated Replicate, one scene at a time."""

    secrets = (TOKEN,)

    def __init__(self, platform: ReplicatePlatform, home: Path) -> None:
        self.platform = platform
        self.settings = Settings(
            home=home,
            replicate_api_token=Secret(TOKEN),
            replicate_base_url=platform.base_url,
        )
        nobody = f"http://127.0.0.1:{dead_port()}"
        self.dead = replace(self.settings, replicate_base_url=nobody)
        self.content = render({"prompt": TEXT, "mp4": True, "seed": 7}, 7)[1]

    def play(self, scene: Scene) -> None:
        changes, fault, operation = self._scene(scene)
        self.platform.configure(**{"behaviour": Behaviour(), **changes})
        if fault is not None:
            self.platform.fault(operation, fault)

    def _scene(self, scene: Scene) -> tuple[dict[str, Any], Fault | None, str]:
        slow = Behaviour(boot_s=0.05, run_s=0.1)
        behaviours = {
            Scene.SLOW: slow,
            Scene.STRANGE: replace(slow, told_as="rebalancing"),
            Scene.FAIL: Behaviour(error=OUT_OF_MEMORY),
            Scene.FILTERED: Behaviour(error=NSFW),
            Scene.HANG: Behaviour(hangs=True),
            Scene.DEAF: Behaviour(hangs=True, cancel="ignored"),
            Scene.LOST: Behaviour(answer="lost"),
            Scene.GARBLED: Behaviour(answer="garbled"),
        }
        changes: dict[Scene, dict[str, Any]] = {
            Scene.UNAUTHORIZED: {"token": "r8_another_account"},
            Scene.UNPAID: {"credit": False},
            Scene.EXPIRED: {"retention_s": 0.0},
            Scene.PRIVATE: {"delivery_url": "https://10.11.12.13"},
        }
        elsewhere = {"Location": f"{self.platform.delivery_url}/v1/predictions"}
        throttled = {"detail": "Request was throttled. Your rate limit resets in ~7s."}
        faults = {
            Scene.NEVER_CAME: Fault(times=MANY),
            Scene.BROKEN: Fault(502, "<html>bad gateway</html>", times=MANY),
            Scene.RATE_LIMITED: Fault(429, throttled, {"Retry-After": "7"}, times=MANY),
            Scene.INVALID: Fault(422, INVALID, times=MANY),
            Scene.REDIRECT: Fault(307, None, elsewhere, times=MANY),
            Scene.CUT: Fault(cut_at=20),
        }
        if scene in behaviours:
            return {"behaviour": behaviours[scene]}, None, ""
        return changes.get(scene, {}), faults.get(scene), "file" if scene is Scene.CUT else "create"

    @property
    def submits(self) -> int:
        asked = self.platform.requests
        return sum(r.method == "POST" and r.path.endswith("/predictions") for r in asked)

    @property
    def accepted(self) -> int:
        return len(self.platform.accepted)

    def stopped(self, handle: Handle) -> bool:
        return self.platform.status(handle.remote_id) in {"canceled", "aborted"}

    def urls(self) -> list[str]:
        return [r.path for r in (*self.platform.requests, *self.platform.downloads)]

    def elsewhere(self) -> list[Request]:
        return [Request(r.method, r.path, dict(r.headers), b"") for r in self.platform.downloads]


class TestReplicate(BackendContract):
    backend = ReplicateBackend
    keys: ClassVar = {"replicate_api_token": "REPLICATE_API_TOKEN"}
    lacks: ClassVar = {
        Scene.BUSY: "its documentation calls no 5xx a refusal",
        Scene.DAMAGED: "it tells neither the size nor the sha256 of its files",
    }

    @pytest.fixture
    def rig(self, platform: ReplicatePlatform, tmp_path: Path) -> ReplicateRig:
        return ReplicateRig(platform, tmp_path)

    def open(self, settings: Settings, target: str | None = None) -> ReplicateBackend:
        backend = ReplicateBackend.open(settings, target)
        backend._account = replace(backend._account, confirm_s=1.0)
        backend._api._pause = lambda _: None
        return backend

    def work(self, **changes: Any) -> Work:
        return replace(job(), **changes)
