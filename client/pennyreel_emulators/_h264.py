"""H.264 and MP4 as far as a square on one colour needs them (ITU-T H.264; ISO 14496-12, -15).

The first macroblock has its samples as they are (I_PCM), and the rest of the background is
predicted from it; the square's macroblocks are I_PCM too. Later frames skip what did not change.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable

Colour = tuple[int, int, int]

_MB = 16
_I_PCM, _I_16X16_DC, _INTRA_IN_P = 25, 3, 5
_START = re.compile(b"\x00\x00(?=[\x00-\x03])")


class _Bits:
    """Bits in the order in which they are sent."""

    def __init__(self) -> None:
        self._done = bytearray()
        self._bits = ""

    def u(self, count: int, value: int) -> None:
        """Append a number of so many bits."""
        self._bits += f"{value:0{count}b}"

    def ue(self, value: int) -> None:
        """Append an Exp-Golomb number."""
        text = f"{value + 1:b}"
        self._bits += "0" * (len(text) - 1) + text

    def samples(self, data: bytes) -> None:
        """Align with zeros, and append whole bytes."""
        self._flush()
        self._done += data

    def end(self) -> bytes:
        """Return it all, with the stop bit."""
        self._bits += "1"
        self._flush()
        return bytes(self._done)

    def _flush(self) -> None:
        bits = self._bits + "0" * (-len(self._bits) % 8)
        self._done += bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        self._bits = ""


class _Picture:
    """The macroblocks of a clip: which are the square's in which frame."""

    def __init__(self, width: int, height: int, frames: int, back: Colour, front: Colour) -> None:
        self.columns, self.rows = -(-width // _MB), -(-height // _MB)
        self._side = max(1, min(self.columns, self.rows) // 4)
        self._frames = frames
        self._back, self._front = _pcm(back), _pcm(front)

    def square(self, frame: int) -> set[int]:
        """Numbers of its macroblocks; it goes from the left to the right."""
        room = self.columns - self._side
        left = round(room * (frame + 1) / (self._frames + 1))
        top = (self.rows - self._side) // 2
        return {
            (top + y) * self.columns + left + x
            for y in range(self._side)
            for x in range(self._side)
        }

    def samples(self, number: int, frame: int) -> bytes:
        """A macroblock's luma and chroma."""
        return self._front if number in self.square(frame) else self._back

    def first(self) -> bytes:
        """The slice of frame 0, all of it intra."""
        bits, square = _slice(7, 0), self.square(0)
        # What is predicted from the square would take its colour.
        beside = {n + 1 for n in square if (n + 1) % self.columns} | {
            n + self.columns for n in square
        }
        plain = {0} | square | beside
        for number in range(self.columns * self.rows):
            if number in plain:
                bits.ue(_I_PCM)
                bits.samples(self.samples(number, 0))
                continue
            bits.ue(_I_16X16_DC)
            bits.ue(0)  # chroma is predicted the same way
            bits.ue(0)  # the quantiser stays
            left = number % self.columns > 0 and number - 1 in plain
            # "No coefficients", in the code that depends on the neighbours' count of them.
            bits.u(*((6, 3) if left or number - self.columns in plain else (1, 1)))
        return bits.end()

    def later(self, frame: int) -> bytes:
        """The slice of a later frame: what the square left and what it took."""
        bits, skipped = _slice(5, frame), 0
        changed = self.square(frame) ^ self.square(frame - 1)
        for number in range(self.columns * self.rows):
            if number not in changed:
                skipped += 1
                continue
            bits.ue(skipped)
            bits.ue(_INTRA_IN_P + _I_PCM)
            bits.samples(self.samples(number, frame))
            skipped = 0
        if skipped:
            bits.ue(skipped)
        return bits.end()


def mp4(width: int, height: int, frames: int, fps: int, back: Colour, front: Colour) -> bytes:
    """Return the whole file."""
    picture = _Picture(width, height, frames, back, front)
    slices = [_nal(0x65, picture.first())]
    slices += [_nal(0x41, picture.later(n)) for n in range(1, frames)]
    samples = [struct.pack(">I", len(s)) + s for s in slices]
    head = _box(b"ftyp", b"isom", struct.pack(">I", 512), b"isomiso2avc1mp41")
    track = _Track(width, height, fps, [len(s) for s in samples], _sps(picture, width, height))
    offset = len(head) + len(track.moov(0)) + 8
    return head + track.moov(offset) + _box(b"mdat", *samples)


class _Track:
    """The one track's description."""

    def __init__(self, width: int, height: int, fps: int, sizes: list[int], sps: bytes) -> None:
        self._width, self._height, self._fps = width, height, fps
        self._sizes, self._sps = sizes, sps

    def moov(self, offset: int) -> bytes:
        """The box, for samples that begin at `offset` of the file."""
        count = len(self._sizes)
        matrix = struct.pack(">9I", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
        times = struct.pack(">4I", 0, 0, self._fps, count)
        mvhd = _box(
            b"mvhd", bytes(4), times, struct.pack(">IHH", 1 << 16, 1 << 8, 0), bytes(8), matrix,
            bytes(24), struct.pack(">I", 2),
        )  # fmt: skip
        tkhd = _box(
            b"tkhd", struct.pack(">6I", 3, 0, 0, 1, 0, count), bytes(16), matrix,
            struct.pack(">2I", self._width << 16, self._height << 16),
        )  # fmt: skip
        undetermined = 0x55C4  # the language "und"
        mdhd = _box(b"mdhd", bytes(4), times, struct.pack(">HH", undetermined, 0))
        hdlr = _box(b"hdlr", bytes(8), b"vide", bytes(12), b"video\0")
        here = _box(b"url ", struct.pack(">I", 1))
        minf = _box(
            b"minf",
            _box(b"vmhd", struct.pack(">I", 1), bytes(8)),
            _box(b"dinf", _box(b"dref", struct.pack(">II", 0, 1), here)),
            self._table(offset),
        )
        mdia = _box(b"mdia", mdhd, hdlr, minf)
        return _box(b"moov", mvhd, _box(b"trak", tkhd, mdia))

    def _table(self, offset: int) -> bytes:
        count, sps, pps = len(self._sizes), self._sps, _pps()
        avcc = _box(
            b"avcC", b"\x01", sps[1:4], b"\xff\xe1", struct.pack(">H", len(sps)), sps,
            b"\x01", struct.pack(">H", len(pps)), pps,
        )  # fmt: skip
        avc1 = _box(
            b"avc1", bytes(6), struct.pack(">H", 1), bytes(16),
            struct.pack(">HHIIIH", self._width, self._height, 72 << 16, 72 << 16, 0, 1),
            bytes(32), struct.pack(">Hh", 24, -1), avcc,
        )  # fmt: skip
        return _box(
            b"stbl",
            _box(b"stsd", struct.pack(">II", 0, 1), avc1),
            _box(b"stts", struct.pack(">4I", 0, 1, count, 1)),
            _box(b"stss", struct.pack(">3I", 0, 1, 1)),
            _box(b"stsc", struct.pack(">5I", 0, 1, 1, count, 1)),
            _box(b"stsz", struct.pack(f">3I{count}I", 0, 0, count, *self._sizes)),
            _box(b"stco", struct.pack(">3I", 0, 1, offset)),
        )


def _slice(kind: int, frame: int) -> _Bits:
    """A slice's header: `kind` 7 is intra (and the clip's start), 5 predicted."""
    bits = _Bits()
    bits.ue(0)
    bits.ue(kind)
    bits.ue(0)
    bits.u(4, frame % 16)
    if kind == 7:
        bits.ue(0)
        bits.u(2, 0)
    else:
        bits.u(3, 0)
    bits.ue(0)  # the quantiser
    bits.ue(1)  # no deblocking
    return bits


def _sps(picture: _Picture, width: int, height: int) -> bytes:
    bits = _Bits()
    bits.u(8, 66)  # baseline
    bits.u(8, 0xC0)
    bits.u(8, 40)
    for value in (0, 0, 2, 1):
        bits.ue(value)
    bits.u(1, 0)
    bits.ue(picture.columns - 1)
    bits.ue(picture.rows - 1)
    bits.u(2, 3)
    right, below = picture.columns * _MB - width, picture.rows * _MB - height
    bits.u(1, int(bool(right or below)))
    if right or below:
        for value in (0, right // 2, 0, below // 2):
            bits.ue(value)
    bits.u(1, 0)
    return _nal(0x67, bits.end())


def _pps() -> bytes:
    bits = _Bits()
    bits.ue(0)
    bits.ue(0)
    bits.u(2, 0)
    for _ in range(3):
        bits.ue(0)
    bits.u(3, 0)
    for _ in range(3):
        bits.ue(0)
    bits.u(3, 4)  # a slice says whether it deblocks
    return _nal(0x68, bits.end())


def _nal(head: int, payload: bytes) -> bytes:
    """A unit, in which no start code may appear."""
    return bytes([head]) + _START.sub(b"\x00\x00\x03", payload)


def _pcm(colour: Colour) -> bytes:
    """256 samples of luma, 64 each of blue and red difference (ITU-R BT.601)."""
    red, green, blue = colour
    luma = round(16 + 0.257 * red + 0.504 * green + 0.098 * blue)
    cb = round(128 - 0.148 * red - 0.291 * green + 0.439 * blue)
    cr = round(128 + 0.439 * red - 0.368 * green - 0.071 * blue)
    return bytes([luma]) * 256 + bytes([cb]) * 64 + bytes([cr]) * 64


def _box(kind: bytes, *parts: bytes) -> bytes:
    return _joined(kind, parts)


def _joined(kind: bytes, parts: Iterable[bytes]) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body
