"""The emulations' videos play: another decoder sees what was drawn."""

from __future__ import annotations

import io
from collections import Counter

import av
import pytest

from pennyreel_emulators import clips

SIZES = [(672, 384), (256, 256), (320, 768), (1024, 1024), (64, 36)]


def colours(frame: av.VideoFrame) -> Counter[bytes]:
    plane = frame.reformat(format="rgb24").planes[0]
    data = bytes(plane)
    places = (
        y * plane.line_size + 3 * x
        for y in range(0, frame.height, 4)
        for x in range(0, frame.width, 4)
    )
    return Counter(data[at : at + 3] for at in places)


@pytest.mark.parametrize("form", ["mp4", "gif"])
@pytest.mark.parametrize("size", SIZES)
def test_a_clip_has_its_size_its_frames_and_two_colours(form: str, size: tuple[int, int]) -> None:
    with av.open(io.BytesIO(getattr(clips, form)(*size, 8, 8, "key"))) as video:
        frames = list(video.decode(video=0))
        assert video.streams.video[0].codec_context.name == ("h264" if form == "mp4" else "gif")
    assert [(f.width, f.height) for f in frames] == [size] * 8
    for frame in frames:
        seen = colours(frame)
        assert len(seen) == 2
        assert 0.01 < min(seen.values()) / sum(seen.values()) < 0.2


def test_the_square_moves() -> None:
    with av.open(io.BytesIO(clips.mp4(256, 256, 8, 8, "key"))) as video:
        frames = [bytes(f.reformat(format="gray").planes[0]) for f in video.decode(video=0)]
    assert len(set(frames)) == 8


@pytest.mark.parametrize(("frames", "fps"), [(8, 8), (16, 8), (48, 24), (1, 1)])
def test_a_video_lasts_as_long_as_it_says(frames: int, fps: int) -> None:
    with av.open(io.BytesIO(clips.mp4(128, 64, frames, fps))) as video:
        assert len(list(video.decode(video=0))) == frames
        assert video.duration == pytest.approx(1_000_000 * frames / fps, abs=2)


def test_a_key_has_its_own_colours() -> None:
    assert clips.mp4(64, 64, key="a") == clips.mp4(64, 64, key="a") != clips.mp4(64, 64, key="b")
