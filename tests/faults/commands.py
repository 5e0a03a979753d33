"""How a site's ComfyUI is started, and the graphs that are run on it."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyreel_comfy.install import Installation
from pennyreel_comfy.process import CHILD

if TYPE_CHECKING:
    from faults.site import Plan

HERE = Path(__file__).parent


def comfyui(plan: Plan, folder: Path, root: Path | None) -> dict[str, str]:
    """Return the worker's variables for its ComfyUI."""
    if plan.comfyui == "scripted":
        program = [sys.executable, str(HERE / "scripted.py")]
        options = ["--how", str(folder / "how"), "--device", plan.device]
        return {"PENNYREEL_COMFYUI_COMMAND": json.dumps([*program, *options])}
    assert root is not None
    pack = folder / "custom_nodes" / "faults"
    pack.mkdir(parents=True)
    shutil.copy(HERE / "pack.py", pack / "__init__.py")
    paths = folder / "paths.yaml"
    paths.write_text(f"faults:\n  base_path: {folder}\n  custom_nodes: custom_nodes\n")
    env = {
        "PENNYREEL_COMFYUI_OPTIONS": json.dumps(["--extra-model-paths-config", str(paths)]),
        "PENNYREEL_COMFYUI_ROOT": str(root),
    }
    if plan.comfyui == "relayed":
        installation = Installation.load(root)
        assert installation is not None
        program = [sys.executable, str(HERE / "relay.py")]
        options = ["--control", str(folder / "control"), "--child", str(CHILD), "--"]
        env["PENNYREEL_COMFYUI_COMMAND"] = json.dumps(
            [*program, *options, *installation.command(0)]
        )
    return env


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def plain(comfyui: str) -> dict[str, Any]:
    """A graph that always works."""
    return saved() if comfyui == "scripted" else faulty("none", 0)


def faulty(
    what: str,
    times: int = 1,
    *,
    seconds: float = 0.0,
    tag: str = "",
    kind: str = "Fault",
    save: str = "SaveImage",
) -> dict[str, Any]:
    """A graph for the real ComfyUI that fails so in its first `times` runs."""
    prefix = {"filename_prefix": "made"} if save == "SaveImage" else {}
    return {
        "1": node("EmptyImage", width=64, height=64, batch_size=1, color=9),
        "2": node(
            kind,
            image=["1", 0],
            what=what,
            times=times,
            tag=tag or uuid.uuid4().hex,
            seconds=seconds,
        ),
        "3": node(save, images=["2", 0], **prefix),
    }


def saved(**before: dict[str, Any]) -> dict[str, Any]:
    """A graph for the scripted ComfyUI: these nodes, then an image."""
    return {**before, "9": node("SaveImage", filename_prefix="shot")}


def sleeping(seconds: float) -> dict[str, Any]:
    return saved(a=node("FakeSleep", seconds=seconds))
