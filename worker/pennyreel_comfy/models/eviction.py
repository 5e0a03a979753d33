"""The files that jobs had downloaded, under a limit: what was used longest ago goes first."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from pennyreel_comfy.models.digests import STATE
from pennyreel_comfy.models.download import Got
from pennyreel_comfy.models.names import WEIGHT_FOLDERS
from pennyreel_comfy.models.parts import MIN_FREE_BYTES, Part
from pennyreel_comfy.models.records import Lease, Record, Records, Stored
from pennyreel_comfy.models.store import Stale, prune_parts
from pennyreel_contract import Code, error

_OURS = re.compile(r"([0-9a-f]{64})\.[a-z0-9]+")


class Shelf:
    """`ROOT/FOLDER/SHA256.ENDING`, with the record of who uses what."""

    def __init__(self, root: Path, most: int, clock: Callable[[], float]) -> None:
        """Keep the limit in bytes, of all files together."""
        self.root, self._most = root, most
        self.records = Records(root / STATE, clock)

    def take(self, file: str, lease: Lease) -> bool:
        """Use a file, where it is here; return whether."""
        with self.records.open() as record:
            self._adopt(record)
            stored = record.files.get(file)
            if stored is None:
                return False
            stored.used = self.records.clock()
            lease.add(file)
            return True

    def put(self, part: Part, file: str, got: Got, lease: Lease) -> None:
        """Move a complete download to its place, and use it.

        Raises:
            JobFailed: `disk_full`.

        """
        with self.records.open() as record:
            self._adopt(record)
            if file not in record.files:
                self._evict(record, lambda: record.total + got.size > self._most, got.size)
            lease.add(file)
            part.move(self.root / file)
            record.files[file] = Stored(
                sha256=got.sha256, bytes=got.size, used=self.records.clock()
            )

    def names(self) -> frozenset[str]:
        """Return what is here, without the folders: `SHA256.ENDING`."""
        found: set[str] = set()
        with contextlib.suppress(OSError):
            for folder in set(os.listdir(self.root)).intersection(WEIGHT_FOLDERS):  # noqa: PTH208 - each job asks
                found.update(os.listdir(f"{self.root}/{folder}"))  # noqa: PTH208
        return frozenset(filter(_OURS.fullmatch, found))

    def make_room(self, needed: int) -> None:
        """Let go of what is in the way of so many bytes.

        Raises:
            JobFailed: `disk_full`: too much is in use.

        """

        def short() -> bool:
            free = shutil.disk_usage(self.root).free - MIN_FREE_BYTES
            return record.total + needed > self._most or needed > free

        with self.records.open() as record:
            self._adopt(record)
            if short():
                prune_parts(self.root)
            self._evict(record, short, needed)

    def clear(self, *, dry_run: bool = False) -> list[Stale]:
        """Remove every file that no living job uses, and parts; return what went, or would go."""
        with self.records.open() as record:
            self._adopt(record)
            used = self.records.in_use()
            idle = {name: stored for name, stored in record.files.items() if name not in used}
            if not dry_run:
                for name in idle:
                    self._remove(record, name)
        gone = [Stale(self.root / name, stored.bytes) for name, stored in sorted(idle.items())]
        return gone + prune_parts(self.root, dry_run=dry_run)

    def _evict(self, record: Record, short: Callable[[], bool], needed: int) -> None:
        """Remove idle files, the one used longest ago first, as long as it is `short` of room."""
        used = self.records.in_use()
        for name, _ in sorted(record.files.items(), key=lambda item: item[1].used):
            if not short():
                return
            if name not in used:
                self._remove(record, name)
        if record.total + needed > self._most:
            raise error(
                Code.DISK_FULL,
                f"{needed} bytes are needed, and jobs use {record.total} of the {self._most} bytes "
                "that downloaded models may have",
                hint="Try again when they have ended, or raise PENNYREEL_MODEL_DISK_BYTES.",
            )

    def _remove(self, record: Record, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)
        del record.files[name]

    def _adopt(self, record: Record) -> None:
        """Bring the record in line with the disk, which is right: a record may be lost or old."""
        there = {}
        for folder in WEIGHT_FOLDERS:
            for path in (self.root / folder).glob("*"):
                found = _OURS.fullmatch(path.name)
                if found is not None and path.is_file() and not path.is_symlink():
                    there[f"{folder}/{path.name}"] = path.stat()
        for name in [name for name in record.files if name not in there]:
            del record.files[name]
        for name, stat in there.items():
            known = record.files.get(name)
            if known is None or known.bytes != stat.st_size:
                sha256 = Path(name).stem
                record.files[name] = Stored(sha256=sha256, bytes=stat.st_size, used=stat.st_mtime)
        record.urls = {url: seen for url, seen in record.urls.items() if seen.file in record.files}
