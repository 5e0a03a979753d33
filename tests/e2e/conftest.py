"""The real parts: ComfyUI as `make test` installs it, RunPod's SDK, our worker, moto's S3."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.canary_world import bucket, machine, servers, world
from pennyreel import config
from pennyreel.devstack import DevStack, Options
from pennyreel_comfy.install import Installation
from pennyreel_comfy.process import CHILD, ComfyProcess
from pennyreel_comfy.waiting import Deadline

__all__ = ["bucket", "machine", "servers", "world"]

ROOT = Path(__file__).parents[2]
TINY = "pennyreel_tiny_sd15.safetensors"


@pytest.fixture(scope="session")
def comfyui() -> Installation:
    """The installation that the Makefile made for the tests. Without it they fail, not skip."""
    root = Path(os.environ.get("PENNYREEL_TEST_COMFYUI", ROOT / "build" / "comfyui"))
    found = Installation.load(root)
    assert found is not None, f"no ComfyUI in {root}; run `make test`, which installs it"
    return found


@pytest.fixture(scope="session")
def tiny_model(comfyui: Installation) -> str:
    """Name of an SD1.5 checkpoint of random weights that real nodes accept."""
    path = comfyui.layout.comfy / "models" / "checkpoints" / TINY
    if not path.exists():
        program = ROOT / "tests" / "programs" / "make_tiny_models.py"
        subprocess.run(
            [str(comfyui.layout.python), str(program), str(comfyui.layout.comfy), "sd15"],
            check=True,
            env=comfyui.env(),
            timeout=300,
        )
    return TINY


@pytest.fixture(scope="session")
def server(
    comfyui: Installation, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ComfyProcess]:
    """A real ComfyUI on the CPU."""
    folder = tmp_path_factory.mktemp("comfyui")

    def command(port: int) -> list[str]:
        extra = (
            *("--output-directory", str(folder / "output")),
            *("--input-directory", str(folder / "input")),
            *("--temp-directory", str(folder)),
            *("--user-directory", str(folder / "user")),
            *("--database-url", "sqlite:///:memory:"),
        )
        argv = comfyui.command(port, extra=extra)
        return [argv[0], str(CHILD), *argv[1:]]

    for name in ("input", "output", "user"):
        (folder / name).mkdir()
    process = ComfyProcess(command, env=comfyui.env(), cwd=folder)
    process.start()
    try:
        process.wait_ready(Deadline(120))
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> config.Settings:
    """Settings of a user who has nothing configured."""
    return config.load({}, home=tmp_path_factory.mktemp("home"))


@pytest.fixture(scope="session")
def worker_log() -> list[tuple[float, str]]:
    """What the stack's workers write, with the moment each line came."""
    return []


@pytest.fixture(scope="session")
def stack(
    comfyui: Installation, settings: config.Settings, worker_log: list[tuple[float, str]]
) -> Iterator[DevStack]:
    """The whole serverless path with one warm worker."""
    options = Options(workers_min=1, workers_max=1, comfyui=comfyui.layout.root)

    def note(_endpoint: str, _worker: str, line: str) -> None:
        worker_log.append((time.monotonic(), line))

    with DevStack(settings, options, on_log=note) as running:
        yield running


@pytest.fixture
def python() -> str:
    """This interpreter."""
    return sys.executable
