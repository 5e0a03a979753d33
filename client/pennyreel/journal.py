"""What was sent where, on disk before it is sent: one small JSON file for each job.

A file's state goes intent -> submitted -> done | failed | cancelled | timeout | unknown. It holds
no inputs, no graph and no secret. A process that dies between intent and submitted leaves the
attempt's id, by which ComfyUI and our worker know the job.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from pennyreel.errors import Code, error

_SAFE = re.compile(r"^[A-Za-z0-9_-]{1,64}$")


@dataclass(frozen=True)
class Entry:
    """One job, as far as this machine knows it."""

    job_id: str
    attempt_id: str
    backend: str
    target: str
    request_sha256: str
    created: str
    state: str = "intent"
    handle: str | None = None
    code: str | None = None
    updated: str | None = None


class Journal:
    """The folder of entries. Writes are atomic; readers see a whole entry or none."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder; it is made with the first entry."""
        self.folder = folder

    def intend(
        self, job_id: str, *, attempt_id: str, backend: str, target: str, request_sha256: str
    ) -> Entry:
        """Write down that a job is about to be sent. It is on disk when this returns.

        Raises:
            SetupNeeded: it cannot be written; the job must not be sent.

        """
        entry = Entry(job_id, attempt_id, backend, target, request_sha256, created=_now())
        try:
            self._write(entry)
        except OSError as problem:
            raise error(
                Code.NOT_CONFIGURED,
                f"the job cannot be recorded in {self.folder} ({problem.strerror}), so it was not "
                "sent",
                hint="Free some space there, or name another folder in PENNYREEL_HOME.",
            ) from None
        return entry

    def update(
        self, entry: Entry, *, state: str, handle: str | None = None, code: str | None = None
    ) -> Entry:
        """Write down what has become of it; raises OSError where that cannot be written."""
        changed = replace(
            entry, state=state, handle=handle or entry.handle, code=code, updated=_now()
        )
        self._write(changed)
        return changed

    def get(self, job_id: str) -> Entry | None:
        """Return a job's entry, or None where there is none that can be read."""
        if not _SAFE.match(job_id):
            return None
        return _read(self.folder / f"{job_id}.json")

    def entries(self) -> list[Entry]:
        """Every entry that can be read, oldest first."""
        found = [_read(path) for path in self.folder.glob("*.json")]
        return sorted((e for e in found if e is not None), key=lambda e: e.created)

    def _write(self, entry: Entry) -> None:
        final = self.folder / f"{entry.job_id}.json"
        temporary = final.with_suffix(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(asdict(entry), file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(final)
            _sync_folder(self.folder)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


def _read(path: Path) -> Entry | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        known = {k: v for k, v in data.items() if k in Entry.__dataclass_fields__}
        return Entry(**known)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, on systems that can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
