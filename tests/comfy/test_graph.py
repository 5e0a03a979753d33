"""Graphs: what is read, what is refused, what is changed."""

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pennyreel_comfy import graph as graphs
from pennyreel_contract.errors import BadRequest, PennyreelError

GRAPH = {
    "1": {
        "class_type": "CheckpointLoaderSimple",
        "inputs": {"ckpt_name": "real.safetensors"},
        "_meta": {"title": "Load Checkpoint"},
    },
    "2": {
        "class_type": "CLIPTextEncode",
        "inputs": {"text": "a cat", "clip": ["1", 1]},
        "_meta": {"title": "Prompt"},
    },
    "3": {
        "class_type": "KSampler",
        "inputs": {"seed": 5, "steps": 20, "cfg": 7.0, "model": ["1", 0], "positive": ["2", 0]},
        "_meta": {"title": "KSampler"},
    },
    "4": {"class_type": "LoadImage", "inputs": {"image": "cat.png"}},
    "5": {"class_type": "LoadImage", "inputs": {"image": "cat.png [input]"}},
    "6": {
        "class_type": "SaveImage",
        "inputs": {"images": ["3", 0], "filename_prefix": "../../etc/ComfyUI", "on": True},
        "_meta": {"title": "KSampler"},
    },
}

junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["1", "2", "class_type", "inputs", "_meta", "prompt", "nodes"])
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
values = (
    st.text()
    | st.integers()
    | st.booleans()
    | st.none()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.tuples(st.sampled_from(["1", "2", "3"]), st.integers(0, 3)).map(list)
    | st.lists(st.integers(), max_size=3)
)
nodes = st.fixed_dictionaries(
    {
        "class_type": st.text(min_size=1),
        "inputs": st.dictionaries(
            st.sampled_from(["seed", "noise_seed", "image", "filename_prefix", "text"]) | st.text(),
            values,
            max_size=5,
        ),
    },
    optional={"_meta": st.fixed_dictionaries({"title": st.text() | st.integers()})},
)
workflows = st.fixed_dictionaries({"1": nodes, "2": nodes, "3": nodes})


def test_a_graph_is_read_from_a_dict_a_string_and_bytes():
    text = json.dumps(GRAPH)
    for source in (GRAPH, text, text.encode(), b"\xef\xbb\xbf" + text.encode()):
        assert graphs.parse(source) == GRAPH


@pytest.mark.parametrize(
    "wrap",
    [
        lambda g: {"prompt": g},
        lambda g: {"prompt": g, "client_id": "x", "extra_data": {}},
        lambda g: {"workflow": g},
        lambda g: {"input": {"workflow": g}},
        lambda g: {"input": {"prompt": {"prompt": g}}},
        lambda g: {"workflow": {"nodes": [], "links": []}, "output": g},
        lambda g: {"input": {"workflow": {"output": g, "workflow": {"nodes": []}}}},
    ],
)
def test_a_saved_request_body_is_unwrapped(wrap):
    assert graphs.parse(wrap(GRAPH)) == GRAPH


def test_a_node_with_the_id_prompt_is_a_node():
    graph = {"prompt": {"class_type": "A", "inputs": {}}}
    assert graphs.parse(graph) == graph


@pytest.mark.parametrize("wrap", [lambda g: g, lambda g: {"workflow": g}])
def test_the_editors_format_is_told_with_the_way_out(wrap):
    with pytest.raises(BadRequest) as caught:
        graphs.parse(wrap({"nodes": [{"id": 1, "type": "KSampler"}], "links": []}))
    assert caught.value.code == "ui_format"
    assert "Export (API)" in caught.value.hint


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ([GRAPH], "not a list"),
        ("3", "not a number"),
        ("null", "not null"),
        ({}, "no nodes"),
        ("{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ('{"1": NaN}', "NaN"),
        ({"1": float("inf")}, "not JSON"),
        ({"1": object()}, "not JSON"),
        ({"1": 5}, "node '1' is a number"),
        ({"1": {"inputs": {}}}, "node '1' has no class_type"),
        ({"1": {"class_type": "A"}}, "node '1' has no inputs"),
        ({"1": {"class_type": "A", "inputs": {}, "_meta": 1}}, "_meta is a number"),
        (
            {"1": {"class_type": "A", "inputs": {"model": ["9", 0]}}},
            "node '1' (A): input 'model' is linked to node '9'",
        ),
    ],
)
def test_what_is_no_graph_is_refused_by_name(source, told):
    with pytest.raises(BadRequest) as caught:
        graphs.parse(source)
    assert caught.value.code == "bad_workflow"
    assert told in str(caught.value)


