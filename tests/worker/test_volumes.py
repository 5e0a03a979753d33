"""Models on a network volume, through the worker, to the real ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pennyreel_worker import models
from worker.support import Bench, bench_of, node, real_settings, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """A worker that has a volume, and another folder that its operator names."""
    volume, named = (tmp_path_factory.mktemp(name) for name in ("runpod-volume", "named"))
    for path in (
        volume / "ComfyUI" / "models" / "checkpoints" / "on-the-volume.safetensors",
        named / "loras" / "style.safetensors",
    ):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"weights")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "VOLUMES", (volume,))  # where RunPod mounts it is not ours to write
        with bench_of(real_settings(PENNYREEL_MODEL_ROOTS=str(named))) as made:
            yield made


def test_the_workers_own_comfyui_has_what_is_on_its_volume(bench: Bench) -> None:
    offered = bench.run({"contract": 1, "op": "info"})["models"]
    assert "on-the-volume.safetensors" in offered.get("checkpoints", ())
    assert "style.safetensors" in offered.get("loras", ())


def test_what_a_job_lacks_is_named_by_its_node_with_what_is_on_the_volume(bench: Bench) -> None:
    graph = {
        "1": node("CheckpointLoaderSimple", ckpt_name="on_the_volume.safetensors"),
        "2": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "3": node("VAEDecode", samples=["2", 0], vae=["1", 2]),
        "9": node("SaveImage", images=["3", 0], filename_prefix="x"),
    }
    problem = bench.bad(request(graph))
    assert problem.code == "missing_model"
    assert "node 1 (CheckpointLoaderSimple)" in problem.message
    assert "on-the-volume.safetensors" in problem.message
