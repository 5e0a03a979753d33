"""Removing an installation, whatever state it is in."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from pennyreel_comfy.install.layout import Layout
from pennyreel_comfy.install.state import exclusive, foreign_entries
from pennyreel_contract.errors import Code, error

# The last to go, in this order: a removal that is interrupted can be run again.
_LAST = (".lock", ".pennyreel-comfyui")


@dataclass(frozen=True)
class UserFiles:
    """What a user would lose: files in ComfyUI's models, outputs, inputs and user folders."""

    count: int
    size: int
    """In bytes."""


def user_files(root: Path) -> UserFiles:
    """Count the files that `uninstall` would remove and no reinstallation brings back."""
    comfy = Layout(Path(root).absolute()).comfy
    count = size = 0
    for name in ("input", "models", "output", "user"):
        for path in (comfy / name).rglob("*"):
            # The tree itself comes with empty placeholders, small configurations and an example.
            if path.is_file() and not path.is_symlink() and not _comes_along(comfy, path):
                count += 1
                size += path.stat().st_size
    return UserFiles(count, size)


def uninstall(root: Path) -> bool:
    """Remove the installation in `root`, complete or not, and the folder itself.

    Returns False where there is none. Refuses a folder that we did not make, one that holds
    something that is not ours, and one in which an installer is at work.
    """
    layout = Layout(Path(root).absolute())
    if not layout.root.exists():
        return False
    if layout.root.is_dir() and not any(layout.root.iterdir()):
        # An installation killed in its first moment, or a removal killed in its last.
        layout.root.rmdir()
        return True
    if not layout.marker.exists():
        raise error(
            Code.INSTALL_FAILED,
            f"{layout.root} was not made by this installer; nothing was removed.",
            hint="Remove it yourself if it is what you mean.",
            retryable=False,
        )
    foreign = foreign_entries(layout)
    if foreign:
        raise error(
            Code.INSTALL_FAILED,
            f"{layout.root} holds what this installer did not put there: {', '.join(foreign)}. "
            "Nothing was removed.",
            hint="Move these files elsewhere and run this again.",
            retryable=False,
        )
    try:
        _remove(layout)
    except OSError as problem:
        raise error(
            Code.INSTALL_FAILED,
            f"{layout.root} could not be removed: {problem}",
            hint="Stop the ComfyUI that runs from it, and run this again.",
        ) from problem
    return True


def _remove(layout: Layout) -> None:
    with exclusive(layout):
        # First of all: from here on nobody takes this for a complete installation.
        layout.manifest.unlink(missing_ok=True)
        layout.state.unlink(missing_ok=True)
        for entry in layout.root.iterdir():
            if entry.name in _LAST:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                entry.unlink()
    for name in _LAST:
        (layout.root / name).unlink(missing_ok=True)
    layout.root.rmdir()


def _comes_along(comfy: Path, path: Path) -> bool:
    relative = path.relative_to(comfy).as_posix()
    return (
        path.stat().st_size == 0
        or relative == "input/example.png"
        or relative.startswith("models/configs/")
    )
