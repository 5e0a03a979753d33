"""The record of what jobs had downloaded: which files, from where, last used when, in use by whom.

One JSON file, changed under one lock, whole or not at all. A lease is a lock that lasts as long as
the process that holds it, so that a killed worker's files do not stay in use for ever.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pennyreel_comfy.models.lock import locked, tried
from pennyreel_comfy.models.parts import disk_error, write_atomic
from pennyreel_comfy.waiting import CancelToken, Deadline

_WAIT_S = 30.0
"""For the record's lock, which is held for moments."""


class Stored(BaseModel):
    """A file that a job had downloaded."""

    model_config = ConfigDict(extra="ignore")

    sha256: str
    bytes: int
    used: float
    """When it was used last, in seconds since 1970."""


class Seen(BaseModel):
    """What a URL without a checksum led to."""

    model_config = ConfigDict(extra="ignore")

    file: str
    validator: str = ""
    checked: float = 0.0


class Record(BaseModel):
    """Files by their path below the root; URLs by their own sha256."""

    model_config = ConfigDict(extra="ignore")

    files: dict[str, Stored] = Field(default_factory=dict)
    urls: dict[str, Seen] = Field(default_factory=dict)

    @property
    def total(self) -> int:
        """The bytes of all files."""
        return sum(stored.bytes for stored in self.files.values())


class Records:
    """The record of one root."""

    def __init__(self, state: Path, clock: Callable[[], float] = time.time) -> None:
        """Keep the path; nothing is read."""
        self._state, self.clock = state, clock
        self._own: set[str] = set()
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def open(self) -> Iterator[Record]:
        """Hold the record, and write it when the block ends well."""
        with locked(
            self._state / "record.lock",
            deadline=Deadline(_WAIT_S),
            cancel=CancelToken(),
            doing="waiting for the record of models",
        ):
            record = self._read()
            before = record.model_dump_json()
            yield record
            after = record.model_dump_json()
            if after != before:
                try:
                    write_atomic(self._file, after)
                except OSError as problem:
                    raise disk_error(problem, self._file) from None

    def lease(self) -> Lease:
        """Begin a lease on no files yet."""
        folder = self._state / "leases"
        folder.mkdir(parents=True, exist_ok=True)
        name = uuid.uuid4().hex
        lock = FileLock(folder / f"{name}.lock", thread_local=False)
        with self.open():  # whoever looks for leases of the dead holds this, too
            lock.acquire(timeout=0)
            with self._guard:
                self._own.add(name)
        return Lease(self, folder / f"{name}.json", lock)

    def in_use(self) -> set[str]:
        """Return the files that somebody living uses. Call it while the record is open."""
        used: set[str] = set()
        for path in (self._state / "leases").glob("*.lock"):
            with self._guard:
                own = path.stem in self._own
            if own:  # a second hold of the same lock is not everywhere refused
                used.update(_leased(path.with_suffix(".json")))
                continue
            with tried(path) as ended:
                if not ended:
                    used.update(_leased(path.with_suffix(".json")))
                    continue
                for left in (path.with_suffix(".json"), path):
                    left.unlink(missing_ok=True)
        return used

    def ended(self, name: str) -> None:
        """Forget a lease of this process."""
        with self._guard:
            self._own.discard(name)

    @property
    def _file(self) -> Path:
        return self._state / "record.json"

    def _read(self) -> Record:
        try:
            return Record.model_validate_json(self._file.read_bytes())
        except (OSError, ValidationError):
            return Record()


class Lease:
    """Keeps a job's files from being removed until `release`."""

    def __init__(self, records: Records, path: Path, lock: FileLock) -> None:
        self._records, self._path, self._lock = records, path, lock
        self._files: set[str] = set()

    def add(self, file: str) -> None:
        """Use this file, too. Call it while the record is open."""
        self._files.add(file)
        write_atomic(self._path, json.dumps(sorted(self._files)))

    def release(self) -> None:
        """Give all of them back; a second call does nothing."""
        if not self._lock.is_locked:
            return
        for left in (self._path, Path(self._lock.lock_file)):
            with contextlib.suppress(OSError):
                left.unlink(missing_ok=True)
        self._lock.release()
        self._records.ended(self._path.stem)


def _leased(path: Path) -> set[str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return set()
    return {str(name) for name in found} if isinstance(found, list) else set()
