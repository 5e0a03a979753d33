"""Where a job's input files come from: a path, bytes, a URL, or s3://."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeAlias
from urllib.parse import unquote, urlsplit

from pennyreel.config import well_formed
from pennyreel.errors import Code, error
from pennyreel.saving import safe_name

Given: TypeAlias = "str | os.PathLike[str] | bytes | tuple[str, bytes]"
"""What a caller may pass: a path, a URL, s3://bucket/key, bytes, or (name, bytes)."""

# First bytes, so that bytes without a name get an ending that ComfyUI's loaders accept.
_MAGIC = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8\xff", ".jpg"),
    (b"GIF8", ".gif"),
    (b"\x1aE\xdf\xa3", ".webm"),
    (b"OggS", ".ogg"),
    (b"fLaC", ".flac"),
    (b"ID3", ".mp3"),
)


@dataclass(frozen=True)
class Source:
    """One input file: its name in the graph, and exactly one of path, data, url and s3."""

    name: str
    path: Path | None = None
    data: bytes | None = field(default=None, repr=False)
    url: str | None = field(default=None, repr=False)
    s3: str | None = None

    @property
    def size(self) -> int | None:
        """Bytes, where known without fetching."""
        if self.path is not None:
            return self.path.stat().st_size
        return None if self.data is None else len(self.data)

    @property
    def local(self) -> bool:
        """Whether its content is on this machine."""
        return self.path is not None or self.data is not None

    def open(self) -> BinaryIO:
        """Return the content of a local source."""
        if self.data is not None:
            return io.BytesIO(self.data)
        if self.path is None:
            raise RuntimeError("only local sources can be opened")
        try:
            return self.path.open("rb")
        except OSError as problem:
            raise error(Code.BAD_INPUT, f"{self.path} cannot be read: {problem.strerror}") from None

    def digest(self) -> str:
        """Name what it is, for a request's digest: nothing of the content, no signatures."""
        where = self.url or self.s3 or str(self.path or "data")
        return hashlib.sha256(f"{self.name} {where} {self.size}".encode()).hexdigest()


def source(given: Given, *, fallback: str) -> Source:
    """Read what a caller passed.

    Args:
        given: see `Given`.
        fallback: the name, without an ending, of bytes that have none.

    Raises:
        BadRequest: `bad_input`, there is no such file.

    """
    if isinstance(given, tuple):
        return Source(safe_name(given[0]), data=bytes(given[1]))
    fallback = safe_name(fallback)
    if isinstance(given, (bytes, bytearray)):
        return Source(fallback + _ending(bytes(given)), data=bytes(given))
    text = os.fspath(given)
    scheme = text.partition("://")[0].lower() if "://" in text else ""
    if scheme in {"http", "https"}:
        if not well_formed(text):
            raise error(Code.BAD_INPUT, f"{fallback}: that is no http(s) URL")
        return Source(_url_name(text, fallback), url=text)
    if scheme == "s3":
        if not well_formed(text, ["s3"]) or not urlsplit(text).path.strip("/"):
            raise error(Code.BAD_INPUT, f"{fallback}: that is not like s3://bucket/key")
        return Source(_url_name(text, fallback), s3=text)
    if scheme:
        raise error(Code.BAD_INPUT, f"inputs are paths, http(s) or s3 URLs, not {scheme[:20]}://")
    path = Path(text).expanduser()
    if not path.is_file():
        raise error(Code.BAD_INPUT, f"there is no file {text}")
    return Source(safe_name(path.name), path=path.absolute())


def unique(found: list[Source]) -> list[Source]:
    """Give different sources of the same name a number; equal ones keep one name."""
    taken: dict[str, Source] = {}
    named = []
    for one in found:
        name, number = one.name, 1
        while taken.setdefault(name.casefold(), one) is not one and not _same(
            taken[name.casefold()], one
        ):
            number += 1
            pure = PurePosixPath(one.name)
            name = f"{pure.stem}-{number}{pure.suffix}"
        named.append(Source(name, one.path, one.data, one.url, one.s3))
    return named


def _same(one: Source, other: Source) -> bool:
    return (one.path, one.data, one.url, one.s3) == (other.path, other.data, other.url, other.s3)


def _url_name(url: str, fallback: str) -> str:
    last = unquote(PurePosixPath(urlsplit(url).path).name)
    return safe_name(last) if last.strip(" ./\\") else fallback


def _ending(data: bytes) -> str:
    if data[4:8] == b"ftyp":
        return ".mp4"
    if data[:4] == b"RIFF":
        return {b"WEBP": ".webp", b"WAVE": ".wav"}.get(data[8:12], ".bin")
    return next((suffix for magic, suffix in _MAGIC if data.startswith(magic)), ".bin")
