"""A job as Hugging Face's providers take it, and its name in a handle."""

from __future__ import annotations

import math
from dataclasses import dataclass

from typing_extensions import Self

from pennyreel.backends._hf_offers import TASKS
from pennyreel.backends._hf_providers import PROVIDERS
from pennyreel.backends._hf_words import Wish
from pennyreel.backends.base import Work
from pennyreel.errors import Code, error
from pennyreel.types import Handle

FPS = 24
"""Of models that are asked for seconds: what Wan 2.2 TI2V 5B and HunyuanVideo make."""

_FRAMES = 8
"""Derived frame counts are a multiple of this and one: video models' codecs pack 4 or 8 in one."""


def wish(work: Work) -> Wish:
    """Return what is asked for; raises BadRequest where it is nothing for these providers."""
    prompt = work.prompt
    if prompt is None:
        raise error(
            Code.BAD_REQUEST,
            "Hugging Face takes a prompt, not a workflow",
            hint="Run workflows with another backend: pennyreel backends",
        )
    if prompt.kind not in TASKS:
        raise error(Code.BAD_REQUEST, f"Hugging Face makes no {prompt.kind} for us")
    if prompt.image is not None:
        raise error(Code.BAD_REQUEST, "this backend sends Hugging Face no image, only text")
    frames = prompt.frames
    if frames is None and prompt.seconds is not None:
        frames = _FRAMES * math.ceil(prompt.seconds * (prompt.fps or FPS) / _FRAMES) + 1
    return Wish(
        text=prompt.text,
        kind=prompt.kind,
        negative=prompt.negative,
        width=prompt.width,
        height=prompt.height,
        frames=frames,
        fps=prompt.fps,
        seconds=prompt.seconds,
        steps=work.need.steps,
        seed=work.seed,
        format=prompt.format,
    )


@dataclass(frozen=True)
class Remote:
    """What a handle's remote id holds: all that it takes to find the job from another process."""

    provider: str
    model: str
    kind: str
    job: str
    """The provider's id of it."""
    ignored: str = ""
    """What the provider was not told."""

    def encode(self) -> str:
        """Return it as one text."""
        return f"{self.provider}:{self.model}:{self.kind}:{self.ignored}:{self.job}"

    @classmethod
    def decode(cls, handle: Handle) -> Self:
        """Read it; raises BadRequest."""
        parts = handle.remote_id.split(":", 4)
        if len(parts) != 5 or parts[0] not in PROVIDERS or parts[2] not in TASKS:
            raise error(
                Code.BAD_REQUEST,
                f"{str(handle)[:200]!r} names no job at a provider that this version knows",
            )
        return cls(parts[0], parts[1], parts[2], parts[4], parts[3])

    @property
    def warning(self) -> str:
        """What a person should know of it, or ''."""
        if not self.ignored:
            return ""
        return (
            f"{self.provider} names the size of a video differently for each model: {self.ignored} "
            "was not asked for, and the model's own size will come"
        )
