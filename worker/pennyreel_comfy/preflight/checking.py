"""Everything that is wrong with a graph, found at once, before ComfyUI is asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any

from pennyreel_comfy.preflight import links, values
from pennyreel_comfy.preflight.catalogue import NodeCatalogue, NodeSpec
from pennyreel_comfy.preflight.finding import Finding, shown
from pennyreel_comfy.preflight.packs import near, pack_of
from pennyreel_comfy.preflight.values import Problem, meant
from pennyreel_contract import Code

_Local = dict[str, list[Finding]]  # by node


def check(
    graph: Mapping[str, Any],
    catalogue: NodeCatalogue | Mapping[str, Any],
    *,
    files: AbstractSet[str] = frozenset(),
    arriving: AbstractSet[str] = frozenset(),
) -> list[Finding]:
    """Return all that is wrong with a graph, in its order; those that refuse it come first.

    A finding refuses only what ComfyUI itself certainly would: a class that it lacks anywhere, or
    that none of the output nodes can be valid. Everything else is a warning: what stands where no
    output node reads it, what hits one output while another is good, and what a custom node might
    accept by a validation of its own. Never raises for any JSON object.

    Args:
        graph: API format, as `graph.parse` returns it.
        catalogue: the server's classes; a parsed /object_info will do, more slowly.
        files: names of input files that the job brings.
        arriving: names of model files that will be there by the time the graph runs.

    """
    catalogue = NodeCatalogue.of(catalogue)
    broken = list(_shape(graph))
    if broken:
        return broken
    unknown = [f for key in graph for f in _unknown(key, graph[key], catalogue)]
    local: _Local = {key: list(_node(key, graph, catalogue, files, arriving)) for key in graph}
    outputs = [key for key in graph if _is_output(graph[key], catalogue)]
    if not outputs:
        found = [replace(f, refuses=False) for key in graph for f in local[key]]
        # An unknown class may have been the output node.
        return [*(unknown or [_no_outputs()]), *found]
    read = links.reached(graph, catalogue, outputs)
    ring = links.circle(graph, catalogue, read)
    if ring:
        local[ring[0]].append(_circle(ring, graph))
    bad = {key for key, findings in local.items() if any(f.refuses for f in findings)}
    # Not output by output: a large graph may have thousands, each with thousands behind it.
    none_good = links.reaching(graph, catalogue, bad.union(ring)) >= {*outputs}
    return [*unknown, *_weighed(graph, local, read, none_good=none_good)]


def _weighed(
    graph: Mapping[str, Any], local: _Local, read: set[str], *, none_good: bool
) -> list[Finding]:
    """Make warnings of what does not refuse the graph, and put them last."""
    found = [
        replace(finding, refuses=finding.refuses and none_good and key in read)
        for key in graph
        for finding in local[key]
    ]
    return sorted(found, key=lambda finding: not finding.refuses)


def _shape(graph: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what keeps a graph from being read at all; `graph.parse` refuses the same."""
    if isinstance(graph.get("nodes"), list):
        text = "this workflow is in the editor's format, which ComfyUI cannot run"
        advice = "In ComfyUI use Workflow > Export (API) and send that file"
        yield Finding(Code.UI_FORMAT, "", "", None, "ui_format", text, None, advice)
        return
    if not graph:
        yield _no_outputs()
    for key, node in graph.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            text = "it is no node: an object with class_type and inputs"
            yield Finding(Code.BAD_WORKFLOW, key, "?", None, "invalid_prompt", text)
        elif not isinstance(node.get("inputs"), dict):
            text, name = "it has no inputs", node["class_type"]
            yield Finding(Code.BAD_WORKFLOW, key, name, None, "invalid_prompt", text)


def _no_outputs() -> Finding:
    text = "the graph has no output node, so there is nothing to run"
    advice = "Add an output node, such as SaveImage"
    return Finding(Code.NO_OUTPUTS, "", "", None, "prompt_no_outputs", text, None, advice)


def _unknown(key: str, node: Mapping[str, Any], catalogue: NodeCatalogue) -> Iterator[Finding]:
    name = node["class_type"]
    if name in catalogue:
        return
    pack = pack_of(name)
    if pack:
        advice = f"It is in the node pack {pack.name}: {pack.url}"
    else:
        advice = meant(near(name, catalogue))
    text = f"this ComfyUI has no node class {shown(name)!r}"
    yield Finding(Code.UNKNOWN_NODE, key, shown(name), None, "invalid_prompt", text, name, advice)


def _is_output(node: Mapping[str, Any], catalogue: NodeCatalogue) -> bool:
    spec = catalogue.get(node["class_type"])
    return spec is not None and spec.output_node


def _node(
    key: str,
    graph: Mapping[str, Any],
    catalogue: NodeCatalogue,
    files: AbstractSet[str],
    arriving: AbstractSet[str],
) -> Iterator[Finding]:
    node = graph[key]
    spec = catalogue.get(node["class_type"])
    if spec is None:
        return
    for name, declared in spec.inputs.items():
        if name in node["inputs"]:
            value = node["inputs"][name]
            if isinstance(value, list):
                problem = links.problem_of(graph, catalogue, spec, declared, value)
            else:
                problem = values.problem_of(spec, declared, value, files=files, arriving=arriving)
        elif declared.required and not declared.dynamic:
            problem = Problem("required_input_missing", "Required input is missing", certain=True)
        else:
            continue
        if problem:
            yield _finding(key, spec, name, problem)
    yield from _undeclared(key, graph, spec)


def _undeclared(key: str, graph: Mapping[str, Any], spec: NodeSpec) -> Iterator[Finding]:
    """Yield links that ComfyUI does not look at before the run, and then stumbles over."""
    for name, value in graph[key]["inputs"].items():
        if name in spec.inputs or not isinstance(value, list) or len(value) != 2:
            continue
        if isinstance(value[0], str) and value[0] not in graph:
            text = f"links to node {shown(value[0])}, which is not in the graph"
            problem = Problem("exception_during_validation", text, certain=False, value=value)
            yield _finding(key, spec, name, problem)


def _finding(key: str, spec: NodeSpec, name: str | None, problem: Problem) -> Finding:
    return Finding(
        code=problem.code,
        node=key,
        class_type=spec.name,
        input=name,
        type=problem.type,
        message=problem.message,
        value=None if problem.value is None else shown(problem.value),
        suggestion=problem.suggestion,
        refuses=problem.certain,
    )


def _circle(ring: list[str], graph: Mapping[str, Any]) -> Finding:
    path = " -> ".join(map(shown, [*ring[:20], ring[0]]))
    following = ring[1] if len(ring) > 1 else ring[0]
    inputs = graph[ring[0]]["inputs"]
    name = next(n for n, v in inputs.items() if isinstance(v, list) and v[:1] == [following])
    text = f"its links go in a circle: {path}"
    kind = graph[ring[0]]["class_type"]
    return Finding(Code.BAD_WORKFLOW, ring[0], kind, name, "dependency_cycle", text)
