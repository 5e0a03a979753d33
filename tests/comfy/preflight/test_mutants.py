"""ComfyUI's own validate_prompt and the preflight judge graphs of all node classes there are.

Whatever ComfyUI accepts the preflight accepts, but for what certainly fails in the run; whatever it
refuses the preflight refuses, or tells and knowingly leaves to it.
"""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy.preflight.graphs import Graph, fails_in_the_run, image, node
from comfy.preflight.mutants import Mutants
from pennyreel_comfy import graph as graphs
from pennyreel_comfy.install import Installation
from pennyreel_comfy.preflight import Finding, NodeCatalogue, check, refusal, sentences
from pennyreel_contract import PennyreelError

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

PROGRAMS = Path(__file__).parents[2] / "programs"
FOLDERS = ("checkpoints", "loras", "vae", "clip_vision", "text_encoders", "upscale_models")
MODELS = ("one.safetensors", "two.safetensors", "sub/three.safetensors", "größe.safetensors")
STRANGE = ("TakesAnything", "JudgesByItself", "JudgesAll", "JudgesTypes", "Lazy", "NewStyle")


class Judge:
    """ComfyUI's code in a process of its own."""

    def __init__(self, comfyui: Installation, base: Path) -> None:
        for name in FOLDERS:
            for model in MODELS:
                path = base / "models" / name / model
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
        for name in ("input", "custom_nodes"):
            (base / name).mkdir()
        for name in ("a.png", "b.wav", "c.mp4"):
            (base / "input" / name).touch()
        shutil.copy(PROGRAMS / "strange_nodes.py", base / "custom_nodes")
        python, *rest = comfyui.command(0)  # it listens nowhere
        argv = [python, str(PROGRAMS / "comfy_verdicts.py"), str(Path(rest[0]).parent), *rest[1:]]
        argv += ["--base-directory", str(base), "--database-url", "sqlite:///:memory:"]
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            env={**comfyui.env(), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        self.info: dict[str, Any] = self._read()

    def verdict(self, graph: Graph) -> dict[str, Any]:
        assert self._process.stdin
        print(json.dumps(graph), file=self._process.stdin, flush=True)
        return self._read()

    def close(self) -> None:
        self._process.communicate(timeout=60)  # its input ends

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        return found


@pytest.fixture(scope="module")
def judge(comfyui: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    judge = Judge(comfyui, tmp_path_factory.mktemp("comfyui"))
    try:
        yield judge
    finally:
        judge.close()


@pytest.fixture(scope="module")
def live(judge: Judge) -> NodeCatalogue:
    return NodeCatalogue(judge.info)


def compare(judge: Judge, live: NodeCatalogue, graph: Graph) -> bool:
    """Hold our verdict against ComfyUI's, and return ComfyUI's."""
    verdict = judge.verdict(graph)
    told = [json.dumps(graph), verdict]
    try:
        findings = check(graphs.parse(copy.deepcopy(graph), links=False), live)
    except PennyreelError:
        assert not verdict["accepted"], told
        return False
    told += sentences(findings)
    grave = [found for found in findings if found.refuses]
    if verdict["accepted"]:
        assert all(fails_in_the_run(found, live) for found in grave), told
    elif not grave:
        assert any(left(found, graph) for found in findings) or "NewStyle" in told[0], told
    places = {(found.node, found.input) for found in findings}
    for key, errors in verdict["nodes"].items():
        for kind, field in errors:
            # ComfyUI does not say over which input it stumbled. What grows or matches is its own.
            known = kind.startswith("exception_during") or "NewStyle" in told[0]
            assert known or (key, field) in places, told
    return bool(verdict["accepted"])


def left(found: Finding, graph: Graph) -> bool:
    """Tell whether this is knowingly left to ComfyUI: files, later versions, strangers' classes."""
    later = "takes COMBO" in found.message and "STRING" in found.message
    strange = any(one["class_type"] in STRANGE for one in graph.values())
    return found.type == "custom_validation_failed" or later or strange


def test_they_agree_on_a_graph_around_each_class(judge: Judge, live: NodeCatalogue) -> None:
    made = list(Mutants(judge.info, seed=1).of_each_class())
    accepted = sum(compare(judge, live, graph) for _, graph in made)
    assert len(made) > 500
    assert accepted > 350


def test_they_agree_on_a_thousand_spoiled_graphs(judge: Judge, live: NodeCatalogue) -> None:
    accepted = sum(compare(judge, live, one) for one in Mutants(judge.info, seed=2).spoiled(1000))
    assert 200 < accepted < 800


def test_they_agree_where_classes_do_what_object_info_does_not_tell(
    judge: Judge, live: NodeCatalogue
) -> None:
    classes = [*STRANGE, "SaveImage", "EmptyImage", "LoadImage", "PreviewAny", "PrimitiveInt"]
    mutants = Mutants(judge.info, seed=3, classes=classes)
    accepted = sum(compare(judge, live, graph) for graph in mutants.spoiled(500))
    assert 100 < accepted < 400


def test_what_comfyui_accepts_and_would_hang_or_fail_at_is_refused(
    judge: Judge, live: NodeCatalogue
) -> None:
    hanging = image()
    hanging["1"]["inputs"]["extra"] = ["77", 0]
    circle = image()
    circle["1"]["inputs"]["extra"] = ["3", 0]
    missing = image()
    missing["4"] = node("UpscaleModelLoader", model_name="sub\\three.safetensors")
    missing["2"] = node("ImageUpscaleWithModel", upscale_model=["4", 0], image=["1", 0])
    for graph, field in ((hanging, "extra"), (circle, "extra"), (missing, "model_name")):
        assert judge.verdict(graph)["accepted"]
        findings = check(graph, live)
        assert refusal(findings) is not None
        assert [found.input for found in findings] == [field]
