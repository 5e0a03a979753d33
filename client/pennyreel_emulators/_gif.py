"""GIF89a as far as a square on one colour needs it."""

from __future__ import annotations

import struct

Colour = tuple[int, int, int]

_MOST_BITS = 12


def gif(width: int, height: int, frames: int, fps: int, back: Colour, front: Colour) -> bytes:
    """Return the whole file: a full first frame, then the stripe in which the square moves."""
    side = max(1, min(width, height) // 4)
    top = (height - side) // 2
    pause = round(100 / fps)
    parts = [
        b"GIF89a",
        struct.pack("<HHBBB", width, height, 0x80, 0, 0),
        bytes(back) + bytes(front),
        b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x00\x00\x00",
    ]
    for n in range(frames):
        left = (width - side) * (n + 1) // (frames + 1)
        row = bytes(left) + b"\x01" * side + bytes(width - side - left)
        if n == 0:
            pixels = bytes(width * top) + row * side + bytes(width * (height - side - top))
            at, tall = 0, height
        else:
            pixels, at, tall = row * side, top, side
        parts += [
            b"\x21\xf9\x04\x04" + struct.pack("<H", pause) + b"\x00\x00",
            b"\x2c" + struct.pack("<4HB", 0, at, width, tall, 0),
            b"\x02" + _blocks(_lzw(pixels)),
        ]
    return b"".join(parts) + b"\x3b"


def _lzw(pixels: bytes) -> bytes:
    """Compress as GIF does: codes of growing width, least significant bit first."""
    clear, end = 4, 5
    codes: dict[bytes, int] = {bytes([n]): n for n in range(clear)}
    width, following = 3, end + 1
    out, count = clear, width
    seen = b""
    for n in range(len(pixels)):
        longer = seen + pixels[n : n + 1]
        if longer in codes:
            seen = longer
            continue
        out |= codes[seen] << count
        count += width
        if following == 1 << _MOST_BITS:
            out |= clear << count
            count += width
            codes = {bytes([c]): c for c in range(clear)}
            width, following = 3, end + 1
        else:
            codes[longer] = following
            width = max(width, following.bit_length())
            following += 1
        seen = pixels[n : n + 1]
    out |= codes[seen] << count
    count += width
    out |= end << count
    return out.to_bytes((count + width + 7) // 8, "little")


def _blocks(data: bytes) -> bytes:
    pieces = [data[i : i + 255] for i in range(0, len(data), 255)]
    return b"".join(bytes([len(p)]) + p for p in pieces) + b"\x00"
