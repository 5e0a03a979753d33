"""Reads videos and images back, frame by frame."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import av


@dataclass(frozen=True)
class Decoded:
    """What a file shows: its size, and a digest of each frame's pixels."""

    codec: str
    width: int
    height: int
    frames: tuple[str, ...]


def decode(path: Path) -> Decoded:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = tuple(
            hashlib.sha256(bytes(frame.reformat(format="rgb24").planes[0])).hexdigest()
            for frame in container.decode(stream)
        )
        context = stream.codec_context
        return Decoded(context.name, context.width, context.height, frames)
