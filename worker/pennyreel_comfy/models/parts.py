"""A download that is not complete: its bytes so far, and what they are the beginning of."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error

MIN_FREE_BYTES = 256 * 1024**2
"""What a download leaves free: a disk that is quite full breaks more than a download."""

_READ = 1 << 20

_promised: set[Part] = set()
"""Parts of this process that room was promised to."""
_guard = threading.Lock()


@dataclass(frozen=True)
class Origin:
    """What a part is the beginning of. Another origin makes it worthless."""

    url: str
    """The URL's sha256: it may hold a signature."""
    validator: str = ""
    """A strong ETag, else Last-Modified, for If-Range."""
    total: int | None = None

    @classmethod
    def of(cls, url: str, validator: str = "", total: int | None = None) -> Origin:
        """Make one from the URL itself."""
        return cls(hashlib.sha256(url.encode()).hexdigest(), validator, total)


class Part:
    """The file `NAME.part` and, beside it, `NAME.json` that says what it is of.

    Whoever opens it holds the lock of the download.
    """

    def __init__(self, path: Path, *, deadline: Deadline, cancel: CancelToken) -> None:
        """Open what is there, or begin anew. `hashed` has to be called before `add`."""
        self.path = path
        self._note = path.with_suffix(".json")
        self._deadline, self._cancel = deadline, cancel
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        self._file = path.open("r+b")
        self._digest = hashlib.sha256()
        self.size = 0
        self.total = 0
        """Bytes that it will have, as far as room was promised to it."""
        self.disk = os.fstat(self._file.fileno()).st_dev

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        with _guard:
            _promised.discard(self)
        self._file.close()

    def promise(self, total: int, room: Callable[[int], None]) -> None:
        """See to it that there is room for all of it, and for what other downloads still write.

        Args:
            total: bytes that it will have.
            room: told how many bytes are to come; makes room for them, or raises.

        Raises:
            JobFailed: `disk_full`.

        """
        with _guard:  # two that look at the same time would be promised the same room
            others = [p for p in _promised if p is not self and p.disk == self.disk]
            needed = total - self.size + sum(max(0, p.total - p.size) for p in others)
            room(needed)
            check_room(self.path.parent, needed)
            self.total = total
            _promised.add(self)

    @property
    def sha256(self) -> str:
        """Of the bytes so far."""
        return self._digest.hexdigest()

    def origin(self) -> Origin | None:
        """Return what the bytes on disk are the beginning of, where that is known."""
        try:
            data = json.loads(self._note.read_text(encoding="utf-8"))
            return Origin(str(data["url"]), str(data["validator"]), data["total"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def hashed(self) -> int:
        """Read what is there, so that the sum goes on from it; return its bytes."""
        self._digest, self.size = hashlib.sha256(), 0
        self._file.seek(0)
        while chunk := self._file.read(_READ):
            self._check()
            self._digest.update(chunk)
            self.size += len(chunk)
        return self.size

    def begin(self, origin: Origin) -> None:
        """Throw away what is there; what is added from now on is the beginning of `origin`."""
        self._file.seek(0)
        self._file.truncate()
        self._digest, self.size = hashlib.sha256(), 0
        # After the bytes are gone, never before: a note must not vouch for other bytes.
        self._write_note(origin)

    def add(self, chunk: bytes) -> None:
        """Append.

        Raises:
            JobFailed: `disk_full`.

        """
        try:
            self._file.write(chunk)
        except OSError as problem:
            raise disk_error(problem, self.path) from None
        self._digest.update(chunk)
        self.size += len(chunk)

    def finish(self) -> None:
        """See to it that the bytes outlive a loss of power."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as problem:
            raise disk_error(problem, self.path) from None

    def drop(self) -> None:
        """Remove it; the object is of no use after that."""
        self._file.close()
        remove(self.path)

    def move(self, target: Path) -> None:
        """Give the complete file its name, in one step."""
        self._file.close()
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.path.replace(target)
        except OSError as problem:
            if problem.errno != errno.EXDEV:
                raise
            _carry(self.path, target)
        sync_folder(target.parent)
        self._note.unlink(missing_ok=True)

    def _write_note(self, origin: Origin) -> None:
        try:
            write_atomic(self._note, json.dumps(asdict(origin)))
        except OSError as problem:
            raise disk_error(problem, self.path) from None

    def _check(self) -> None:
        self._cancel.check()
        if self._deadline.expired:
            raise self._deadline.error("reading what was downloaded before")


def _carry(part: Path, target: Path) -> None:
    """Bring a file across a mount, which no rename does, and only then give it its name."""
    opened, name = tempfile.mkstemp(prefix=".pennyreel-", suffix=".new", dir=target.parent)
    os.close(opened)
    fresh = Path(name)
    try:
        shutil.copy(part, fresh)
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        fresh.replace(target)
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    part.unlink()


def remove(part: Path) -> int:
    """Remove a part and its note; return how many bytes that freed."""
    size = 0
    with contextlib.suppress(OSError):
        size = part.stat().st_size
    for path in (part, part.with_suffix(".json")):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return size


def check_room(folder: Path, needed: int) -> None:
    """Refuse to begin what this disk has no room for.

    Raises:
        JobFailed: `disk_full`.

    """
    free = shutil.disk_usage(folder).free - MIN_FREE_BYTES
    if needed > free:
        raise error(
            Code.DISK_FULL,
            f"{needed} bytes are to come, and the disk has room for {max(0, free)}",
            detail={"needed_bytes": needed, "free_bytes": max(0, free)},
        )


def disk_error(problem: OSError, path: Path) -> PennyreelError:
    """Return our error for a disk that would not take something."""
    full = problem.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    why = "the disk is full" if full else problem.strerror or type(problem).__name__
    return error(Code.DISK_FULL, f"{path.name} cannot be written: {why}")


def write_atomic(path: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def sync_folder(folder: Path) -> None:
    """See to it that a rename outlives a loss of power, where the system can."""
    with contextlib.suppress(OSError):  # Windows opens no folder
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
