"""Another package's backend: it passes the suite by what is public, and runs by its entry point."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.metadata import EntryPoint
from typing import Any, ClassVar

import pytest

from backends.contract import BackendContract
from backends.rig import Rig, Scene
from backends.tiny import TinyBackend
from client.support import Reply, Request, Scripted
from fakes.ports import dead_port
from pennyreel.backends import registry
from pennyreel.backends.base import Backend, Prompt, Work
from pennyreel.config import Settings, load
from pennyreel.need import Need
from pennyreel.types import Handle

KEY = "tiny_SECRET_0123456789"
CONTENT = b"a tiny picture that is not one " * 3


class TinyRig(Rig):
    secrets = (KEY,)
    content = CONTENT

    def __init__(self, stack: ExitStack) -> None:
        self._scene = Scene.SUCCEED
        self._jobs: list[str] = []
        self._looks = self._files = 0
        self._server = stack.enter_context(Scripted(self._answer))
        self._other = stack.enter_context(Scripted(lambda _: Reply(body=CONTENT)))
        self.settings = load()
        self.dead = load(backend="dead")
        self.url, self.nowhere = self._server.url, f"http://127.0.0.1:{dead_port()}"

    def play(self, scene: Scene) -> None:
        self._scene = scene

    @property
    def submits(self) -> int:
        return len([r for r in self._server.requests if r.method == "POST"])

    @property
    def accepted(self) -> int:
        return len(self._jobs)

    def stopped(self, handle: Handle) -> bool:
        return False

    def urls(self) -> list[str]:
        return [r.path for r in self._server.requests]

    def elsewhere(self) -> list[Request]:
        return self._other.requests

    def _answer(self, request: Request) -> Reply | None:
        if request.path.startswith("/files/"):
            self._files += 1
            damaged = CONTENT[:-1] if self._scene is Scene.DAMAGED else CONTENT
            return Reply(
                body=damaged, cut_at=5 if self._scene is Scene.CUT and self._files < 2 else None
            )
        if self._scene is Scene.UNAUTHORIZED:
            return Reply(401)
        if request.method == "POST":
            return self._submit()
        if request.path.startswith("/jobs/"):
            return self._status()
        return Reply(body={})

    def _submit(self) -> Reply | None:
        scene = self._scene
        refusals = {
            Scene.BROKEN: Reply(500), Scene.BUSY: Reply(503), Scene.UNPAID: Reply(402),
            Scene.INVALID: Reply(422), Scene.RATE_LIMITED: Reply(429, headers={"Retry-After": "7"}),
            Scene.REDIRECT: Reply(308, headers={"Location": self._other.url}),
        }  # fmt: skip
        if scene in refusals:
            return refusals[scene]
        if scene is Scene.NEVER_CAME:
            return None
        self._jobs.append(uuid.uuid4().hex)
        if scene is Scene.LOST:
            return None
        return Reply(201, b"<html>" if scene is Scene.GARBLED else {"id": self._jobs[-1]})

    def _status(self) -> Reply:
        scene = self._scene
        self._looks += 1
        where = {Scene.ELSEWHERE: self._other.url, Scene.PRIVATE: "https://10.11.12.13/x"}
        done = {
            "status": "done", "url": where.get(scene, f"{self.url}/files/x"),
            "sha256": hashlib.sha256(CONTENT).hexdigest(),
        }  # fmt: skip
        if scene is Scene.EXPIRED:
            return Reply(404)
        if scene in {Scene.HANG, Scene.DEAF}:
            return Reply(body={"status": "running"})
        if scene is Scene.FAIL:
            return Reply(body={"status": "failed", "why": "it does"})
        waiting = {Scene.SLOW: "queued", Scene.STRANGE: "pondering"}.get(scene)
        return Reply(body={"status": waiting} if waiting and self._looks < 3 else done)


class TestTiny(BackendContract):
    backend = TinyBackend
    keys: ClassVar = {"TINY_KEY": "TINY_KEY"}
    lacks: ClassVar = {Scene.FILTERED: "tiny judges no content"}

    @pytest.fixture
    def rig(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
        with ExitStack() as stack:
            self._rig = TinyRig(stack)
            monkeypatch.setenv("TINY_KEY", KEY)
            monkeypatch.setenv("TINY_URL", self._rig.url)
            yield self._rig

    def open(self, settings: Settings, target: str | None = None) -> Backend:
        dead = self._rig.nowhere if settings.backend == "dead" else None
        return TinyBackend.open(settings, target or dead)

    def work(self, **changes: Any) -> Work:
        need = Need(kind="image")
        return Work(uuid.uuid4().hex, {}, prompt=Prompt("a boat", "image"), need=need, **changes)

    def test_it_is_opened_by_its_entry_point(
        self, rig: Rig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def entry_points(*, group: str, name: str = "tiny") -> list[EntryPoint]:
            points = [EntryPoint("tiny", "backends.tiny:TinyBackend", registry.GROUP)]
            return [p for p in points if (p.group, p.name) == (group, name)]

        monkeypatch.setattr(registry, "entry_points", entry_points)
        assert "tiny" in registry.names()
        opened = registry.open_backend("tiny", rig.settings)
        assert isinstance(opened, TinyBackend)
        assert opened.health().reachable
        opened.close()
