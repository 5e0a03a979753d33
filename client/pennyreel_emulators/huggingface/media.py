"""Small files that real players open: what the emulated models make."""

from __future__ import annotations

import base64
import struct
import zlib

# A white bar moves to the right: H.264, 64x64, 8 frames, one second.
_MP4 = zlib.decompress(
    base64.b64decode(
        "eNp9VV1sFFUUvrutdFHQrWlMiQVubRGN7O7M7rLWpmParOiGFORFTIxmvDP37s5k568zd/9QtA0IPBhJIEJsAgnx"
        "wZCQKA/+RY0/aQzRN160hsT6E4QHJREf8EHWc2e3dFuxN3PvPfec73znnHvvzCCEcJE3PDNwbYSiSMzQ06Sqy7aX"
        "lRFCsaLPGEJdb9qUcMCcWXNHs3nq0o6rn12eL3x4Ytv3eH7oj2v1dC6LE1h3fYbl3HYQC0lQpXbt2fFUIosn9ubB"
        "RpkOhrzrNSxW5DgtSZlEWkoLtMG5N5pK1Wq1ZNWkzLWIk3T9UkrwJg1uW4BxPW66TjCKdaIRXZGxz4qKnMOUaZar"
        "lxV5VBqVMHGI1QiYItUzo1JdzmSwzZSKbeCgooEkS9gLGuAMo+pTRU5K4AUDts06o2rICS6qT5wSU9JZrBu+axNV"
        "+GLuM8syAyWNR+ojVOeg0qdsRYIcCN3nOuAgb5NlXCQBV72gbHoC0SKY8lS3WAwYVxJpzA0fPAKwWq5bJgYs1CVd"
        "YJk6W1JI2PHDGLppEy7yMB3OfIsACPSaVfFJQ9Vd2yMc1jpsEveJ6QAFAH0iMEWf2CxQRrCmeg2QTQpFaCqhxOOh"
        "pJlERKKmz6CuDK4xs2RwDYK5HnPUkuuBtaX0wKHMGsCtpLdLbVG1TQfoA505TK9wJSvhMLjYUZ8FBnj7unqrWiUn"
        "1oruF7GtwbaKqmABbkkJT4laFCkJmClP8IYzqSu5x0AIOPOULDY9OCO4EXCEEItMwfmLw0TTcGkfZkdmUE/z5jdP"
        "z+y8lP3r+keb49e37nz35l0nh2p/f3z8nlcnT+IfXux+WyMA3jIxG5scisytO1JrpnRd+/md5i+/jhzcvfvQV93o"
        "4lj0nPVb9rvHAbg+cjq+dfDH409+Ozz0yQwoNk3Mxs2xWBzT3uk/1+OxAyj/eeolejiX/VpJlr4AxP0Ts/1nXwZE"
        "Y+0bPYUFL3J3s//ZQ4/s368OvwDmtZHT+LULteb4ly02fPVTwL6SX3Ci965ZwCh+bfD3TT33HY0fvpxpJfDQ3LGN"
        "zaN9G94fhNS7XrddtwoGy64aFC1rXVfCHkHiWWqR5aiV63G0aovC8wEcahnk53k5jNn1XzYRe/U4t407fiuBYUZ5"
        "APMAswK+5CF4423faNKmpjg+bNOVtQuSAnpmLlwkDGr5ixbxcelE7hUfmwJxqMUEJjIPt60IQl/VDkk70xymLdsA"
        "hSvdUca6im/hlhx5K+CaBfL5gAe0A3NGfFH/ZytEvuOQLwr77RErW3+zCeOjwJqPUHRn8ye0oQTzOb/7iQcPijPp"
        "FsP4WOFE73QE9RhX8geOXXjvnxs3hHMfvHDtXR0wFgkDHu74YvhY+AAWCunUi75HX8LGWrp4297fnmNodf2y9QDE"
        "0FfEaPOiLNj2dRQO+uhF8YZD74X+APTN4tVoy72tnHW3g0+CrlUoF7flOZuFs2iDnTcDbpNPPM/q3OWE2bp+W85y"
        "VxBuhF8gWTyfSVIt5tJJGR4p/S/u0agm"
    )
)


def mp4() -> bytes:
    """One second of video."""
    return _MP4


def png(width: int = 64, height: int = 64) -> bytes:
    """A plain picture of that size."""
    row = b"\x00" + bytes((40, 90, 160)) * width
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", head)
        + _chunk(b"IDAT", zlib.compress(row * height))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    whole = kind + data
    return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))
