"""Tiny pictures that say SIMULATED: a PNG and a moving GIF, made of the standard library alone."""

from __future__ import annotations

import struct
import zlib

# Five columns a letter, the top row in the highest of seven bits.
_LETTERS = {
    "S": (0b0110010, 0b1001001, 0b1001001, 0b1001001, 0b0100110),
    "I": (0b0000000, 0b1000001, 0b1111111, 0b1000001, 0b0000000),
    "M": (0b1111111, 0b0100000, 0b0011000, 0b0100000, 0b1111111),
    "U": (0b1111110, 0b0000001, 0b0000001, 0b0000001, 0b1111110),
    "L": (0b1111111, 0b0000001, 0b0000001, 0b0000001, 0b0000001),
    "A": (0b0011111, 0b0100100, 0b1000100, 0b0100100, 0b0011111),
    "T": (0b1000000, 0b1000000, 0b1111111, 0b1000000, 0b1000000),
    "E": (0b1111111, 0b1001001, 0b1001001, 0b1001001, 0b1000001),
    "D": (0b1111111, 0b1000001, 0b1000001, 0b0100010, 0b0011100),
}
WORD = "SIMULATED"
WIDTH, HEIGHT, FRAMES = 192, 108, 6
_SCALE = 3
_TICK = 20  # hundredths of a second a frame
_GROUND, _STRIPE, _INK, _BAR = range(4)
_COLOURS = ((38, 38, 44), (46, 46, 54), (255, 214, 10), (220, 60, 60))


def png() -> bytes:
    """Return a still picture."""
    rows = b"".join(b"\0" + row for row in _raster(0))
    head = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 3, 0, 0, 0)
    palette = bytes(value for colour in _COLOURS for value in colour)
    parts = ((b"IHDR", head), (b"PLTE", palette), (b"tEXt", b"Comment\0" + WORD.encode()))
    body = b"".join(
        _chunk(*part) for part in (*parts, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + body


def gif() -> bytes:
    """Return a film of `FRAMES` frames, in which a bar moves."""
    palette = bytes(value for colour in _COLOURS for value in colour).ljust(128 * 3, b"\0")
    head = b"GIF89a" + struct.pack("<HHBBB", WIDTH, HEIGHT, 0xF6, 0, 0) + palette
    loop = b"\x21\xff\x0bNETSCAPE2.0\x03\x01\0\0\0"
    note = b"\x21\xfe" + bytes([len(WORD)]) + WORD.encode() + b"\0"
    return head + loop + note + b"".join(_frame(n) for n in range(FRAMES)) + b"\x3b"


def _raster(frame: int) -> list[bytes]:
    """Return rows of colour numbers."""
    rows = [
        bytearray(_STRIPE if (x + y) // 12 % 2 else _GROUND for x in range(WIDTH))
        for y in range(HEIGHT)
    ]
    left, top = (WIDTH - len(WORD) * 6 * _SCALE) // 2, (HEIGHT - 7 * _SCALE) // 2
    for place, letter in enumerate(WORD):
        for column, bits in enumerate(_LETTERS[letter]):
            x = left + (place * 6 + column) * _SCALE
            for row in range(7):
                if bits >> (6 - row) & 1:
                    for y in range(top + row * _SCALE, top + (row + 1) * _SCALE):
                        rows[y][x : x + _SCALE] = bytes([_INK]) * _SCALE
    start, end = WIDTH * frame // FRAMES, WIDTH * (frame + 1) // FRAMES
    for y in range(HEIGHT - 8, HEIGHT - 4):
        rows[y][start:end] = bytes([_BAR]) * (end - start)
    return [bytes(row) for row in rows]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _frame(number: int) -> bytes:
    """One frame. Its LZW never grows its codes beyond 8 bits, so that a code is a byte."""
    pixels = b"".join(_raster(number))
    step = 100  # with 126 codes after a clear the next one would need 9 bits
    codes = (
        b"".join(b"\x80" + pixels[at : at + step] for at in range(0, len(pixels), step)) + b"\x81"
    )
    blocks = b"".join(
        bytes([len(block)]) + block
        for block in (codes[at : at + 255] for at in range(0, len(codes), 255))
    )
    control = b"\x21\xf9\x04\x04" + struct.pack("<H", _TICK) + b"\0\0"
    return (
        control + b"\x2c" + struct.pack("<HHHHB", 0, 0, WIDTH, HEIGHT, 0) + b"\x07" + blocks + b"\0"
    )
