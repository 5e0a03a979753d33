"""A recorded /object_info, and the real server of the end-to-end tests."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import comfyui, server, tiny_model
from pennyreel_comfy.preflight import NodeCatalogue

__all__ = ["comfyui", "server", "tiny_model"]

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def recorded() -> dict[str, Any]:
    """Return the recorded /object_info. Do not change it."""
    info: dict[str, Any] = json.loads((HERE / "object_info.json").read_text("utf-8"))
    return info


@pytest.fixture
def info(recorded: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of the recording with two models in it."""
    info = copy.deepcopy(recorded)
    info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0] = [
        "SD15/dreamshaper_8.safetensors",
        "sd_xl_base_1.0.safetensors",
    ]
    return info


@pytest.fixture
def catalogue(info: dict[str, Any]) -> NodeCatalogue:
    """Return the classes of the recording."""
    return NodeCatalogue(info)
