"""The real ComfyUI tells what it lacks, and has it as soon as it is placed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from client.provision.conftest import MODEL, workflow
from comfy.models.library import safetensors
from pennyreel import Client, SetupNeeded, needs
from pennyreel.backends.comfyui import ComfyBackend
from pennyreel.need import Lacks, Need
from pennyreel.provision.disk import Disk
from pennyreel.provision.wanted import Wanted, need_of
from pennyreel_comfy import preflight, templates
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.install import Installation
from pennyreel_comfy.models import Root, paths_yaml
from pennyreel_comfy.process import CHILD, ComfyProcess
from pennyreel_comfy.waiting import Deadline

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models besides the installation's own, which is not to be written to."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "checkpoints").mkdir()
    return folder


@pytest.fixture(scope="module")
def url(
    comfyui: Installation, models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A real ComfyUI on the CPU that looks into `models`, too."""
    folder = tmp_path_factory.mktemp("comfyui")
    listed = folder / "paths.yaml"
    listed.write_text(paths_yaml([Root(models)]), encoding="utf-8")
    for name in ("input", "output", "user"):
        (folder / name).mkdir()

    def command(port: int) -> list[str]:
        extra = (
            *("--extra-model-paths-config", str(listed)),
            *("--output-directory", str(folder / "output")),
            *("--input-directory", str(folder / "input")),
            *("--temp-directory", str(folder)),
            *("--user-directory", str(folder / "user")),
            *("--database-url", "sqlite:///:memory:"),
        )
        argv = comfyui.command(port, extra=extra)
        return [argv[0], str(CHILD), *argv[1:]]

    process = ComfyProcess(command, env=comfyui.env(), cwd=folder)
    process.start()
    try:
        process.wait_ready(Deadline(180))
        yield process.url
    finally:
        process.stop()


@pytest.fixture
def backend(url: str) -> Iterator[ComfyBackend]:
    opened = ComfyBackend(url)
    yield opened
    opened.close()


def test_it_lacks_no_node_of_its_own_and_says_which_packs_are_missing(
    backend: ComfyBackend,
) -> None:
    assert backend.lacks(need_of("hello-video")) == Lacks()
    told = backend.lacks(need_of("animatediff-v3"))
    assert told is not None
    assert all(name.startswith(("ADE_", "VHS_")) for name in told.classes)
    assert len(told.classes) >= 2
    assert ("checkpoints", "DreamShaper_8_pruned.safetensors") in told.models
    assert ("animatediff_models", "v3_sd15_mm.ckpt") in told.unsure, "what loads it is not there"


def test_a_graph_of_many_classes_is_asked_for_at_once(url: str, backend: ComfyBackend) -> None:
    every = tuple(sorted(ComfyHttp(url).object_info()))
    assert len(every) > 300
    assert backend.lacks(Need(workflow=True, classes=every)) == Lacks()
    odd = (*every, "No such/class? 100%")
    assert backend.lacks(Need(workflow=True, classes=odd)) == Lacks(classes=odd[-1:])
    few = ("SaveImage", odd[-1])
    assert backend.lacks(Need(workflow=True, classes=few)) == Lacks(classes=few[-1:])


def test_each_class_that_it_has_is_found_on_its_disk_and_no_other(
    url: str, comfyui: Installation
) -> None:
    every = tuple(sorted(ComfyHttp(url).object_info()))
    disk = Disk(comfyui.layout.comfy)
    assert disk.lacks(Wanted("all", classes=every)) == Lacks()
    strange = ("VHS_VideoCombine", "NobodysNode")
    assert disk.lacks(Wanted("all", classes=strange)).classes == tuple(sorted(strange))


def test_a_job_that_lacks_a_model_is_not_sent_until_the_model_is_there(
    url: str, models: Path, tmp_path: Path
) -> None:
    placed = models / "checkpoints" / MODEL
    with Client(home=tmp_path, comfyui_url=url) as client:
        with pytest.raises(SetupNeeded, match=f"lacks the model checkpoints/{MODEL}"):
            client.submit(workflow(), backend="comfyui")
        assert not ComfyHttp(url).queue().pending
        placed.write_bytes(safetensors(1000))
        try:
            quoted = client.quote_workflow(workflow(), backend="comfyui")
            assert quoted.chosen is not None
            assert quoted.chosen.target == url
            backend = ComfyBackend(url)
            assert backend.lacks(needs.of_graph(workflow())) == Lacks()
            backend.close()
        finally:
            placed.unlink()


def test_it_says_of_each_template_what_preflight_says(url: str) -> None:
    info = ComfyHttp(url).object_info()
    backend = ComfyBackend(url)
    for template in templates.list_templates():
        graph = template.render().graph
        found = preflight.check(graph, info)
        told = backend.lacks(need_of(template.name))
        assert told is not None
        classes = {f.class_type for f in found if f.code.value == "unknown_node"}
        missing = {f.value for f in found if f.code.value == "missing_model"}
        assert set(told.classes) == classes, template.name
        assert {name for _, name in told.models} == missing, template.name
    backend.close()
