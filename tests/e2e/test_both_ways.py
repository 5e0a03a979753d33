"""The same workflow by a plain ComfyUI and by the serverless path gives the same pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from e2e.pixels import decode
from pennyreel import Client
from pennyreel.config import Settings
from pennyreel.devstack import DevStack
from pennyreel.types import RunResult
from pennyreel_comfy.process import ComfyProcess

FREELY = {"allow_unknown_price": True, "allow_slow": True}
"""Nobody knows what the emulated endpoint costs; the other is a CPU."""

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


def clients(server: ComfyProcess, stack: DevStack, settings: Settings) -> dict[str, Client]:
    home = settings.home
    return {
        "comfyui": Client(backend="comfyui", comfyui_url=server.url, home=home),
        "runpod": Client(
            backend="runpod",
            runpod_base_url=stack.base_url,
            runpod_endpoint=stack.endpoint,
            runpod_api_key=stack.api_key,
            home=home,
        ),
        "dev": Client(backend="dev", home=home),
    }


def both(
    server: ComfyProcess, stack: DevStack, settings: Settings, tmp_path: Path, **job: Any
) -> dict[str, RunResult]:
    results = {}
    for name, client in clients(server, stack, settings).items():
        with client:
            results[name] = client.run(**job, **FREELY, out_dir=tmp_path / name, timeout_s=240)
    return results


def test_hello_video_is_the_same_by_every_way(
    server: ComfyProcess, stack: DevStack, settings: Settings, tmp_path: Path
) -> None:
    results = both(
        server, stack, settings, tmp_path, workflow="hello-video", parameters={"frames": 24}
    )
    seen = []
    for name, result in results.items():
        assert len(result.artifacts) == 1, name
        (artifact,) = result.artifacts
        assert (artifact.kind, artifact.mime) == ("video", "video/mp4"), name
        seen.append(decode(artifact.path))
    assert seen[0] == seen[1] == seen[2]
    assert (seen[0].codec, seen[0].width, seen[0].height) == ("h264", 512, 288)
    assert len(seen[0].frames) == 24
    neighbours = list(zip(seen[0].frames, seen[0].frames[1:], strict=False))
    assert all(a != b for a, b in neighbours)


def test_a_tiny_sd15_picture_is_the_same_by_every_way(
    server: ComfyProcess, stack: DevStack, settings: Settings, tmp_path: Path, tiny_model: str
) -> None:
    results = both(
        server,
        stack,
        settings,
        tmp_path,
        workflow="sd15-image",
        seed=11,
        parameters={"checkpoint": tiny_model, "width": 64, "height": 64, "steps": 2},
    )
    seen = [decode(result.artifacts[0].path) for result in results.values()]
    assert seen[0] == seen[1] == seen[2]
    assert (seen[0].width, seen[0].height) == (64, 64)
    other = both(
        server,
        stack,
        settings,
        tmp_path,
        workflow="sd15-image",
        seed=12,
        parameters={"checkpoint": tiny_model, "width": 64, "height": 64, "steps": 2},
    )
    assert decode(other["dev"].artifacts[0].path) != seen[0]


def test_results_tell_where_and_how_long(
    stack: DevStack, settings: Settings, tmp_path: Path
) -> None:
    with Client(backend="dev", home=settings.home) as client:
        result = client.run(
            "hello-video", parameters={"frames": 2}, out_dir=tmp_path, metadata={"shot": 7}
        )
    assert result.metadata == {"shot": 7}
    assert {"prepare", "execute", "deliver"} <= set(result.remote_timings)
    assert result.gpu is not None
    assert result.gpu["type"] == "cpu"
    assert [a.outcome for a in result.attempts] == ["done"]
