"""Google's emulated APIs as a rig: each scene of the contract suite as the plan of a submit."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from backends.rig import Rig, Scene
from client.support import Reply, Request, Scripted
from fakes.ports import dead_port
from pennyreel.backends.base import Prompt, Work
from pennyreel.config import Settings, load
from pennyreel.need import Need
from pennyreel.types import Handle
from pennyreel_emulators.google import GoogleApis, GoogleConfig, Plan

API_KEY = "AIzaSECRET_never_shown_0123456789"
TOKEN = "ya29.SECRET_never_shown_0123456789"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 24
POLL_S = (0.01, 0.02)

UNPAID_BY_KEY = Plan(refuse=400, refuse_status="FAILED_PRECONDITION", message="enable billing")
UNPAID_PROJECT = Plan(refuse=403, reason="BILLING_DISABLED", message="billing is off")

_PLANS = {
    Scene.SUCCEED: Plan(),
    Scene.SLOW: Plan(looks=3),
    Scene.STRANGE: Plan(looks=3, status="warming_up"),
    Scene.FAIL: Plan(end="failed"),
    Scene.FILTERED: Plan(end="filtered"),
    Scene.HANG: Plan(end="hangs"),
    Scene.DEAF: Plan(end="hangs", cancel="ignored"),
    Scene.LOST: Plan(answer="lost"),
    Scene.GARBLED: Plan(answer="garbled"),
    Scene.NEVER_CAME: Plan(answer="never_came"),
    Scene.BROKEN: Plan(refuse=503, message="The model is overloaded."),
    Scene.RATE_LIMITED: Plan(refuse=429, retry_s=7),
    Scene.INVALID: Plan(refuse=400),
    Scene.EXPIRED: Plan(end="forgotten"),
    Scene.CUT: Plan(cut_files=1),
    Scene.PRIVATE: Plan(file_url="https://10.11.12.13/clip.mp4"),
}


class GoogleRig(Rig):
    """One server for both APIs, and another to which no key may go."""

    secrets = (API_KEY, TOKEN)

    def __init__(self, google: GoogleApis, other: Scripted, unpaid: Plan, **more: Any) -> None:
        self.google, self._other, self._unpaid = google, other, unpaid
        self.settings = settings(google.base_url, **more)
        self.dead = settings(f"http://127.0.0.1:{dead_port()}", **more)

    @property
    def content(self) -> bytes:  # type: ignore[override]
        return self.google.content(self.google.accepted[-1])

    def play(self, scene: Scene) -> None:
        if scene is Scene.UNAUTHORIZED:
            self.google.revoke()
        elif scene is Scene.UNPAID:
            self.google.script(self._unpaid)
        elif scene is Scene.REDIRECT:
            self.google.script(Plan(redirect=f"{self._other.url}/elsewhere"))
        elif scene is Scene.ELSEWHERE:
            self.google.script(Plan(file_url=f"{self._other.url}/clip.mp4"))
            self._other.script = lambda _: Reply(body=self.content)
        else:
            self.google.script(_PLANS[scene])

    @property
    def submits(self) -> int:
        return len(self.google.submits)

    @property
    def accepted(self) -> int:
        return len(self.google.accepted)

    def stopped(self, handle: Handle) -> bool:
        return self.google.stopped(handle.remote_id)

    def urls(self) -> list[str]:
        return [f"{r.path}?{r.query}" for r in self.google.requests]

    def elsewhere(self) -> list[Request]:
        return self._other.requests


@contextmanager
def running(unpaid: Plan, **more: Any) -> Iterator[GoogleRig]:
    """Start both servers."""
    with ExitStack() as stack:
        config = GoogleConfig(api_key=API_KEY, access_tokens=(TOKEN,))
        google = stack.enter_context(GoogleApis(config))
        other = stack.enter_context(Scripted(lambda _: Reply(404)))
        yield GoogleRig(google, other, unpaid, **more)


def settings(url: str, **more: Any) -> Settings:
    """Both backends, configured for one address."""
    return load(
        {},
        **{
            "gemini_api_key": API_KEY,
            "gemini_base_url": url,
            "vertex_project": "emulated-project",
            "vertex_token": TOKEN,
            "vertex_base_url": url,
            "vertex_storage_url": url,
            **more,
        },
    )


def prompt_work(*, seed: int | None = None, need: Need | None = None, **wish: Any) -> Work:
    """A job that is a prompt."""
    prompt = Prompt("a paper boat in the rain", **wish)
    needed = need or Need(
        kind=prompt.kind,
        width=prompt.width,
        height=prompt.height,
        seconds=prompt.seconds,
        frames=prompt.frames,
        format=prompt.format,
        image_input=prompt.image is not None,
        negative_prompt=prompt.negative is not None,
        audio=prompt.audio,
    )
    return Work(uuid.uuid4().hex, {}, prompt=prompt, need=needed, seed=seed)


def changed(work: Work, changes: dict[str, Any]) -> Work:
    """The same job with other fields."""
    return replace(work, **changes)
