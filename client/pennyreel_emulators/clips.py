"""Small real videos, drawn with the standard library: a square that moves over one colour.

What an emulated service answers is a file that any player opens. `key` decides the colours, so
that the same prompt and seed give the same bytes, and others give others.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from pennyreel_emulators import _gif, _h264

Colour = tuple[int, int, int]


@lru_cache(maxsize=32)
def mp4(width: int, height: int, frames: int = 8, fps: int = 8, key: str = "") -> bytes:
    """Return an MP4 with H.264 (baseline), as browsers play it; sides are even numbers."""
    back, front = _colours(key)
    return _h264.mp4(width, height, frames, fps, back, front)


@lru_cache(maxsize=32)
def gif(width: int, height: int, frames: int = 8, fps: int = 8, key: str = "") -> bytes:
    """Return an animated GIF that repeats for ever."""
    back, front = _colours(key)
    return _gif.gif(width, height, frames, fps, back, front)


def _colours(key: str) -> tuple[Colour, Colour]:
    """A background and a square, as (red, green, blue), well apart in brightness."""
    digest = hashlib.sha256(key.encode()).digest()
    dark = (digest[0] % 96 + 16, digest[1] % 96 + 16, digest[2] % 96 + 16)
    bright = (digest[3] % 64 + 176, digest[4] % 64 + 176, digest[5] % 64 + 176)
    return dark, bright
