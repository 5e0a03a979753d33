"""What a simulated server knows of its jobs: in memory, or in a folder that processes share."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Record:
    """One job that was taken. Times are the clock's seconds."""

    attempt_id: str
    submitted_at: float
    kind: str = "video"
    size: float = 1.0
    """Its work, as a multiple of the usual."""
    timeout_s: float | None = None
    """The server ends it then."""
    cancelled_at: float | None = None
    seed: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Jobs(Protocol):
    """The jobs by attempt id."""

    def get(self, attempt_id: str) -> Record | None:
        """Return the job, or None."""

    def add(self, record: Record) -> Record:
        """Keep a job, unless it is there; return the one that is kept."""

    def update(self, record: Record) -> None:
        """Replace a job."""


class Memory:
    """Jobs of this process."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self._lock = threading.Lock()

    def get(self, attempt_id: str) -> Record | None:
        """See `Jobs`."""
        return self.records.get(attempt_id)

    def add(self, record: Record) -> Record:
        """See `Jobs`."""
        with self._lock:
            return self.records.setdefault(record.attempt_id, record)

    def update(self, record: Record) -> None:
        """See `Jobs`."""
        self.records[record.attempt_id] = record


class Folder:
    """Jobs of all processes that name this folder: one small file each, written whole."""

    def __init__(self, folder: Path) -> None:
        """Keep the path; it is made with the first job."""
        self._folder = folder

    def get(self, attempt_id: str) -> Record | None:
        """See `Jobs`."""
        try:
            return Record(**json.loads(self._path(attempt_id).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def add(self, record: Record) -> Record:
        """See `Jobs`."""
        part = self._write(record)
        try:
            os.link(part, self._path(record.attempt_id))  # fails where it is there
        except FileExistsError:
            return self.get(record.attempt_id) or record
        finally:
            with suppress(OSError):
                part.unlink()
        return record

    def update(self, record: Record) -> None:
        """See `Jobs`."""
        self._write(record).replace(self._path(record.attempt_id))

    def _path(self, attempt_id: str) -> Path:
        name = hashlib.sha256(attempt_id.encode("utf-8", "replace")).hexdigest()[:32]
        return self._folder / f"{name}.json"

    def _write(self, record: Record) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".{secrets.token_hex(8)}.part"
        part.write_text(json.dumps(asdict(record)), encoding="utf-8")
        return part
