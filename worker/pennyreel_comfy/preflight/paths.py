"""Does a text lead out of ComfyUI's own folders? And which inputs take such a text at all?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pennyreel_comfy.preflight.catalogue import InputSpec

_WORDS = frozenset(
    (
        *("path", "paths", "filepath", "filepaths", "dir", "dirs", "directory", "directories"),
        *("folder", "folders", "file", "files", "filename", "filenames", "url", "urls", "uri"),
    )
)
_MEDIA = frozenset(("image", "images", "video", "videos", "audio", "mask", "latent", "gif"))
_ENDS = ("path", "url", "folder", "filename", "directory", "filepath")
_SPLIT = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# What packs strip before they open a file, at once: white space of any kind, what looks like none,
# and quotes.
_STRIPPED = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\ufeff\"'`"
_LONGEST = 200
_PARTS = re.compile(r"[\\/\[\s]+")


def path_like(name: str, spec: InputSpec | None) -> bool:
    """Tell whether an input is named or declared for a path or a URL."""
    if spec is not None and "vhs_path_extensions" in spec.extra:
        return True
    return _named(name)


def media(name: str) -> bool:
    """Tell whether an input is named for a medium: a text there can only be a file's name."""
    return name.lower() in _MEDIA


def _named(name: str) -> bool:
    # Of a name that is longer than any input's nothing is kept: it would be kept for good.
    return _words(name) if len(name) <= _LONGEST else _words.__wrapped__(name)


@lru_cache(maxsize=4096)
def _words(name: str) -> bool:
    words = [word.lower() for word in _SPLIT.split(name)]
    return any(word in _WORDS for word in words) or words[-1].endswith(_ENDS)


def bare(text: str) -> str:
    """Return a text less all that packs strip before they open a file, in whatever order."""
    return text.strip(_STRIPPED)


def unsafe(text: str) -> str | None:
    """Return what is wrong with a text as a path, or None. A path inside a folder is fine."""
    lines = {one: None for line in (text, *text.splitlines()) for one in (line, bare(line))}
    return next(filter(None, map(_wrong, lines)), None)


def _wrong(plain: str) -> str | None:
    if _SCHEME.match(plain):
        return "URLs are refused here"
    if plain.startswith(("/", "\\")) or _DRIVE.match(plain):
        return "absolute paths are refused here"
    if plain.startswith("~"):
        return "paths into home folders are refused here"
    if steps_up(plain):
        return "paths with .. are refused here"
    if "\0" in plain:
        return "a path cannot have a zero byte"
    return None


def steps_up(text: str) -> bool:
    """Tell whether a path has a step to the folder above."""
    return ".." in re.split(r"[\\/]", text)


def other_folder(text: str) -> bool:
    """Tell whether a file's name has ComfyUI's annotation for a folder that jobs share."""
    return bare(text).endswith(("[output]", "[temp]"))


def top(text: str) -> str:
    """Return the first folder or file that a path inside a folder names, or nothing."""
    return next((part for part in _PARTS.split(bare(text)) if part not in ("", ".")), "")


def strings(value: Any) -> Iterator[str]:
    """Yield the texts of a literal, however deep: Load3D takes its files' names in an object."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one
