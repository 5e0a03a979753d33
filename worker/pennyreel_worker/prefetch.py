"""Model files read into the system's page cache while ComfyUI starts, so that loading finds them.

A cold disk or network volume gives a model at its own pace, and ComfyUI asks for it only when the
first job runs. Its start takes seconds in which the disk has nothing to do.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pennyreel_comfy import templates
from pennyreel_contract import PennyreelError
from pennyreel_worker.log import log

CHUNK_BYTES = 8 * 1024**2
RESERVE_BYTES = 2 * 1024**3
"""Memory left alone: ComfyUI's own, while it starts."""

STOP_S = 2.0
_NICE = 15
_TEMPLATE = "template:"


@dataclass(frozen=True)
class Wanted:
    """The files that PENNYREEL_PREFETCH names, and the names that no file was found for."""

    files: tuple[Path, ...]
    missing: tuple[str, ...] = ()


def find(names: Iterable[str], roots: Sequence[Path], template_dirs: Iterable[Path] = ()) -> Wanted:
    """Find files by `FOLDER/NAME`, by the name of a folder, or by `template:NAME`.

    `roots` are folders of models, each with ComfyUI's folders in it; the first that has a file is
    taken. A folder stands for all files in it, in all roots.
    """
    found: dict[Path, None] = {}
    missing: list[str] = []
    for name in names:
        parts = _of_template(name, template_dirs) if name.startswith(_TEMPLATE) else [name]
        if not parts:
            missing.append(name)
        for part in parts:
            files = list(_files(part, roots))
            found |= dict.fromkeys(files)
            if not files:
                missing.append(part)
    return Wanted(tuple(found), tuple(missing))


class Prefetch:
    """Reads files in a thread of low priority. `bytes` and `seconds` tell what it has done."""

    def __init__(
        self,
        files: Iterable[Path],
        *,
        reserve_bytes: int = RESERVE_BYTES,
        system: Path = Path("/"),
    ) -> None:
        """Nothing is read before `start`. `system`: where /proc and /sys are.

        `files` is gone through in the thread: looking for them may take long on a network volume.
        """
        self.bytes = 0
        self.seconds = 0.0
        self.skipped: list[Path] = []
        """Files that could not be read, or for which there was no memory."""

        self._files = files
        self._reserve = reserve_bytes
        self._system = system
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pennyreel-prefetch", daemon=True)

    def start(self) -> None:
        """Begin, and return at once."""
        self._thread.start()

    def stop(self) -> None:
        """Read no further; returns when the thread has ended, or hangs in a dead volume."""
        self._stop.set()
        self.wait(STOP_S)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for the end; returns whether it has come."""
        if self._thread.ident is not None:
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        began = time.monotonic()
        with contextlib.suppress(OSError, AttributeError):  # of this thread alone, on Linux
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
        buffer = bytearray(CHUNK_BYTES)
        files = self._found()
        for path in files:
            if self._stop.is_set():
                break
            try:
                whole = self._read(path, memoryview(buffer))
            except OSError as problem:
                log.warning("prefetch: %s cannot be read (%s)", path.name, problem.strerror)
                whole = False
            if not whole:
                self.skipped.append(path)
            self.seconds = time.monotonic() - began
        if files:
            self._tell(len(files))

    def _found(self) -> list[Path]:
        try:
            return list(self._files)
        except OSError as problem:  # a volume whose server is gone, say
            log.warning("prefetch: looking for the files failed (%s)", problem.strerror)
            return []

    def _read(self, path: Path, buffer: memoryview) -> bool:
        """Read one file chunk by chunk, the next one asked for ahead; False: not whole."""
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            if size > self._room():
                return False  # half a model in memory would push out what is of use
            _ahead(file.fileno(), 0)
            at = 0
            while at < size:
                if self._stop.is_set() or self._room() < len(buffer):
                    return False
                _ahead(file.fileno(), at + len(buffer))
                read = file.readinto(buffer)
                if not read:
                    break
                at += read
                self.bytes += read
        return True

    def _room(self) -> int:
        """Bytes that may still be read. What was read counts as available to the system."""
        return min(available(self._system) - self.bytes, unclaimed(self._system)) - self._reserve

    def _tell(self, files: int) -> None:
        log.info(
            "prefetch: %.1f GB of %d files in %.1f s%s",
            self.bytes / 1e9,
            files - len(self.skipped),
            self.seconds,
            f"; left out: {', '.join(p.name for p in self.skipped)}" if self.skipped else "",
            extra={
                "event": "prefetch",
                "bytes": self.bytes,
                "seconds": round(self.seconds, 3),
                "skipped": len(self.skipped),
            },
        )


_NO_LIMIT = 1 << 62


def available(system: Path = Path("/")) -> int:
    """Bytes that programs could still have, page cache included (MemAvailable); 0: unknown."""
    try:
        lines = (system / "proc/meminfo").read_text("utf-8").splitlines()
        amounts = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
        return int(amounts["MemAvailable"][0]) * 1024
    except (OSError, ValueError, LookupError):
        return 0


def unclaimed(system: Path = Path("/")) -> int:
    """Bytes left of the container's own limit, by cgroup 2 or 1; much where it has none."""
    for limit, used in (
        ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory.current"),
        (
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            most = int((system / limit).read_text("ascii"))
            return most - int((system / used).read_text("ascii"))
    return _NO_LIMIT


def _ahead(file: int, at: int) -> None:
    if hasattr(os, "posix_fadvise"):  # Linux; a hint, so what it says of failures is no matter
        with contextlib.suppress(OSError):
            os.posix_fadvise(file, at, CHUNK_BYTES, os.POSIX_FADV_WILLNEED)


def _of_template(name: str, template_dirs: Iterable[Path]) -> list[str]:
    try:
        models = templates.load(name[len(_TEMPLATE) :], template_dirs).models
    except PennyreelError as problem:
        log.warning("prefetch: %s", problem)
        return []
    return [f"{model.folder}/{model.name}" for model in models]


def _files(name: str, roots: Sequence[Path]) -> Iterator[Path]:
    """Yield the file of that name, else all files in the folders of that name, largest first."""
    if ".." in Path(name).parts:
        return
    places = [root / name for root in roots]
    if (file := next((p for p in places if p.is_file()), None)) is not None:
        yield file.resolve()
        return
    inside: dict[Path, Path] = {}
    for place in places:
        for path in place.rglob("*") if place.is_dir() else ():
            if path.is_file():  # of two with one name, ComfyUI takes the first root's
                inside.setdefault(path.relative_to(place), path.resolve())
    yield from sorted(inside.values(), key=lambda p: (-p.stat().st_size, p.name))
