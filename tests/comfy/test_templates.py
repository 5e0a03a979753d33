"""Templates: found by name, checked in full, rendered without touching what is shipped."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyreel_comfy import templates
from pennyreel_contract.errors import BadRequest, PennyreelError

GRAPH = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}, "_meta": {"title": "load"}},
    "2": {
        "class_type": "Work",
        "inputs": {"n": 1, "x": 0.5, "on": False, "mode": "a", "text": "", "seed": 0, "c": 0},
        "_meta": {"title": "work"},
    },
    "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "p", "m": "big.ckpt"}},
}
TOML = """
title = "Mine"
kind = "image"
[parameters.picture]
type = "image"
targets = ["load.image"]
[parameters.count]
type = "int"
default = 2
min = 1
max = 10
targets = ["work.n"]
[parameters.width]
type = "int"
default = 64
step = 8
targets = ["work.n"]
[parameters.amount]
type = "float"
default = 0.5
max = 1
targets = ["work.x"]
[parameters.on]
type = "bool"
default = true
targets = ["work.on"]
[parameters.text]
type = "string"
default = ""
max_length = 5
targets = ["work.text"]
[parameters.mode]
type = "choice"
default = "a"
choices = ["a", "b"]
targets = ["work.mode"]
[parameters.look]
type = "choice"
default = "red"
sets.red = { "work.c" = 1 }
sets.blue = { "work.c" = 2, "work.mode" = "z" }
[parameters.seed]
type = "seed"
targets = ["work.seed"]
[parameters.model]
type = "string"
default = "big.ckpt"
targets = ["3.m"]
[[models]]
folder = "checkpoints"
name = "big.ckpt"
url = "https://example.org/big.ckpt"
licence = "MIT"
[needs]
comfyui = "0.3.64"
vram_min_bytes = 1
vram_comfortable_bytes = 2
[cost]
seconds = 1.0
device = "RTX 4090"
estimated = true
scales_with = ["count"]
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(GRAPH), encoding="utf-8")
    (tmp_path / "mine.toml").write_text(TOML, encoding="utf-8")
    return tmp_path


@pytest.fixture
def mine(folder):
    return templates.load("mine", [folder])


def test_the_shipped_templates_are_listed_by_name():
    names = [template.name for template in templates.list_templates()]
    assert names == ["animatediff-v3", "hello-video", "sd15-image", "sdxl-image"]


def test_a_users_folder_adds_templates_and_takes_precedence(folder):
    (folder / "hello-video.json").write_text(json.dumps(GRAPH), encoding="utf-8")
    (folder / "hello-video.toml").write_text(TOML, encoding="utf-8")
    listed = {template.name: template for template in templates.list_templates([folder])}
    assert "mine" in listed
    assert "sd15-image" in listed
    assert listed["hello-video"].title == "Mine"


def test_an_unknown_name_is_answered_with_near_ones_and_the_list():
    with pytest.raises(BadRequest) as caught:
        templates.load("animatedif-v3")
    assert caught.value.code == "bad_template"
    assert "did you mean animatediff-v3?" in str(caught.value)
    assert "sdxl-image" in str(caught.value)


@pytest.mark.parametrize(
    "name", ["", "../mine", "/etc/passwd", "Mine", "a/b", "mine.toml", "mine\n"]
)
def test_a_name_is_never_a_path(folder, name):
    with pytest.raises(BadRequest, match="no template"):
        templates.load(name, [folder])


def test_values_reach_every_target_and_defaults_fill_the_rest(mine):
    made = mine.render({"picture": "cat.png", "count": 3.0, "look": "blue", "seed": 7})
    assert made.kind == "image"
    assert made.graph["1"]["inputs"]["image"] == "cat.png"
    assert made.graph["2"]["inputs"] == {
        "n": 64,
        "x": 0.5,
        "on": True,
        "mode": "z",
        "text": "",
        "seed": 7,
        "c": 2,
    }
    assert made.parameters["count"] == 3
    assert isinstance(made.parameters["count"], int)
    assert [model.name for model in made.models] == ["big.ckpt"]


def test_a_model_that_the_graph_no_longer_names_is_no_longer_needed(mine):
    assert mine.render({"picture": "cat.png", "model": "other.ckpt"}).models == ()


