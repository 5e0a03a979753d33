"""ComfyUI's own code and the preflight judge graphs of every class that there is."""

from __future__ import annotations

import copy
import json
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import requests

from comfy.preflight.generated import Maker
from pennyreel_comfy.install import Installation
from pennyreel_comfy.preflight import Finding, NodeCatalogue, check, refusal
from pennyreel_comfy.process import ComfyProcess

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PROGRAM = Path(__file__).parents[2] / "programs" / "validate_graphs.py"
SEED, COUNT = 2026, 2500
# What a node's own code says of its inputs /object_info does not tell.
OWN = ("exception_during", "custom_validation")


def test_what_comfyui_takes_is_never_refused_and_what_it_refuses_is_told(
    comfyui: Installation, server: ComfyProcess, tiny_model: str, tmp_path: Path
) -> None:
    assert tiny_model
    info: dict[str, Any] = requests.get(f"{server.url}/object_info", timeout=60).json()
    catalogue, maker = NodeCatalogue(info), Maker(info, SEED)
    graphs = [maker.draw() for _ in range(COUNT)]
    seen: Counter[tuple[bool, bool]] = Counter()
    for graph, (good, problem, errors) in zip(
        graphs, verdicts(comfyui, graphs, tmp_path), strict=True
    ):
        findings = check(copy.deepcopy(graph), catalogue)
        ours = refusal(findings) is None
        seen[good, ours] += 1
        assert ours or not good, (graph, findings)
        if not good:
            assert told(errors, findings), (graph, problem, errors, findings)
    classes = {node["class_type"] for graph in graphs for node in graph.values()}
    assert len(classes) > len(info) * 0.8
    assert seen[True, True] > COUNT / 4
    assert seen[False, False] > COUNT / 4
    # These the preflight tells, and leaves to ComfyUI to refuse: a pack or a later one may take it.
    assert seen[False, True] < COUNT / 100, seen


def told(errors: dict[str, list[list[Any]]], findings: list[Finding]) -> bool:
    """Whether each place that ComfyUI names is among the findings."""
    ours = {(finding.node, finding.input) for finding in findings}
    return all(
        (key, field) in ours or kind.startswith(OWN)
        for key, entry in errors.items()
        for kind, field in entry
    )


def verdicts(comfyui: Installation, graphs: list[Any], scratch: Path) -> list[Any]:
    """Return [whether it may run, error, errors by node] for each."""
    layout = comfyui.layout
    done = subprocess.run(
        [str(layout.python), str(PROGRAM), str(layout.comfy), str(layout.web), str(scratch)],
        input="".join(json.dumps(graph) + "\n" for graph in graphs),
        env=comfyui.env(), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
