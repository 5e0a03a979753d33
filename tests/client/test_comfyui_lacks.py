"""What a ComfyUI says it lacks: nothing that it does not certainly lack."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from client.support import Reply, Script, Scripted
from fakes.comfyui import FakeComfy, loader
from pennyreel.backends import _comfyui_lacks, base
from pennyreel.backends.base import Stocked
from pennyreel.backends.comfyui import ComfyBackend
from pennyreel.backends.runpod import RunPodBackend
from pennyreel.config import Secret
from pennyreel.need import Lacks, Need

CKPT = ("checkpoints", "fake.safetensors")
OTHER = ("checkpoints", "other.safetensors")
CLASSES = ("CheckpointLoaderSimple", "SaveImage")


def need(*models: tuple[str, str], classes: tuple[str, ...] = CLASSES) -> Need:
    return Need(workflow=True, classes=classes, models=models)


@pytest.fixture
def backend(comfy: FakeComfy) -> Iterator[ComfyBackend]:
    opened = ComfyBackend(comfy.url)
    yield opened
    opened.close()


def test_one_that_has_all_lacks_nothing(backend: ComfyBackend) -> None:
    assert isinstance(backend, Stocked)
    assert backend.lacks(need(CKPT)) == Lacks()
    assert not backend.lacks(need(CKPT))


def test_other_backends_need_not_tell() -> None:
    backend = RunPodBackend("ep", Secret("rpa_x"))
    assert not isinstance(backend, Stocked)
    backend.close()


def test_a_class_and_a_model_that_are_not_there_are_named(backend: ComfyBackend) -> None:
    told = backend.lacks(need(CKPT, OTHER, classes=(*CLASSES, "VHS_VideoCombine")))
    assert told == Lacks(classes=("VHS_VideoCombine",), models=(OTHER,))


def test_a_model_is_there_as_soon_as_the_server_lists_it(
    backend: ComfyBackend, comfy: FakeComfy
) -> None:
    assert backend.lacks(need(OTHER))
    comfy.models["checkpoints"].append(OTHER[1])
    assert backend.lacks(need(OTHER)) == Lacks()


def test_names_of_a_server_on_windows_are_the_same(backend: ComfyBackend, comfy: FakeComfy) -> None:
    comfy.models["checkpoints"].append("sd\\one.safetensors")
    assert backend.lacks(need(("checkpoints", "sd/one.safetensors"))) == Lacks()


def test_of_a_class_that_is_missing_the_models_are_unsure_unless_the_folder_has_them(
    backend: ComfyBackend, comfy: FakeComfy
) -> None:
    wanted = need(("loras", "a.safetensors"), classes=("LoraLoader", "SaveImage"))
    unsure = (("loras", "a.safetensors"),)
    assert backend.lacks(wanted) == Lacks(classes=("LoraLoader",), unsure=unsure)
    comfy.models["loras"] = ["a.safetensors"]
    assert backend.lacks(wanted) == Lacks(classes=("LoraLoader",))


def test_a_strangers_class_may_take_what_it_does_not_list(
    backend: ComfyBackend, comfy: FakeComfy
) -> None:
    comfy.info |= loader("UnetLoaderGGUF", "unet_name", ["a.gguf"])
    comfy.info["UnetLoaderGGUF"]["python_module"] = "custom_nodes.ComfyUI-GGUF"
    comfy.models["diffusion_models"] = []
    classes = ("SaveImage", "UnetLoaderGGUF")
    assert backend.lacks(need(("diffusion_models", "a.gguf"), classes=classes)) == Lacks()
    other = ("diffusion_models", "b.gguf")
    assert backend.lacks(need(other, classes=classes)) == Lacks(unsure=(other,))
    comfy.info |= loader("UNETLoader", "unet_name", ["a.safetensors"])  # ComfyUI's own, beside it
    both = ("UNETLoader", *classes)
    assert backend.lacks(need(other, classes=both)) == Lacks(unsure=(other,))


def test_a_model_whose_folder_nobody_knows_is_unsure(backend: ComfyBackend) -> None:
    odd = ("", "x.safetensors")
    assert backend.lacks(need(odd)) == Lacks(unsure=(odd,))


def test_few_classes_are_asked_for_one_by_one_and_many_at_once(
    backend: ComfyBackend, comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert backend.lacks(need()) == Lacks()
    assert [p for _, p in comfy.requests] == [f"/object_info/{name}" for name in CLASSES]
    comfy.requests.clear()
    monkeypatch.setattr(_comfyui_lacks, "FEW", 1)
    assert backend.lacks(need()) == Lacks()
    assert [p for _, p in comfy.requests] == ["/object_info"]


def test_a_class_may_be_called_anything(backend: ComfyBackend, comfy: FakeComfy) -> None:
    odd = "Load Images //Of? 100%"
    comfy.info |= loader(odd, "ckpt_name", [])
    assert backend.lacks(need(classes=(odd, "SaveImage"))) == Lacks()


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: Reply(404),
        lambda _: Reply(500),
        lambda _: Reply(body={}),
        lambda _: Reply(body=b"<html>"),
        lambda _: Reply(body=[1]),
        lambda _: Reply(body={"detail": "no such page", "error": {}}),
        lambda _: None,
    ],
)
def test_what_does_not_say_is_not_known_to_lack_anything(
    answer: Callable[[Any], Reply | None], scripted: Callable[[Script], Scripted]
) -> None:
    backend = ComfyBackend(scripted(answer).url)
    assert backend.lacks(need(CKPT)) is None
    assert backend.lacks(need(CKPT, classes=())) is None
    backend.close()


def test_one_that_does_not_answer_in_time_is_not_waited_for(
    scripted: Callable[[Script], Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def slow(_: Any) -> Reply:
        go_on.wait(30)
        return Reply(body=json.dumps({"SaveImage": {}}).encode())

    monkeypatch.setattr("pennyreel.backends.comfyui.LACKS_S", 0.2)
    assert base.LACKS_S > 0.2
    backend = ComfyBackend(scripted(slow).url)
    assert backend.lacks(need(CKPT)) is None
    go_on.set()
    backend.close()
