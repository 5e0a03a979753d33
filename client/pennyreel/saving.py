"""Puts a job's files into a folder: whole or not at all, and never over another file."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from typing_extensions import Self

from pennyreel.errors import Code, PennyreelError, error

MAX_NAME = 180
_ODD = re.compile(r'[\x00-\x1f\x7f<>:"/\\|?*\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]')
# Names that Windows gives to devices, whatever follows the first dot.
_DEVICE = re.compile(r"^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)$", re.IGNORECASE)


def safe_name(name: str) -> str:
    """Return a plain file name that is harmless on every system, whoever invented `name`."""
    last = re.split(r"[/\\]", name.encode("utf-8", "replace").decode())[-1]
    kept = _ODD.sub("_", last).strip(" .")
    stem, dot, suffix = kept.rpartition(".")
    if not dot or len(suffix) > 20:
        stem, suffix = kept, ""
    if _DEVICE.match(kept.split(".", 1)[0].strip()):
        stem = f"_{stem}"
    room = MAX_NAME - len(suffix.encode()) - 1
    stem = stem.encode()[:room].decode(errors="ignore") or "output"
    return f"{stem}.{suffix}" if suffix else stem


class PartFile:
    """A file in the making, beside its final place; `commit` gives it its name.

    Used as a context: left without `commit`, by an error or by Ctrl-C, nothing stays behind.
    `write` calls `check` first, so that a cancelled job stops in mid-file.
    """

    def __init__(
        self, folder: Path, name: str, *, check: Callable[[], None] = lambda: None
    ) -> None:
        """Prepare; the file appears with `__enter__`."""
        self.name = safe_name(name)
        self._folder = folder
        self._check = check
        self._part = folder / f".pennyreel-{secrets.token_hex(6)}.part"
        self._file: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self.size = 0

    def __enter__(self) -> Self:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._file = self._part.open("xb")
        except OSError as problem:
            raise _disk(self._folder, problem) from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk: what fails here has failed before
                self._file.close()
        with suppress(OSError):
            self._part.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """Of what was written so far, in hex."""
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        """Append."""
        self._check()
        try:
            self._open.write(data)
        except OSError as problem:
            raise _disk(self._folder, problem) from None
        self._digest.update(data)
        self.size += len(data)

    def restart(self) -> None:
        """Forget what was written: the transfer begins anew."""
        self._open.seek(0)
        self._open.truncate()
        self._digest = hashlib.sha256()
        self.size = 0

    def commit(self, *, sha256: str = "", size: int | None = None) -> Path:
        """Check the content where it is known, and give the file a name that nobody has.

        Raises:
            JobFailed: `storage_failed`; what arrived is not what was made.

        """
        if sha256 and sha256 != self.sha256:
            raise error(
                Code.STORAGE_FAILED,
                f"{self.name} arrived damaged: its sha256 is not the one the worker told",
                hint="Fetch the result again by its handle.",
            )
        if size is not None and size != self.size:
            raise error(
                Code.STORAGE_FAILED, f"{self.name} arrived with {self.size} of {size} bytes"
            )
        try:
            self._open.flush()
            os.fsync(self._open.fileno())
            self._open.close()
            return self._place()
        except OSError as problem:
            raise _disk(self._folder, problem) from None

    @property
    def _open(self) -> BinaryIO:
        if self._file is None:
            raise RuntimeError("use PartFile as a context")
        return self._file

    def _place(self) -> Path:
        stem, dot, suffix = self.name.rpartition(".")
        stem, ending = (stem, f".{suffix}") if dot else (self.name, "")
        number = 0
        while True:
            name = f"{stem}-{number}{ending}" if number else self.name
            final = self._folder / name
            number += 1
            if _claim(self._part, final):
                return final.absolute()


def _claim(part: Path, final: Path) -> bool:
    """Move `part` to `final` unless something is there: in one step, whoever else tries."""
    try:
        os.link(part, final)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links
        try:
            final.open("xb").close()
        except FileExistsError:
            return False
        part.replace(final)
        return True
    part.unlink()
    return True


def _disk(folder: Path, problem: OSError) -> PennyreelError:
    return error(
        Code.STORAGE_FAILED,
        f"cannot save into {folder}: {problem.strerror or type(problem).__name__}",
        hint="Name another folder, or free some space.",
    )
