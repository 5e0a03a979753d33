"""Unpacking and copying trees. An archive can write nowhere but into the folder it is given."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import IO

from pennyreel_contract.errors import Code, PennyreelError, error

MAX_FILES = 50_000
MAX_BYTES = 2 * 1024**3

# Of a ComfyUI folder: what is large, private or made anew. Custom nodes are code, and come along.
_LEFT_OUT_AT_TOP = frozenset(
    {".git", ".venv", "env", "input", "models", "output", "python_embeded", "temp", "user", "venv"}
)
_LEFT_OUT_ANYWHERE = frozenset({".git", "__pycache__", ".mypy_cache", ".ruff_cache"})


def unpack_wheel_folder(wheel: Path, folder: str, target: Path) -> None:
    """Unpack one folder of a wheel (a zip) to `target`."""
    with zipfile.ZipFile(wheel) as archive:
        _unpack_zip(archive, wheel, f"{folder.strip('/')}/", target)


def unpack_zip(path: Path, target: Path) -> None:
    """Unpack a zip to `target`, less the one folder that holds all of it, if there is one."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        first = names[0].partition("/")[0] + "/" if names else ""
        prefix = first if all(name.startswith(first) for name in names) else ""
        _unpack_zip(archive, path, prefix, target)


def _unpack_zip(archive: zipfile.ZipFile, path: Path, prefix: str, target: Path) -> None:
    budget = _Budget(path)
    for info in archive.infolist():
        if not info.filename.startswith(prefix) or info.filename == prefix:
            continue
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _unsafe(path, info.filename)
        place = _inside(target, info.filename[len(prefix) :], path)
        if info.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            budget.spend(info.file_size)
            with archive.open(info) as source:
                _write(source, place)


def unpack_release(tarball: Path, target: Path) -> None:
    """Unpack a release's tar.gz to `target`, less the one folder that holds everything in it."""
    with tarfile.open(tarball, "r:gz") as archive:
        budget = _Budget(tarball)
        for member in archive:
            _, _, name = member.name.partition("/")
            if not (member.isfile() or member.isdir()):
                raise _unsafe(tarball, member.name)
            if not name:
                continue
            place = _inside(target, name, tarball)
            if member.isdir():
                place.mkdir(parents=True, exist_ok=True)
                continue
            budget.spend(member.size)
            source = archive.extractfile(member)
            if source is not None:
                with source:
                    _write(source, place)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a ComfyUI folder, less models, inputs, outputs, environments and histories."""

    def left_out(folder: str, names: list[str]) -> Iterable[str]:
        unwanted = _LEFT_OUT_ANYWHERE
        if Path(folder) == source:
            unwanted = unwanted | _LEFT_OUT_AT_TOP
        return [name for name in names if name in unwanted]

    # Links are followed: nodes under development are often linked into custom_nodes.
    shutil.copytree(
        source, target, ignore=left_out, ignore_dangling_symlinks=True, dirs_exist_ok=True
    )


def carry_over(old: Path, new: Path) -> None:
    """Move what users put into the old tree (models, custom nodes, …) to the new one.

    Files of the new tree win. Interrupted, it can be run again.
    """
    for name in ("custom_nodes", "input", "models", "output", "user"):
        if (old / name).exists() or (old / name).is_symlink():
            _merge(old / name, new / name)


def _merge(old: Path, new: Path) -> None:
    if not os.path.lexists(new):
        new.parent.mkdir(parents=True, exist_ok=True)
        old.rename(new)
    elif old.is_symlink() and _only_placeholders(new):
        shutil.rmtree(new)
        old.rename(new)
    elif old.is_dir() and not old.is_symlink() and new.is_dir():
        for entry in sorted(old.iterdir()):
            _merge(entry, new / entry.name)


def _only_placeholders(folder: Path) -> bool:
    """Say whether a folder has no file with content, as the folders of a fresh tree."""
    return folder.is_dir() and not any(
        entry.is_file() and entry.stat().st_size > 0 for entry in folder.rglob("*")
    )


class _Budget:
    """Limits what an archive may unpack to: one that lies about its size cannot fill the disk."""

    def __init__(self, archive: Path) -> None:
        self._archive = archive
        self._files = 0
        self._bytes = 0

    def spend(self, size: int) -> None:
        self._files += 1
        self._bytes += size
        if self._files > MAX_FILES or self._bytes > MAX_BYTES:
            raise error(
                Code.INSTALL_FAILED,
                f"{self._archive.name} unpacks to far more than ComfyUI is.",
                retryable=False,
            )


def _inside(target: Path, name: str, archive: Path) -> Path:
    parts = PurePosixPath(name).parts
    bad = any(part == ".." or "\\" in part or ":" in part or "\0" in part for part in parts)
    if bad or PurePosixPath(name).is_absolute() or not parts:
        raise _unsafe(archive, name)
    return target.joinpath(*parts)


def _unsafe(archive: Path, name: str) -> PennyreelError:
    return error(
        Code.INSTALL_FAILED,
        f"{archive.name} was refused: {name!r} is a link or points outside of its folder.",
        retryable=False,
    )


def _write(source: IO[bytes], place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("wb") as file:
        shutil.copyfileobj(source, file, 1024 * 1024)
