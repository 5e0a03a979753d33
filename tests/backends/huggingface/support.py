"""A job, its way, and a router whose answers a test writes."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from backends.rig import Store
from client.support import Reply, Request, Scripted
from pennyreel.backends.base import Prompt, Work
from pennyreel.backends.huggingface import HuggingFaceBackend
from pennyreel.need import Need
from pennyreel.types import Handle
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result
from pennyreel_emulators.huggingface import HubConfig

TOKEN = HubConfig().token
Open = Callable[..., HuggingFaceBackend]


def job(
    kind: str = "video", seed: int | None = None, steps: int | None = None, **asked: Any
) -> Work:
    prompt = Prompt("a paper boat", kind=kind, **asked)
    need = Need(kind=kind, steps=steps)
    return Work(uuid.uuid4().hex, {}, prompt=prompt, need=need, seed=seed)


def follow(one: HuggingFaceBackend, handle: Handle, seconds: float = 30.0, **more: Any) -> Result:
    return one.follow(
        handle,
        on_event=more.get("on_event", lambda _: None),
        deadline=Deadline(seconds),
        cancel=more.get("cancel", CancelToken()),
    )


def run(one: HuggingFaceBackend, work: Work) -> Result:
    return follow(one, one.submit(work, Deadline(90)))


def fetched(one: HuggingFaceBackend, handle: Handle, result: Result) -> bytes:
    sink = Store()
    one.fetch(handle, result.artifacts[0], sink, CancelToken(), Deadline(30))
    return bytes(sink.data)


def scripted(answers: dict[str, Callable[[Request], Reply | None]]) -> Scripted:
    """A server with WAN at fal-ai; `answers` by the path's beginning, the longest first."""
    mapping = {"fal-ai": {"status": "live", "providerId": "fal-ai/wan", "task": "text-to-video"}}
    usual: dict[str, Callable[[Request], Reply | None]] = {
        "/api/models": lambda _: Reply(body={"inferenceProviderMapping": mapping}),
        "/fal-ai/fal-ai/wan": lambda _: Reply(body={"request_id": "r1"}),
    }

    def answer(request: Request) -> Reply | None:
        table = {**usual, **answers}
        path = max((p for p in table if request.path.startswith(p)), key=len)
        return table[path](request)

    return Scripted(answer)


STATUS = "/fal-ai/fal-ai/wan/requests/r1/status"
RESULT = "/fal-ai/fal-ai/wan/requests/r1?"
DONE = {"status": "COMPLETED"}