def test_every_wrong_node_is_named_at_once():
    with pytest.raises(BadRequest) as caught:
        graphs.parse({"1": 1, "2": {}, "3": {"class_type": "A", "inputs": {}}})
    assert caught.value.info.detail["count"] == 3


def test_an_input_is_set_by_id_and_by_title():
    assert graphs.set_input(GRAPH, "3.steps", 4)["3"]["inputs"]["steps"] == 4
    assert graphs.set_input(GRAPH, "Prompt.text", "x")["2"]["inputs"]["text"] == "x"
    assert graphs.set_input(GRAPH, "3.new", 1, force=True)["3"]["inputs"]["new"] == 1


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("3.step", "has no input 'step'; there is 'steps'"),
        ("Promt.text", "no node 'Promt'; there is 'Prompt'"),
        ("KSampler.seed", "2 nodes have the title 'KSampler'; use an id: 3, 6"),
        ("3", "should be NODE.INPUT"),
        (".seed", "should be NODE.INPUT"),
    ],
)
def test_a_target_that_is_not_there_names_what_comes_near(target, told):
    with pytest.raises(BadRequest) as caught:
        graphs.set_input(GRAPH, target, 1)
    assert told in str(caught.value)


def test_text_is_read_as_the_old_values_type():
    assert graphs.set_text(GRAPH, "3.steps", "8")["3"]["inputs"]["steps"] == 8
    assert graphs.set_text(GRAPH, "3.cfg", "2")["3"]["inputs"]["cfg"] == 2
    assert graphs.set_text(GRAPH, "2.text", "8")["2"]["inputs"]["text"] == "8"
    assert graphs.set_text(GRAPH, "6.on", "false")["6"]["inputs"]["on"] is False
    assert graphs.set_text(GRAPH, "3.model", '["2", 0]')["3"]["inputs"]["model"] == ["2", 0]
    assert graphs.parse_value('{"a": 1}', None) == {"a": 1}


@pytest.mark.parametrize(
    ("target", "text"),
    [("3.steps", "many"), ("3.steps", "true"), ("3.cfg", "NaN"), ("6.on", "1"), ("3.model", "1")],
)
def test_text_of_another_type_is_refused(target, text):
    with pytest.raises(BadRequest, match=target):
        graphs.set_text(GRAPH, target, text)


def test_input_files_are_renamed_where_the_whole_value_is_their_name():
    changed = graphs.rename_files(GRAPH, {"cat.png": "job/cat.png", "a": "b"})
    assert changed["4"]["inputs"]["image"] == "job/cat.png"
    assert changed["5"]["inputs"]["image"] == "job/cat.png [input]"
    assert changed["2"]["inputs"]["text"] == "a cat"


def test_renaming_swaps_names_without_following_them():
    graph = {
        "1": {"class_type": "A", "inputs": {"a": "x", "b": "y", "c": "x [output]"}},
    }
    inputs = graphs.rename_files(graph, {"x": "y", "y": "x"})["1"]["inputs"]
    assert inputs == {"a": "y", "b": "x", "c": "x [output]"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ComfyUI", "job/ComfyUI"),
        ("../../etc/x", "job/etc/x"),
        ("/abs/x", "job/abs/x"),
        ("C:\\windows\\x", "job/windows/x"),
        ("a/./b//c/. ./.. /d", "job/a/b/c/d"),
        ("video/%date:yyyy-MM-dd%", "job/video/%date:yyyy-MM-dd%"),
        ("", "job/ComfyUI"),
        ("..", "job/ComfyUI"),
    ],
)
def test_outputs_are_moved_below_the_prefix(old, new):
    graph = graphs.set_input(GRAPH, "6.filename_prefix", old)
    for prefix in ("job", "../job/", "/job"):
        changed = graphs.prefix_outputs(graph, prefix)
        assert changed["6"]["inputs"]["filename_prefix"] == new


def test_every_literal_seed_is_set_and_no_link():
    graph = {
        "1": {"class_type": "A", "inputs": {"seed": 1}},
        "2": {"class_type": "B", "inputs": {"noise_seed": 2, "seed": ["1", 0]}},
        "3": {"class_type": "C", "inputs": {"seed": True}},
    }
    changed, count = graphs.set_seed(graph, 9)
    assert count == 2
    assert changed["1"]["inputs"] == {"seed": 9}
    assert changed["2"]["inputs"] == {"noise_seed": 9, "seed": ["1", 0]}
    assert changed["3"]["inputs"] == {"seed": True}


