"""The real ComfyUI passes the contract suite, behind the door that loses answers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests

from backends import test_comfyui_contract as scripted
from backends.rig import Rig, Scene
from client.support import Reply, Request
from pennyreel.backends.base import Work
from pennyreel.need import Need
from pennyreel.sources import Source
from pennyreel.types import Handle
from pennyreel_comfy.process import ComfyProcess

pytestmark = pytest.mark.real

PICTURE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 7},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "clip"}},
}
NO_PICTURE = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "broken.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "clip"}},
}


def endless(model: str) -> dict[str, Any]:
    """Sample for longer than any test waits."""
    text, size = {"text": "x", "clip": ["1", 1]}, {"width": 64, "height": 64, "batch_size": 1}
    sampler = {
        "model": ["1", 0], "positive": ["2", 0], "negative": ["2", 0], "latent_image": ["3", 0],
        "seed": 1, "steps": 10_000, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal",
        "denoise": 1.0,
    }  # fmt: skip
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}},
        "2": {"class_type": "CLIPTextEncode", "inputs": text},
        "3": {"class_type": "EmptyLatentImage", "inputs": size},
        "4": {"class_type": "KSampler", "inputs": sampler},
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "clip"}},
    }  # fmt: skip


class RealRig(scripted.ComfyRig):
    def __init__(self, folder: Path, server: ComfyProcess) -> None:
        super().__init__(folder)
        self._server = server
        self._taken = 0
        self._shown = b""

    @property
    def upstream(self) -> str:
        return self._server.url

    @property
    def accepted(self) -> int:
        return self._taken

    @property
    def content(self) -> bytes:  # type: ignore[override]
        """What /view last gave whole, as a browser would have got it."""
        return self._shown

    def stopped(self, handle: Handle) -> bool:
        url = f"{self.upstream}/history/{handle.remote_id}"
        entry = requests.get(url, timeout=20).json().get(handle.remote_id) or {}
        messages = (entry.get("status") or {}).get("messages") or ()
        return any(m[0] == "execution_interrupted" for m in messages)

    def _pass_on(self, request: Request) -> Reply:
        reply = super()._pass_on(request)
        if request.path == "/prompt" and reply.status == 200:
            self._taken += 1
        if request.path.startswith("/view") and reply.status == 200:
            self._shown = reply.encode()
        return reply


class TestRealComfyUI(scripted.TestComfyUI):
    lacks: ClassVar = {
        **scripted.TestComfyUI.lacks,
        Scene.SLOW: "the real one is not slowed; its progress is tested in test_both_ways",
        Scene.DEAF: "the real one acts on an interrupt; the door's lie is tested on the fake",
    }
    test_it_is_billed_by_its_own_clock_whoever_follows = None

    @pytest.fixture(autouse=True)
    def _quick(self) -> None:
        """It gets the time that it is given outside of tests."""

    @pytest.fixture(autouse=True)
    def _alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PENNYREEL_HOME", str(tmp_path))
        monkeypatch.setenv("PENNYREEL_CONFIG", os.devnull)

    @pytest.fixture
    def rig(self, tmp_path: Path, server: ComfyProcess, tiny_model: str) -> Iterator[Rig]:
        self._model = tiny_model
        with RealRig(tmp_path, server) as self._rig:
            yield self._rig
            requests.post(f"{server.url}/interrupt", json={}, timeout=20)

    def work(self, **changes: Any) -> Work:
        graph, sources = PICTURE, ()
        if self._rig.scene in {Scene.HANG, Scene.DEAF}:
            graph = endless(self._model)
        if self._rig.scene is Scene.FAIL:
            graph, sources = NO_PICTURE, (Source("broken.png", data=b"this is no picture"),)
        need = Need(kind="image", workflow=True)
        return Work(uuid.uuid4().hex, graph, **{"need": need, "sources": sources, **changes})

    def test_the_seconds_come_from_its_own_history(self, rig: Rig, opened: Any, told: Any) -> None:
        # Another picture than any before, and a large one: what is cached takes less than its clock
        # tells.
        image = {"width": 512, "height": 512, "batch_size": 4, "color": uuid.uuid4().int & 0xFFFFFF}
        graph = {**PICTURE, "1": {"class_type": "EmptyImage", "inputs": image}}
        handle = opened().submit(replace(self.work(), graph=graph))
        result = self.follow(opened(), handle, told)
        billed = opened().billed(Need(workflow=True), result)
        assert billed.amount is not None
        assert 0 < billed.amount < 60