def test_a_seed_that_is_not_given_is_drawn_and_told(mine):
    first, second = (mine.render({"picture": "cat.png"}) for _ in range(2))
    assert first.parameters["seed"] != second.parameters["seed"]
    assert first.graph["2"]["inputs"]["seed"] == first.parameters["seed"]


def test_every_wrong_parameter_is_named_at_once(mine):
    with pytest.raises(BadRequest) as caught:
        mine.render({"count": 11, "widht": 8, "width": 9, "mode": "c", "on": "yes", "seed": -1})
    told = str(caught.value)
    assert "picture: is required; it must be the name of an input file" in told
    assert "count: 11 is not allowed; it must be a whole number from 1 to 10" in told
    assert "widht: no such parameter; there is width" in told
    assert "width: 9 is not allowed; it must be a whole number, a multiple of 8" in told
    assert 'mode: "c" is not allowed; it must be one of a, b' in told
    assert 'on: "yes" is not allowed; it must be true or false' in told
    assert "seed: -1 is not allowed" in told
    found = {problem["parameter"]: problem for problem in caught.value.info.detail["problems"]}
    assert found["count"]["given"] == "11"
    assert found["count"]["allowed"] == "a whole number from 1 to 10"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", True),
        ("count", 2.5),
        ("count", "2"),
        ("amount", 1.01),
        ("amount", float("nan")),
        ("amount", float("-inf")),
        ("amount", -(10**400)),
        ("on", 1),
        ("text", "too long"),
        ("text", 5),
        ("picture", "../x.png"),
        ("picture", ""),
        ("seed", 2**64),
        ("look", "green"),
        ("mode", ["a"]),
    ],
)
def test_a_value_of_another_kind_is_refused(mine, name, value):
    with pytest.raises(BadRequest, match=f"{name}: "):
        mine.render({"picture": "cat.png", name: value})


def test_text_from_a_command_line_is_read_by_type(mine):
    texts = {"count": "3", "amount": "0.25", "on": "True", "text": "3", "seed": "x", "huh": "1"}
    assert mine.parse(texts) == {
        "count": 3,
        "amount": 0.25,
        "on": True,
        "text": "3",
        "seed": "x",
        "huh": "1",
    }


def test_rendering_leaves_the_template_as_it_was(mine):
    before = copy.deepcopy(mine.graph)
    made = mine.render({"picture": "cat.png"})
    made.graph["2"]["inputs"]["n"] = 99
    assert mine.graph == before == GRAPH


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"work.on"', '"work.off"', "has no input 'off'"),
        ("default = 2", "default = 20", "default: must be a whole number from 1 to 10"),
        ('kind = "image"', 'kind = "song"', "kind: "),
        ('kind = "image"', 'kind = "image"\nkinds = 1', "kinds: "),
        ('choices = ["a", "b"]', "", "has choices or sets"),
        ('targets = ["load.image"]', "", "neither targets nor sets"),
        ("https://", "http://", "models.0.url"),
        ('["count"]', '["counts"]', "no such parameter: counts"),
        ("[cost]", "[cost", "mine.toml"),
    ],
)
def test_a_wrong_template_is_refused_by_file_and_field(folder, old, new, told):
    assert old in TOML
    (folder / "mine.toml").write_text(TOML.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadRequest) as caught:
        templates.load("mine", [folder])
    assert caught.value.code == "bad_template"
    assert "mine.toml" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize("text", [None, "{", '{"nodes": [], "links": []}'])
def test_a_template_without_its_graph_is_refused(folder, text):
    path = folder / "mine.json"
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    with pytest.raises(BadRequest, match=r"mine\.json"):
        templates.load("mine", [folder])


HELLO = templates.load("hello-video")
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.sampled_from(list(HELLO.parameters)) | st.text(), anything, max_size=4))
def test_whatever_is_given_is_rendered_or_refused(parameters):
    made = refused = None
    try:
        made = HELLO.render(parameters)
    except PennyreelError as problem:
        refused = problem
    if refused:
        assert refused.code == "bad_template"
        refused.info.model_dump_json()
    else:
        json.dumps(made.graph, allow_nan=False)
        assert HELLO.render(made.parameters) == made
