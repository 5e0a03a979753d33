"""A job for Replicate, and its way."""

from __future__ import annotations

import uuid
from typing import Any

from pennyreel.backends.base import Prompt, Work
from pennyreel.backends.replicate import ReplicateBackend
from pennyreel.need import Need
from pennyreel.types import Handle
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result
from pennyreel_emulators.replicate import (
    ReplicatePlatform,
)

TOKEN = "r8_SECRET_never_shown_0123456789"
TEXT = "a paper boat in the rain"
NEED = Need(kind="video", seed=True)
MANY = 10_000


def job(seed: int | None = 7, **prompt: Any) -> Work:
    text = prompt.pop("text", TEXT)
    options = {name: prompt.pop(name) for name in ("timeout_s",) if name in prompt}
    return Work(
        uuid.uuid4().hex, {}, seed=seed, prompt=Prompt(text, **prompt), need=NEED, **options
    )


def follow(
    one: ReplicateBackend, handle: Handle, events: list[Any] | None = None, seconds: float = 20.0
) -> Result:
    told: list[Any] = [] if events is None else events
    return one.follow(
        handle, on_event=told.append, deadline=Deadline(seconds), cancel=CancelToken()
    )


def create(platform: ReplicatePlatform) -> Any:
    (asked,) = [r for r in platform.requests if r.method == "POST"]
    return asked
