"""What a wish comes to at Google: the length, the tier and the shape that will really be made."""

from __future__ import annotations

import base64
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pennyreel import _http
from pennyreel.backends.base import Prompt, Work
from pennyreel.errors import Code, error
from pennyreel.need import Abilities, Need, Span, misfits
from pennyreel.sources import Source
from pennyreel_comfy.waiting import Deadline

TIERS = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080), "4k": (3840, 2160)}
FPS = 24
"""Frames in a second of what is made; of Omni Flash it is UNVERIFIED."""

MAX_IMAGE_BYTES = 14_000_000
"""Of an input image: base64 makes 20 MB of it, the size of a request (UNVERIFIED)."""

_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
)


@dataclass(frozen=True)
class Clip:
    """What will be made."""

    seconds: int
    resolution: str
    aspect: str


@dataclass(frozen=True)
class Catalogue:
    """What a model makes."""

    tiers: tuple[str, ...]
    usual: str
    """The tier of a wish that names no size."""
    lengths: Callable[[str], Span]
    """A tier's lengths, in seconds."""

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Yield (width, height), each both ways up."""
        for tier in self.tiers:
            long, short = TIERS[tier]
            yield long, short
            yield short, long

    def clip(self, need: Need) -> Clip:
        """Return the smallest tier and the shortest length that give what is wished for.

        Where nothing does, the largest: a price of it is not too low.
        """
        width, height = need.width or 0, need.height or 0
        tier = self._tier(max(width, height), min(width, height)) if width or height else self.usual
        wanted = max(need.seconds or 0.0, (need.frames or 0) / FPS)
        span = self.lengths(tier)
        seconds = span.at_least(wanted)
        if seconds is None:
            seconds = max(span.these) if span.these else span.most or wanted
        return Clip(math.ceil(seconds), tier, "9:16" if height > width else "16:9")

    def _tier(self, long: int, short: int) -> str:
        fits = (t for t in self.tiers if TIERS[t][0] >= long and TIERS[t][1] >= short)
        return next(fits, self.tiers[-1])


def wished(work: Work, able: Abilities, name: str) -> tuple[Prompt, Need]:
    """Return the prompt and all that it needs.

    Raises:
        BadRequest: this backend cannot do it.

    """
    prompt = work.prompt
    if prompt is None:
        raise error(
            Code.BAD_REQUEST,
            f"{name} runs no ComfyUI workflows",
            hint="Give a prompt, or use a backend with a ComfyUI: pennyreel backends",
        )
    need = replace(
        work.need,
        workflow=False,
        kind=prompt.kind,
        width=prompt.width or work.need.width,
        height=prompt.height or work.need.height,
        seconds=prompt.seconds or work.need.seconds,
        frames=prompt.frames or work.need.frames,
        format=prompt.format or work.need.format,
        image_input=prompt.image is not None or work.need.image_input,
    )
    why = list(misfits(need, able))
    if why:
        raise error(
            Code.BAD_REQUEST,
            f"{name} cannot do this job: it {', '.join(why)}",
            hint="Change the wish, or use another backend: pennyreel backends",
        )
    if not prompt.text.strip():
        raise error(Code.BAD_REQUEST, "the prompt is empty", hint="Say what is to be seen.")
    return prompt, need


def image(source: Source, deadline: Deadline) -> tuple[str, str]:
    """Return an input image's MIME type and its content in base64.

    Raises:
        BadRequest: it is none, too large, or not to be had.

    """
    content = _content(source, deadline)
    mime = next((m for magic, m in _MAGIC if content.startswith(magic)), None)
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        mime = "image/webp"
    if mime is None:
        raise error(
            Code.BAD_INPUT,
            f"input {source.name} is no PNG, JPEG or WebP image",
            hint="Convert it to PNG or JPEG.",
        )
    return mime, base64.b64encode(content).decode()


def _content(source: Source, deadline: Deadline) -> bytes:
    if source.local:
        if (source.size or 0) > MAX_IMAGE_BYTES:
            raise _too_large(source)
        with source.open() as opened:
            return opened.read()
    if source.url is None:
        raise error(
            Code.BAD_INPUT,
            f"input {source.name} is in a bucket that Google cannot read",
            hint="Pass it as a file or by https URL.",
        )
    memory = _Memory()
    _http.download(
        source.url,
        memory,
        local=True,
        plain=True,
        pause=lambda seconds: time.sleep(deadline.left(seconds)),
        most=MAX_IMAGE_BYTES,
        deadline=deadline,
    )
    return bytes(memory.data)


def _too_large(source: Source) -> Exception:
    return error(
        Code.INPUT_TOO_LARGE,
        f"input {source.name} has {(source.size or 0) / 1e6:.1f} MB; Google takes images of up to "
        f"{MAX_IMAGE_BYTES / 1e6:.0f} MB in a request",
        hint="Make the image smaller: no clip has more than 3840x2160.",
    )


class _Memory:
    """A sink for an image."""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self.data)

    @property
    def sha256(self) -> str:
        """Of nobody's interest."""
        return ""

    def write(self, data: bytes) -> None:
        """Append."""
        self.data += data

    def restart(self) -> None:
        """Begin anew."""
        self.data.clear()
