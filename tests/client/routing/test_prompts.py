"""From a prompt and wishes to work: what a template can do, what is beyond it, what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pennyreel.errors import BadRequest
from pennyreel.need import Need
from pennyreel.needs import of_graph
from pennyreel.prompts import MOST_PROMPT, Ask, make

PNG = b"\x89PNG\r\n"


def test_a_bare_prompt_is_a_template_and_a_prompt() -> None:
    work = make(Ask("a paper boat"))
    assert work.need.template == "animatediff-v3"
    assert not work.need.workflow
    assert work.graph
    assert work.prompt is not None
    assert work.prompt.text == "a paper boat"
    assert "a paper boat" in str(work.graph)
    assert "a paper boat" not in str(work.need), "what is stored has no prompt"
    assert work.need.models
    assert (work.need.kind, work.need.profile) == ("video", "animatediff-v3")


def test_an_image_is_another_template() -> None:
    work = make(Ask("a boat", kind="image", width=512, height=512, format="png"))
    assert work.need.template == "sd15-image"
    assert work.need.kind == "image"


@pytest.mark.parametrize(
    ("wishes", "frames"),
    [
        ({"seconds": 2.0}, 16),
        ({"seconds": 1.01}, 9),
        ({"seconds": 1.0, "frames": 16}, 16),
        ({"seconds": 1.0, "fps": 10.0}, 10),
        ({"frames": 12}, 12),
    ],
)
def test_seconds_become_frames_and_never_too_few(wishes: dict[str, Any], frames: int) -> None:
    work = make(Ask("a boat", **wishes))
    lengths = [n["inputs"].get("batch_size") for n in work.graph.values()]
    assert frames in lengths
    assert work.need.seconds == wishes.get("seconds")


@pytest.mark.parametrize(
    ("wishes", "why"),
    [
        ({"audio": True}, "makes no sound"),
        ({"format": "gif"}, "makes .mp4, not .gif"),
        ({"image": ("a.png", PNG)}, "has no image"),
        ({"seconds": 3600.0}, "frames"),
        ({"width": 8192, "height": 8192}, "width"),
    ],
)
def test_what_is_beyond_the_template_is_for_those_who_take_prompts(
    wishes: dict[str, Any], why: str
) -> None:
    work = make(Ask("a boat", **wishes))
    assert work.graph == {}
    assert work.need.template is None
    assert work.need.no_template.startswith("its template animatediff-v3 ")
    assert why in work.need.no_template
    assert work.prompt is not None
    with pytest.raises(BadRequest, match="animatediff-v3") as told:
        make(Ask("a boat", template="animatediff-v3", **wishes))
    assert told.value.code == "bad_template"


def test_each_wish_is_in_the_need() -> None:
    ask = Ask(
        "a boat", negative_prompt="rain", width=512, height=256, seconds=2.0, fps=8.0,
        format="mp4", image=("a.png", PNG), lora="x.safetensors", audio=True, seed=5,
    )  # fmt: skip
    need = make(ask).need
    assert need == Need(
        kind="video", width=512, height=256, seconds=2.0, fps=8.0, format="mp4", audio=True,
        image_input=True, lora=True, negative_prompt=True, seed=True,
        no_template=need.no_template,
    )  # fmt: skip


def test_an_image_goes_along_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "first.png").write_bytes(PNG)
    work = make(Ask("a boat", image=tmp_path / "first.png"))
    assert [s.name for s in work.sources] == ["first.png"]
    assert work.prompt is not None
    assert work.prompt.image == work.sources[0]


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"prompt": "  "}, "empty"),
        ({"prompt": "x" * (MOST_PROMPT + 1)}, "longer than"),
        ({"kind": "audio"}, "kind 'audio'"),
        ({"width": 512}, "belong together"),
        ({"width": 0, "height": 1}, "above 0"),
        ({"seconds": float("nan")}, "above 0"),
        ({"seconds": -1.0}, "above 0"),
        ({"fps": float("inf")}, "above 0"),
        ({"template": "nonsense"}, "nonsense"),
        ({"template": "sd15-image"}, "makes image, not video"),
    ],
)
def test_a_wrong_wish_is_named(wishes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadRequest, match=says):
        make(Ask(**{"prompt": "a boat", **wishes}))


@pytest.mark.parametrize(
    ("classes", "kind"),
    [
        (["SaveImage"], "image"),
        (["VHS_VideoCombine"], "video"),
        (["SaveWEBM"], "video"),
        (["SaveAudio"], "audio"),
        (["SaveGLB"], "model3d"),
        (["SaveImage", "SaveVideo"], "video"),
        ([], "image"),
    ],
)
def test_a_strangers_graph_tells_its_kind_by_its_nodes(classes: list[str], kind: str) -> None:
    graph = {str(n): {"class_type": name, "inputs": {}} for n, name in enumerate(classes)}
    assert of_graph(graph).kind == kind


def test_the_same_kind_of_graph_is_learned_under_one_name() -> None:
    lora = {"class_type": "LoraLoader", "inputs": {}}
    one = {"1": {"class_type": "A", "inputs": {"x": 1}}, "2": lora}
    other = {"9": lora, "3": {"class_type": "A", "inputs": {"x": 2}}}
    assert of_graph(one).profile == of_graph(other).profile
    assert of_graph(one).lora
    assert of_graph({"1": {"class_type": "B", "inputs": {}}}).profile != of_graph(one).profile