def test_models_outputs_and_counts_are_found():
    assert graphs.model_names(GRAPH) == [("1", "ckpt_name", "real.safetensors")]
    assert graphs.output_candidates(GRAPH) == ["4", "5", "6"]
    assert graphs.count(GRAPH) == 6
    assert graphs.count(GRAPH, "LoadImage") == 2


@given(junk)
def test_whatever_is_read_is_a_graph_or_refused(source):
    try:
        graph = graphs.parse(source)
    except PennyreelError as problem:
        problem.info.model_dump_json()
    else:
        assert graphs.parse(graph) == graph


@given(st.text() | st.binary())
def test_whatever_text_is_read_is_a_graph_or_refused(source):
    with pytest.raises(PennyreelError):
        graphs.parse(source)


@settings(deadline=None)
@given(workflows, st.text(), st.text(), st.integers(0, 2**64 - 1))
def test_nothing_changes_the_callers_graph(workflow, text, prefix, seed):
    graph = graphs.parse(workflow)
    before = copy.deepcopy(graph)
    found = list(graphs.string_inputs(graph))
    graphs.rename_files(graph, {item.value: text for item in found})
    moved = graphs.prefix_outputs(graph, prefix)
    graphs.set_seed(graph, seed)
    graphs.model_names(graph)
    assert set(graphs.output_candidates(graph)) <= set(graph)
    for target in (text, f"1.{text}", *(f"{item.node}.{item.input}" for item in found)):
        for change in (graphs.set_input, graphs.set_text):
            _changed_or_refused(change, graph, target, text)
    assert graph == before
    assert workflow == before
    for node, name, value in graphs.string_inputs(moved):
        if name == "filename_prefix":
            parts = value.split("/")
            assert value
            assert not value.startswith("/")
            assert ".." not in [part.strip() for part in parts], node
            assert "\\" not in value


def _changed_or_refused(change, graph, target, text):
    try:
        change(graph, target, text)
    except PennyreelError as problem:
        problem.info.model_dump_json()


def test_a_value_in_comfyuis_wrapper_is_taken_out_and_a_link_in_it_refused() -> None:
    def parsed(value: object) -> object:
        graph = {"7": {"class_type": "Some", "inputs": {"a": {"__value__": value}}}}
        return graphs.parse(graph)["7"]["inputs"]["a"]

    assert parsed("x.png") == "x.png"
    assert parsed(4) == 4
    assert parsed(None) is None
    assert parsed(["a", "b"]) == {"__value__": ["a", "b"]}
    for value in (["7", 0], ["gone", 1.0], {"__value__": ["7", 0]}, {"__value__": "x"}):
        with pytest.raises(BadRequest, match=r"'7' \(Some\): input 'a' has") as caught:
            parsed(value)
        assert caught.value.code == "bad_workflow"


def test_a_wrapped_name_is_renamed_and_a_wrapped_prefix_gets_its_folder() -> None:
    graph = graphs.parse(
        {
            "1": {"class_type": "LoadImage", "inputs": {"image": {"__value__": "cat.png"}}},
            "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": {"__value__": "x"}}},
        }
    )
    graph = graphs.prefix_outputs(graphs.rename_files(graph, {"cat.png": "me/cat.png"}), "me")
    assert graph["1"]["inputs"]["image"] == "me/cat.png"
    assert graph["2"]["inputs"]["filename_prefix"] == "me/x"


def test_what_runs_is_what_an_output_reads_by_whatever_input() -> None:
    graph = {
        "1": {"class_type": "A", "inputs": {}},
        "2": {
            "class_type": "B",
            "inputs": {"any": ["1", 0], "lost": ["77", 0], "list": ["x", "y"]},
        },
        "3": {"class_type": "Save", "inputs": {"images": ["2", 0]}},
        "4": {"class_type": "C", "inputs": {"images": ["2", 0]}},
        "5": {"class_type": "Circle", "inputs": {"self": ["5", 0]}},
    }
    assert graphs.upstream(graph, ["3"]) == {"1", "2", "3"}
    assert graphs.upstream(graph, ["5", "99"]) == {"5"}
    assert graphs.upstream(graph, []) == set()
