"""What a real worker tells: of its jobs while they run and after, of itself, and in its log."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e.conftest import ROOT
from pennyreel import Client, config
from pennyreel.devstack import DevStack, Options
from pennyreel.errors import JobFailed
from pennyreel.types import Progressed, RunResult
from pennyreel_comfy.install import Installation
from pennyreel_contract import Result, new_attempt_id, parse_result

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

ENV = {
    "PENNYREEL_LOG_FORMAT": "json",
    "PENNYREEL_PREVIEWS": "1",
    "PENNYREEL_GPU_USD_PER_S": "0.0001",
}


@dataclass
class Telling:
    """A worker whose log is JSON, and a client of it."""

    stack: DevStack
    client: Client
    lines: list[str]

    def run(self, graph: dict[str, Any], out: Path) -> tuple[RunResult, list[Progressed]]:
        """Run a graph; returns what came of it, and each progress that was told."""
        told: list[Progressed] = []
        job = self.client.submit(
            workflow=graph, preview=True, out_dir=out, allow_unknown_price=True, allow_slow=True
        )
        told += [event for event in job.events() if isinstance(event, Progressed)]
        return job.result(), told

    def raw(self, graph: dict[str, Any]) -> Result:
        """Run a graph by a plain HTTP call; returns the worker's own result."""
        body = {"contract": 1, "attempt_id": new_attempt_id(), "workflow": graph}
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(
                f"{self.stack.base_url}/{self.stack.endpoint}/runsync",
                params={"wait": 120_000},
                headers={"Authorization": f"Bearer {self.stack.api_key}"},
                json={"input": body},
                timeout=150,
            ).json()
        assert answer["status"] == "COMPLETED", answer
        return parse_result(answer["output"])


@pytest.fixture(scope="module")
def telling(
    comfyui: Installation, tiny_model: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Telling]:
    assert tiny_model
    lines: list[str] = []
    settings = config.load({}, home=tmp_path_factory.mktemp("home"))
    options = Options(workers_min=1, comfyui=comfyui.layout.root, worker_env=ENV, s3=False)
    with (
        DevStack(settings, options, on_log=lambda _e, _w, line: lines.append(line)) as stack,
        Client(backend="dev", home=settings.home) as client,
    ):
        yield Telling(stack, client, lines)


def picture(model: str, steps: int) -> dict[str, Any]:
    graph: dict[str, Any] = json.loads((ROOT / "workflows" / "sd15-image.json").read_text("utf-8"))
    graph["1"]["inputs"]["ckpt_name"] = model
    graph["4"]["inputs"] |= {"width": 192, "height": 192}
    graph["5"]["inputs"]["steps"] = steps
    return graph


def test_a_job_tells_how_far_it_is_by_the_nodes_that_run(
    telling: Telling, tiny_model: str, tmp_path: Path
) -> None:
    graph = picture(tiny_model, 48)
    # A long one that no output needs, so that ComfyUI passes over it.
    unread = json.loads(json.dumps(graph["5"]))
    unread["inputs"] |= {"steps": 500, "seed": 1}
    graph["8"] = unread
    result, told = telling.run(graph, tmp_path)
    percents = [p.percent for p in told]
    assert percents == sorted(percents)
    sampling = [p for p in told if p.node == "5" and p.step]
    assert {(p.node_class, p.steps) for p in sampling} == {("KSampler", 48)}
    assert max(p.percent for p in sampling) > 50
    assert all(a.step <= b.step for a, b in pairwise(sampling) if a.step and b.step)
    took = result.remote_timings["execute"]
    etas = [p.eta_s for p in told if p.eta_s is not None]
    assert etas
    assert 0 <= min(etas) <= max(etas) < 10 * took
    previews = [p.preview for p in told if p.preview]
    assert previews
    assert all(p.startswith("data:image/jpeg;base64,") and len(p) < 150_000 for p in previews)


def test_a_result_tells_what_it_took(telling: Telling, tiny_model: str) -> None:
    result = telling.raw(picture(tiny_model, 5))
    assert set(result.timings) == {"prepare", "queue", "execute", "deliver", "total"}
    assert result.gpu is not None
    assert result.gpu.name
    assert result.gpu.type == "cpu"
    assert result.gpu.seconds == result.timings["execute"] > 0
    assert result.cost_microusd == math.ceil(Decimal(str(result.gpu.seconds)) * 100)
    assert {"KSampler", "VAEDecode", "SaveImage"} <= {one.node_class for one in result.nodes}
    assert [one.seconds for one in result.nodes] == sorted(
        (one.seconds for one in result.nodes), reverse=True
    )
    assert sum(one.seconds for one in result.nodes) <= result.gpu.seconds + 0.1


def test_each_line_of_the_log_is_an_object_and_a_jobs_lines_name_it(
    telling: Telling, tmp_path: Path
) -> None:
    bad = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 16, "height": 16, "batch_size": 1, "color": 0},
        },
        "2": {
            "class_type": "ImageCrop",
            "inputs": {"image": ["1", 0], "width": 16, "height": 16, "x": 0, "y": 0},
        },
        "3": {"class_type": "ImageToMask", "inputs": {"image": ["2", 0], "channel": "alpha"}},
        "4": {"class_type": "MaskPreview", "inputs": {"mask": ["3", 0]}},
    }
    with pytest.raises(JobFailed):
        telling.run(bad, tmp_path)
    told = [json.loads(line) for line in telling.lines if line.strip()]
    assert all({"time", "level", "message", "worker"} <= set(line) for line in told)
    whole = [n for n, line in enumerate(told) if line.get("event") == "ended"]
    assert whole
    trace = [line for line in told if "Traceback" in line["message"] and line.get("job")]
    assert trace, "ComfyUI's own traceback is of the job that failed"
    for source, text in (("comfyui", "got prompt"), ("runpod", "Started.")):
        found = [li for li in told if li.get("source") == source and li["message"] == text]
        assert found
        assert all(line.get("job") and line["job"] == line["requestId"] for line in found)
    (ready,) = [line for line in told if line.get("event") == "ready"]
    assert ready["versions"]["comfyui"]
    assert ready["nodes"] > 100
    assert "custom_nodes" not in ready["models"]
