"""A home with an installation that takes milliseconds, and a host of models on loopback."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.test_localcomfy import install_fake
from comfy.models.library import Library, safetensors, sha256
from fakes import comfyui as fake_comfyui
from pennyreel import localcomfy
from pennyreel_comfy.models import Entry
from pennyreel_comfy.models.manifest import written

MODEL = "tiny.safetensors"
DATA = safetensors(400_000, seed=b"tiny")


def workflow(model: str = MODEL, **more: str) -> dict[str, Any]:
    """A graph that loads a checkpoint and saves a picture; `more`: nodes by their class."""
    nodes = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": model}},
        "2": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64}},
        "3": {"class_type": "SaveImage", "inputs": {"images": ["2", 0], "filename_prefix": "a"}},
    }
    return nodes | {key: {"class_type": kind, "inputs": {}} for key, kind in more.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A workflow's file that names one model."""
    path = tmp_path / "shot.json"
    path.write_text(json.dumps(workflow()))
    return path


@pytest.fixture
def library() -> Iterator[Library]:
    """A host that has the model."""
    with Library() as running:
        running.put("/tiny", DATA)
        yield running


@pytest.fixture
def entry(home: Path, library: Library) -> Entry:
    """The model's line in the user's own list."""
    made = Entry(
        name=MODEL, folder="checkpoints", url=library.put("/tiny", DATA), sha256=sha256(DATA),
        bytes=len(DATA), licence="CC0-1.0",
    )  # fmt: skip
    home.mkdir(exist_ok=True)
    (home / "models.toml").write_text(written(made))
    return made


@pytest.fixture
def root(home: Path) -> Iterator[Path]:
    """An installation whose ComfyUI is the scripted one; it is stopped in the end."""
    folder = home / "comfyui"
    install_fake(folder, Path(fake_comfyui.__file__).read_text())
    comfy = folder / "comfy"
    (comfy / "models" / "checkpoints").mkdir(parents=True)
    (comfy / "custom_nodes").mkdir()
    own = '"CheckpointLoaderSimple": 1, "EmptyImage": 2, "SaveImage": 3, "LoadImage": 4'
    (comfy / "nodes.py").write_text(f"NODE_CLASS_MAPPINGS = {{{own}}}\n")
    yield folder
    localcomfy.stop(folder)


@pytest.fixture
def placed(root: Path) -> Callable[[], None]:
    """`placed()` puts the model where the installed ComfyUI looks for it."""
    path = root / "comfy" / "models" / "checkpoints" / MODEL
    return lambda: path.write_bytes(DATA) and None
