"""What is kept on disk between two runs: the marker, the lock, and the stages that are complete."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pennyreel_comfy.install.layout import FORMAT, Layout
from pennyreel_contract.errors import Code, error

# Everything that an installation keeps in its folder. Anything else there is somebody else's.
OURS = frozenset(
    {
        ".lock", ".pennyreel-comfyui", "comfy", "comfy.old", "comfy.partial", "downloads",
        "install.json", "install.json.tmp", "logs", "state.json", "state.json.tmp", "venv", "web",
    }
)  # fmt: skip


def write_atomic(path: Path, text: str) -> None:
    """Write a file so that a reader, or a power cut, sees the old content or the new."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def foreign_entries(layout: Layout) -> list[str]:
    """Return the names in the folder that no installation puts there."""
    return sorted(entry.name for entry in layout.root.iterdir() if entry.name not in OURS)


def claim(layout: Layout) -> None:
    """Make the folder ours, or refuse one that is in use for something else."""
    layout.root.mkdir(parents=True, exist_ok=True)
    if layout.marker.exists():
        return
    # Asked once more after looking: another installer may have claimed the folder meanwhile.
    if any(layout.root.iterdir()) and not layout.marker.exists():
        raise error(
            Code.INSTALL_FAILED,
            f"{layout.root} holds files that this installer did not make.",
            hint="Name a folder that is empty or does not exist yet.",
            retryable=False,
        )
    text = "Made by pennyreel. `pennyreel comfyui uninstall` removes this folder.\n"
    layout.marker.write_text(text, encoding="utf-8")


@contextmanager
def exclusive(layout: Layout) -> Iterator[None]:
    """Hold the folder for one installer; a second one gets a clear error at once."""
    lock = FileLock(layout.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise error(
            Code.INSTALL_FAILED,
            f"Another installer is at work in {layout.root}.",
            hint="Wait until it ends, or stop it, and run this again: it resumes.",
        ) from None
    try:
        yield
    finally:
        lock.release()


class State:
    """Which stages are complete. A stage counts only if its key, its inputs, is still the same."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data: dict[str, Any] = {"format": FORMAT, "done": {}}
        with suppress(OSError, ValueError):
            found = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(found, dict) and found.get("format") == FORMAT:
                if not isinstance(found.get("done"), dict):
                    found["done"] = {}
                self._data = found

    def __getitem__(self, name: str) -> Any:
        return self._data.get(name)

    def put(self, **values: Any) -> None:
        """Store some values."""
        self._data.update(values)
        self._save()

    def is_done(self, stage: str, key: str) -> bool:
        """Say whether a stage was completed with these inputs."""
        record = self._data["done"].get(stage)
        return isinstance(record, dict) and record.get("key") == key

    def finish(self, stage: str, key: str, seconds: float) -> None:
        """Record a stage as complete."""
        self._data["done"][stage] = {"key": key, "seconds": round(seconds, 2)}
        self._save()

    def forget(self, stages: set[str]) -> None:
        """Record stages as not complete."""
        if stages & set(self._data["done"]):
            for stage in stages:
                self._data["done"].pop(stage, None)
            self._save()

    def _save(self) -> None:
        write_atomic(self._path, json.dumps(self._data, indent=1, sort_keys=True) + "\n")
