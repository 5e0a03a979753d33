"""ComfyUI: a scripted one behind a door that loses answers, and the real one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import pytest
import requests
from typing_extensions import Self

from backends.contract import BackendContract, Told
from backends.rig import Rig, Scene
from client.support import Reply, Request, Scripted
from fakes.comfyui import FakeComfy, Prompt, play
from fakes.ports import dead_port
from pennyreel.backends.base import Backend
from pennyreel.backends.comfyui import ComfyBackend
from pennyreel.config import Settings, load
from pennyreel.errors import SetupNeeded
from pennyreel.need import Need
from pennyreel.types import Handle
from pennyreel_comfy import session
from pennyreel_contract import Result

AUTH = "Basic c2VjcmV0IG9mIG91cnM="
CONTENT = b"what ComfyUI made, in PNG" * 10


class ComfyRig(Rig):
    """A door before the scripted ComfyUI. It has no websocket: polling has to do."""

    secrets = (AUTH, AUTH.partition(" ")[2])
    content = CONTENT

    def __init__(self, folder: Path) -> None:
        self._scene = Scene.SUCCEED
        self._views = 0
        self._looks = 0
        self._stopped: set[str] = set()
        self._stack = ExitStack()
        self._fake = FakeComfy(self._run, output=folder / "out", inputs=folder / "in")
        self._door = Scripted(self._answer)
        self._other = Scripted(lambda _: Reply(body={}))

    def __enter__(self) -> Self:
        for part in (self._fake, self._door, self._other):
            self._stack.enter_context(part)  # type: ignore[arg-type]
        self.settings = load(comfyui_url=self._door.url, comfyui_auth=AUTH)
        dead = f"http://127.0.0.1:{dead_port()}"
        self.dead = load(comfyui_url=dead, comfyui_auth=AUTH)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def upstream(self) -> str:
        """The ComfyUI behind the door."""
        return self._fake.url

    @property
    def scene(self) -> Scene:
        return self._scene

    def play(self, scene: Scene) -> None:
        self._scene = scene

    @property
    def submits(self) -> int:
        return len([r for r in self._door.requests if (r.method, r.path) == ("POST", "/prompt")])

    @property
    def accepted(self) -> int:
        return len(self._fake.prompts)

    def stopped(self, handle: Handle) -> bool:
        return handle.remote_id in self._stopped

    def urls(self) -> list[str]:
        return [r.path for r in self._door.requests]

    def elsewhere(self) -> list[Request]:
        return self._other.requests

    async def _run(self, fake: FakeComfy, prompt: Prompt) -> None:
        if self._scene in {Scene.HANG, Scene.DEAF}:
            await prompt.interrupted.wait()
            self._stopped.add(prompt.id)
            fake.finish(prompt, "error", [["execution_interrupted", {"prompt_id": prompt.id}]])
            return
        if self._scene is Scene.FAIL:
            prompt.graph = {"1": {"class_type": "FakeError", "inputs": {}}}
            await play(fake, prompt)
            return
        looked = self._looks
        while self._scene is Scene.SLOW and self._looks < looked + 2:
            await asyncio.sleep(0.005)
        fake.write(prompt, "2", CONTENT)
        ends = [
            ["execution_start", {"timestamp": 1000}],
            ["execution_success", {"timestamp": 3500}],
        ]
        fake.finish(prompt, messages=ends)

    def _answer(self, request: Request) -> Reply | None:
        path = request.path.partition("?")[0]
        if path == "/prompt":
            return self._submit(request)
        if self._scene is Scene.UNAUTHORIZED:
            return Reply(401)
        self._looks += path == "/queue"
        scenes = {
            (Scene.EXPIRED, "/queue"): Reply(body={"queue_running": [], "queue_pending": []}),
            (Scene.EXPIRED, "/history"): Reply(body={}),
            (Scene.DEAF, "/interrupt"): Reply(),
        }
        played = scenes.get((self._scene, f"/{path.split('/')[1]}"))
        if played is not None:
            return played
        reply = Reply(404) if path == "/ws" else self._pass_on(request)
        if path == "/view":
            self._views += 1
            reply.cut_at = 20 if self._scene is Scene.CUT and self._views < 2 else None
        return reply

    def _submit(self, request: Request) -> Reply | None:
        refusals = {
            Scene.BROKEN: Reply(502, b"bad gateway"),
            Scene.BUSY: Reply(503),
            Scene.RATE_LIMITED: Reply(429, b"", {"Retry-After": "7"}),
            Scene.UNAUTHORIZED: Reply(401),
            Scene.INVALID: Reply(400, {"error": {"type": "x", "message": "no"}, "node_errors": {}}),
            Scene.REDIRECT: Reply(307, b"", {"Location": f"{self._other.url}/prompt"}),
        }
        if self._scene in refusals:
            return refusals[self._scene]
        if self._scene is Scene.NEVER_CAME:
            return None
        reply = self._pass_on(request)
        if self._scene is Scene.LOST:
            return None
        return Reply(body=b"<html>") if self._scene is Scene.GARBLED else reply

    def _pass_on(self, request: Request) -> Reply:
        assert request.headers["Authorization"] == AUTH
        with requests.Session() as http:
            http.trust_env = False
            kind = {"Content-Type": request.headers.get("Content-Type", "")}
            url = self.upstream + request.path
            answer = http.request(request.method, url, data=request.body, headers=kind, timeout=20)
            return Reply(answer.status_code, answer.content)


class TestComfyUI(BackendContract):
    backend = ComfyBackend
    lacks: ClassVar = {
        Scene.UNPAID: "a ComfyUI asks for no money",
        Scene.FILTERED: "a ComfyUI does not judge content",
        Scene.STRANGE: "ComfyUI tells no status: a job is in /queue or in /history",
        Scene.DAMAGED: "ComfyUI tells no checksum of its files",
        Scene.ELSEWHERE: "its files come from itself by /view, whatever a result says",
        Scene.PRIVATE: "its files come from itself by /view, whatever a result says",
    }

    @pytest.fixture(autouse=True)
    def _quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(session, "CANCEL_S", 1.5)

    def open(self, settings: Settings, target: str | None = None) -> Backend:
        one = ComfyBackend.open(settings, target)
        one._settle_s = 0.05
        one._session.poll_s = 0.02
        one._session.down_grace_s = 0.5
        return one

    @pytest.fixture
    def rig(self, tmp_path: Path) -> Iterator[Rig]:
        with ComfyRig(tmp_path) as rig:
            yield rig

    def test_it_is_billed_by_its_own_clock_whoever_follows(
        self, rig: Rig, opened: Any, told: Told
    ) -> None:
        handle = opened().submit(self.work())
        result = self.follow(opened(), handle, told)
        assert opened().billed(Need(workflow=True), result).amount == 2.5

    def test_it_is_private_and_free_on_this_machine_only(self, rig: Rig) -> None:
        for url, private, sku in (
            ("http://127.0.0.1:8188", True, "local"),
            ("https://gpu.example.com", False, "server"),
        ):
            one = ComfyBackend(url)
            assert one.abilities().private is private
            assert one.usage(Need()).sku == sku

    def test_a_refused_header_names_its_setting(self, rig: Rig, one: Backend) -> None:
        rig.play(Scene.UNAUTHORIZED)
        with pytest.raises(SetupNeeded) as caught:
            one.submit(self.work())
        assert "PENNYREEL_COMFYUI_AUTH" in caught.value.hint

    def test_a_result_without_messages_is_billed_by_what_was_seen(self) -> None:
        one = ComfyBackend("http://127.0.0.1:8188")
        seen = Result(attempt_id="a", timings={"execute": 1.25})
        assert one.billed(Need(), seen).amount == 1.25
