"""Hugging Face's providers against the emulated router: the suite, for each way of following."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar

import pytest
from typing_extensions import Self

from backends.contract import BackendContract
from backends.rig import Rig, Scene
from client.support import Request
from fakes.ports import dead_port
from pennyreel.backends import _hf_follow
from pennyreel.backends.base import Prompt, Work
from pennyreel.backends.huggingface import HuggingFaceBackend
from pennyreel.config import Settings, load
from pennyreel.need import Need
from pennyreel.types import Handle
from pennyreel_emulators.huggingface import (
    IMAGE,
    VIDEO,
    HubConfig,
    HuggingFace,
    Plan,
    Served,
    mp4,
    png,
)

TOKEN = "hf_SECRET_never_shown_0123456789"
MODEL = "emulated/model"
PLANS = {
    Scene.SUCCEED: Plan(),
    Scene.SLOW: Plan(looks=4),
    Scene.FAIL: Plan(end="failed"),
    Scene.FILTERED: Plan(end="failed"),
    Scene.HANG: Plan(end="never"),
    Scene.DEAF: Plan(end="never", cancel="ignored"),
    Scene.STRANGE: Plan(looks=4, status="PONDERING"),
    Scene.LOST: Plan(answer="lost"),
    Scene.GARBLED: Plan(answer="garbled"),
    Scene.NEVER_CAME: Plan(answer="never"),
    Scene.BROKEN: Plan(refuse=500),
    Scene.BUSY: Plan(refuse=503),
    Scene.RATE_LIMITED: Plan(refuse=429, retry_after="7"),
    Scene.UNPAID: Plan(refuse=402),
    Scene.INVALID: Plan(refuse=422),
    Scene.EXPIRED: Plan(file="gone"),
    Scene.CUT: Plan(file="cut"),
    Scene.DAMAGED: Plan(file="short"),
    Scene.ELSEWHERE: Plan(),
    Scene.PRIVATE: Plan(file_url="https://10.11.12.13/clip.mp4"),
}


class HuggingFaceRig(Rig):
    """The emulation with one model, served by one provider."""

    secrets = (TOKEN,)

    def __init__(self, provider: str, kind: str) -> None:
        self.content = png() if kind == "image" else mp4()
        # Hugging Face's own servers know the model by its name on the Hub.
        named = MODEL if provider == "hf-inference" else "vendor/model"
        served = Served(named, IMAGE if kind == "image" else VIDEO)
        models = {MODEL: {provider: served}}
        self.hub = HuggingFace(HubConfig(token=TOKEN, models=models))
        self._provider = provider
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._stack.enter_context(self.hub)
        self.settings = self._settings(self.hub.url)
        self.dead = self._settings(f"http://127.0.0.1:{dead_port()}")
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def play(self, scene: Scene) -> None:
        if scene is Scene.UNAUTHORIZED:
            self.hub.revoke()
        elif scene is Scene.REDIRECT:
            self.hub.always(Plan(refuse=307, location=f"{self.hub.files_url}/elsewhere"))
        else:
            self.hub.always(PLANS[scene])

    @property
    def submits(self) -> int:
        return self.hub.submits

    @property
    def accepted(self) -> int:
        return self.hub.billed

    def stopped(self, handle: Handle) -> bool:
        return any(j.cancelled and handle.remote_id.endswith(j.id) for j in self.hub.jobs)

    def urls(self) -> list[str]:
        return [c.path for c in self.hub.calls]

    def elsewhere(self) -> list[Request]:
        """The files' host."""
        return [Request(c.method, c.path, c.headers, b"") for c in self.hub.fetched]

    def _settings(self, url: str) -> Settings:
        return load(
            hf_token=TOKEN,
            hf_endpoint=url,
            hf_router_url=url,
            hf_provider=self._provider,
            hf_video_model=MODEL,
            hf_image_model=MODEL,
        )


class HuggingFaceContract(BackendContract):
    """What all have in common; not collected by itself."""

    backend = HuggingFaceBackend
    keys: ClassVar = {"hf_token": "HF_TOKEN"}
    provider: ClassVar[str]
    kind: ClassVar[str] = "video"

    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_hf_follow, "POLL_S", (0.005, 0.02))
        monkeypatch.setattr(_hf_follow, "CONFIRM_S", 1.0)

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with HuggingFaceRig(self.provider, self.kind) as rig:
            yield rig

    def work(self, **changes: Any) -> Work:
        told = {"prompt": Prompt("a paper boat", kind=self.kind), "need": Need(kind=self.kind)}
        return Work(uuid.uuid4().hex, {}, **{**told, **changes})


NO_SIZE = {Scene.DAMAGED: "the answer tells neither a file's size nor its sha256"}
AT_ONCE = {
    Scene.SLOW: "the result comes with the answer to the submit",
    Scene.STRANGE: "the result comes with the answer to the submit",
    Scene.HANG: "the result comes with the answer to the submit",
    Scene.DEAF: "the result comes with the answer to the submit",
}


class TestFalVideo(HuggingFaceContract):
    provider = "fal-ai"


class TestFalImage(HuggingFaceContract):
    provider = "fal-ai"
    kind = "image"
    lacks = NO_SIZE


class TestWaveSpeedVideo(HuggingFaceContract):
    provider = "wavespeed"
    lacks = NO_SIZE


class TestTogetherVideo(HuggingFaceContract):
    provider = "together"
    lacks = NO_SIZE


class TestReplicateImage(HuggingFaceContract):
    """Its answer has the result if that came within a minute; else it is followed."""

    provider = "replicate"
    kind = "image"
    lacks = NO_SIZE


class TestHfInference(HuggingFaceContract):
    """The picture is the answer."""

    provider = "hf-inference"
    kind = "image"
    lacks: ClassVar = {
        **AT_ONCE,
        Scene.FAIL: "a failed run is an HTTP status of the submit",
        Scene.FILTERED: "the same",
        Scene.EXPIRED: "no file lies anywhere",
        Scene.CUT: "no file lies anywhere",
        Scene.DAMAGED: "no file lies anywhere",
        Scene.ELSEWHERE: "no file lies anywhere",
        Scene.PRIVATE: "no file lies anywhere",
    }
