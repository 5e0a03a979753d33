"""The shipped workflows against the nodes as ComfyUI describes them.

data/templates_object_info.json is /object_info of ComfyUI 0.3.64 with AnimateDiff-Evolved and
VideoHelperSuite, cut down to the nodes that the workflows use. 0.3.75 says the same of them.
"""

import json
import runpy
from pathlib import Path

import pytest

from pennyreel_comfy import graph as graphs
from pennyreel_comfy import templates

INFO = json.loads((Path(__file__).parent / "data" / "templates_object_info.json").read_text())
TEMPLATES = {template.name: template for template in templates.list_templates()}
WORKFLOWS = templates.shipped()
MODEL_INPUTS = {"ckpt_name", "model_name"}  # their choices are the files that a server has

every_template = pytest.mark.parametrize("name", sorted(TEMPLATES))


def described(class_type):
    """Return {input: (type, options)} and the names of the required ones."""
    groups = INFO[class_type]["input"]
    inputs = {}
    for group in ("required", "optional"):
        for name, (kind, *rest) in groups.get(group, {}).items():
            inputs[name] = (kind, rest[0] if rest else {})
            # VideoHelperSuite lists a format's own inputs inside the format.
            for field, field_kind, *more in (
                inputs[name][1].get("formats", {}).get("video/h264-mp4", ())
            ):
                inputs[field] = (field_kind, more[0] if more else {})
    return inputs, set(groups.get("required", {}))


def problems(graph):
    for key, node in graph.items():
        if node["class_type"] not in INFO:
            yield f"{key}: no node {node['class_type']}"
            continue
        inputs, required = described(node["class_type"])
        yield from (f"{key}: {name} is missing" for name in required - set(node["inputs"]))
        for name, value in node["inputs"].items():
            if name not in inputs:
                yield f"{key}: no input {name}"
            elif problem := wrong(graph, value, name, *inputs[name]):
                yield f"{key}.{name}: {problem}"


def wrong(graph, value, name, kind, options):
    if graphs.is_link(value):
        given = INFO[graph[value[0]]["class_type"]]["output"][value[1]]
        return given != kind and f"{given} is linked to {kind}"
    if isinstance(kind, list) or kind == "COMBO":
        choices = kind if isinstance(kind, list) else options["options"]
        return name not in MODEL_INPUTS and value not in choices and f"{value!r} is no choice"
    types = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
    if not isinstance(value, types[kind]) or (isinstance(value, bool) and kind != "BOOLEAN"):
        return f"{value!r} is no {kind}"
    if kind in ("INT", "FLOAT"):
        low, high = options.get("min", value), options.get("max", value)
        return not low <= value <= high and f"{value} is not within {low} and {high}"
    return None


def extremes(parameter):
    """Return values at the ends of what a parameter allows."""
    if parameter.type == "choice":
        return list(parameter.choices)
    if parameter.type == "bool":
        return [True, False]
    if parameter.type == "seed":
        return [0, templates.SEED_MAX]
    return [value for value in (parameter.min, parameter.max) if value is not None]


@every_template
def test_the_nodes_inputs_links_and_choices_exist_in_comfyui(name):
    assert list(problems(graphs.parse(TEMPLATES[name].graph))) == []


@every_template
def test_whatever_a_parameter_allows_the_nodes_allow(name):
    template = TEMPLATES[name]
    for parameter, described_ in template.parameters.items():
        for value in extremes(described_):
            assert list(problems(template.render({parameter: value}).graph)) == []


@every_template
def test_the_graph_has_the_parameters_defaults(name):
    template = TEMPLATES[name]
    seeds = {key for key, value in template.parameters.items() if value.type == "seed"}
    given = dict.fromkeys(seeds, 0)
    graph, _ = graphs.set_seed(template.graph, 0)
    assert template.render(given).graph == graph


@every_template
def test_nodes_have_titles_of_their_own(name):
    titles = [node["_meta"]["title"] for node in TEMPLATES[name].graph.values()]
    assert len(set(titles)) == len(titles)


@every_template
def test_every_parameter_is_described(name):
    assert all(parameter.description for parameter in TEMPLATES[name].parameters.values())


@every_template
def test_every_model_that_the_graph_names_is_listed_with_its_checksum(name):
    made = TEMPLATES[name].render()
    assert {found.value for found in graphs.model_names(made.graph)} == {
        model.name for model in made.models
    }
    assert all(model.sha256 and model.bytes and model.licence for model in made.models)


@every_template
def test_one_node_saves_and_it_saves_below_pennyreel(name):
    graph = TEMPLATES[name].graph
    saving = [key for key, node in graph.items() if INFO[node["class_type"]]["output_node"]]
    assert len(saving) == 1
    assert graphs.output_candidates(graph) == saving
    assert graph[saving[0]]["inputs"]["filename_prefix"].startswith("pennyreel/")


@every_template
def test_custom_nodes_are_named_by_pack(name):
    used = {node["class_type"].partition("_")[0] for node in TEMPLATES[name].graph.values()}
    packs = {pack.name for pack in TEMPLATES[name].needs.node_packs}
    assert ("ComfyUI-AnimateDiff-Evolved" in packs) == ("ADE" in used)
    assert ("ComfyUI-VideoHelperSuite" in packs) == ("VHS" in used)


def test_hello_video_needs_no_model_no_pack_and_no_gpu():
    hello = TEMPLATES["hello-video"]
    assert hello.models == ()
    assert hello.needs.node_packs == ()
    assert hello.needs.vram_min_bytes == 0


def test_hello_video_is_what_its_program_writes():
    program = Path(__file__).parents[1] / "programs" / "hello_video.py"
    text = json.dumps(runpy.run_path(str(program))["build"](), indent=1) + "\n"
    assert (WORKFLOWS / "hello-video.json").read_text("utf-8") == text
