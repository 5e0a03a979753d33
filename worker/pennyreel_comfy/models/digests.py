"""Checksums of files that were read once: remembered by path, size and time of change."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from pennyreel_comfy.models.lock import locked
from pennyreel_comfy.models.parts import write_atomic
from pennyreel_comfy.models.roots import Root
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import PennyreelError

STATE = ".pennyreel"
"""The folder in a root for what is ours and no model: parts, locks, checksums."""

_FILE = "digests.json"
_SHA256 = re.compile("[0-9a-f]{64}")


def sha256_of(path: Path, *, deadline: Deadline, cancel: CancelToken) -> str:
    """Read a file and return its sha256 in hex.

    Raises:
        JobTimeout, JobCancelled: as named.
        OSError: the disk.

    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            cancel.check()
            if deadline.expired:
                raise deadline.error(f"reading {path.name}")
            digest.update(chunk)
    return digest.hexdigest()


class Digests:
    """What is known of the files in some roots.

    Each root has a file of its own, which travels with it (an image's layers keep seconds only, so
    that seconds it is). Where a root cannot be written to, `fallback` remembers.
    """

    def __init__(self, fallback: Path | None = None) -> None:
        """Read nothing yet."""
        self._fallback = fallback

    def known(self, root: Root, path: Path) -> str | None:
        """Return the sha256 of a file that has not changed since it was read."""
        if root.kind == "cached":
            # Hugging Face's cache links to blobs, and calls the large ones by their sha256.
            blob = path.resolve().name
            if _SHA256.fullmatch(blob):
                return blob
        for file, key in self._places(root, path):
            found = _read(file).get(key)
            if isinstance(found, list) and len(found) == 3 and found[:2] == _stamp(path):
                return str(found[2])
        return None

    def remember(self, root: Root, path: Path, sha256: str) -> None:
        """Keep it, where there is a place for it."""
        for file, key in self._places(root, path):
            with contextlib.suppress(OSError, PennyreelError):
                _put(file, key, [*_stamp(path), sha256])
                return

    def of(self, root: Root, path: Path, *, deadline: Deadline, cancel: CancelToken) -> str:
        """Return a file's sha256, read where that is not known. Raises as `sha256_of`."""
        known = self.known(root, path)
        if known is None:
            known = sha256_of(path, deadline=deadline, cancel=cancel)
            self.remember(root, path, known)
        return known

    def _places(self, root: Root, path: Path) -> list[tuple[Path, str]]:
        """Return where it may be written down, and by which name."""
        places = []
        if root.kind == "models":
            places.append((root.path / STATE / _FILE, path.relative_to(root.path).as_posix()))
        if self._fallback is not None:
            places.append((self._fallback / STATE / _FILE, str(path)))
        return places


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, int(found.st_mtime)]


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}


def _put(file: Path, key: str, value: list[Any]) -> None:
    with locked(
        file.with_suffix(".lock"),
        deadline=Deadline(5),
        cancel=CancelToken(),
        doing="remembering a checksum",
    ):
        write_atomic(file, json.dumps({**_read(file), key: value}, indent=1, sort_keys=True))
