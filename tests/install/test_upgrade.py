"""A release of this package with other pins: its installer brings an installation up to them.

Each release is a copy of the packages with a lock file of its own, in a process of its own.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pennyreel_comfy.install import Installation, Layout

HERE = Path(__file__).parent
WORKER = HERE.parents[1] / "worker"
FORMER, NEW = "0.3.70", "0.3.99"


def release(folder: Path, comfyui: str, torch: str = "2.13.0") -> Path:
    """Make a release that pins this ComfyUI and this torch; returns its folder."""
    shutil.copytree(WORKER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    lock = folder / "pennyreel_comfy" / "install" / "lock.toml"
    text = lock.read_text("utf-8")
    for table, version in (("comfyui", comfyui), ("torch", torch)):
        pattern = rf'(?ms)^(\[{table}\].*?^version = )"[^"]+"'
        text, count = re.subn(pattern, rf'\g<1>"{version}"', text, count=1)
        assert count == 1
    lock.write_text(text, "utf-8")
    return folder


def run_installer(packages: Path, root: Path) -> dict[str, bool]:
    """Run this release's installer with the pretended pip; returns which stages were skipped."""
    told = subprocess.run(
        [sys.executable, str(HERE / "installer_fakes.py"), str(root)],
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout + told.stderr
    return dict(json.loads(line) for line in told.stdout.splitlines())


@pytest.fixture
def former(tmp_path: Path) -> Path:
    """An installation by a former release, with a model and a node pack of the user's."""
    root = tmp_path / "comfyui"
    run_installer(release(tmp_path / "former", FORMER), root)
    found = Installation.load(root)
    assert found is not None
    assert found.comfyui_version == FORMER
    for name in ("models/checkpoints/own.safetensors", "custom_nodes/own/__init__.py"):
        file = Layout(root).comfy / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("the user's")
    return root


def test_the_new_pins_comfyui_takes_the_former_ones_place(former: Path, tmp_path: Path) -> None:
    skipped = run_installer(release(tmp_path / "new", NEW), former)
    found = Installation.load(former)
    assert found is not None
    assert found.comfyui_version == NEW
    version = (found.layout.comfy / "comfyui_version.py").read_text()
    assert NEW in version, "the tree itself is the new one"
    assert skipped["venv"]
    assert skipped["torch"], "what has not changed is not downloaded again"
    for stage in ("source", "verify-import", "verify-render", "manifest"):
        assert not skipped[stage], stage
    for name in ("models/checkpoints/own.safetensors", "custom_nodes/own/__init__.py"):
        assert (found.layout.comfy / name).read_text() == "the user's"


def test_a_new_torch_replaces_the_former_one(former: Path, tmp_path: Path) -> None:
    skipped = run_installer(release(tmp_path / "new", FORMER, torch="2.99.0"), former)
    assert skipped["source"]
    for stage in ("torch", "requirements", "verify-import", "verify-render"):
        assert not skipped[stage], stage


def test_the_same_release_again_changes_nothing(former: Path, tmp_path: Path) -> None:
    assert set(run_installer(tmp_path / "former", former).values()) == {True}
