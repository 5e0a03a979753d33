"""Everything that is wrong with a graph, found at once, before ComfyUI is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, NamedTuple

from pennyreel_comfy.preflight import links, values
from pennyreel_comfy.preflight.catalogue import NodeCatalogue, NodeSpec
from pennyreel_comfy.preflight.finding import CARRIED, Finding, shown
from pennyreel_comfy.preflight.packs import near, pack_of
from pennyreel_comfy.preflight.paths import strings
from pennyreel_comfy.preflight.values import Problem, meant
from pennyreel_comfy.rejections import MODEL_FILE
from pennyreel_contract import Code

_GUESSED = CARRIED
"""Findings that get a suggestion; an error has no room for those of more."""


class _Told(NamedTuple):
    """A finding that is not weighed yet. `guess` and `late` are its problem's."""

    finding: Finding
    guess: Callable[[], str] | None = None
    late: bool = False


_Local = dict[str, list[_Told]]  # by node


def check(
    graph: Mapping[str, Any],
    catalogue: NodeCatalogue | Mapping[str, Any],
    *,
    files: AbstractSet[str] = frozenset(),
    arriving: AbstractSet[str] = frozenset(),
) -> list[Finding]:
    """Return all that is wrong with a graph, in its order; those that refuse it come first.

    A finding refuses only what ComfyUI itself certainly would, or certainly fails at: a class that
    it lacks anywhere, that none of the output nodes can be valid or none can be reached, or a link
    to nowhere by which ComfyUI would hang. Everything else is a warning: what stands where no
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
    unknown = [t for key in graph for t in _unknown(key, graph[key], catalogue)]
    local: _Local = {key: list(_node(key, graph, catalogue, files, arriving)) for key in graph}
    outputs = [key for key in graph if _is_output(graph[key], catalogue)]
    if outputs:
        return _suggested([*unknown, *_weighed(graph, catalogue, local, outputs)])
    for key in graph:
        local[key] += _dangling(key, graph, catalogue)
    mild = [t._replace(finding=replace(t.finding, refuses=False)) for k in graph for t in local[k]]
    # An unknown class may have been the output node.
    return _suggested([*(unknown or [_Told(_no_outputs())]), *mild])


def _weighed(
    graph: Mapping[str, Any], catalogue: NodeCatalogue, local: _Local, outputs: list[str]
) -> list[_Told]:
    """Make warnings of what does not refuse the graph, and put them last."""
    asked, run = links.declared(graph, catalogue), links.followed(graph, catalogue)
    read = links.reached(asked, outputs)
    rings = links.circles(asked, read)
    for ring in rings:
        local[ring[0]].append(_Told(_circle(ring, graph)))
    bad = {k for k, told in local.items() if any(t.finding.refuses and not t.late for t in told)}
    # Not output by output: a large graph may have thousands, each with thousands behind it.
    dropped = links.reaching(asked, bad.union(*rings))
    good = [key for key in outputs if key not in dropped]
    running = links.reached(run, good or outputs)
    failing = {k for k, told in local.items() if any(t.finding.refuses and t.late for t in told)}
    if good:  # what is a circle without a declared link is one only when it runs
        rings = links.circles(run, running)
        for ring in rings:
            local[ring[0]].append(_Told(_circle(ring, graph), late=True))
        failing = failing.union(*rings)
    refused = links.reaching(run, failing & running) >= {*good}
    found = []
    for key in graph:
        for told in local[key]:
            counts = refused and key in running if told.late else not good and key in read
            weight = told.finding.refuses and counts
            found.append(told._replace(finding=replace(told.finding, refuses=weight)))
        # Whatever else is good: ComfyUI's only thread of work ends with an error, and it hangs.
        found += [
            told._replace(finding=replace(told.finding, refuses=key in running))
            for told in _dangling(key, graph, catalogue)
        ]
    return sorted(found, key=lambda told: not told.finding.refuses)


def _suggested(found: list[_Told]) -> list[Finding]:
    """Return the findings, the first ones with what may have been meant."""
    return [
        replace(told.finding, suggestion=told.guess())
        if told.guess and number < _GUESSED
        else told.finding
        for number, told in enumerate(found)
    ]


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


def _unknown(key: str, node: Mapping[str, Any], catalogue: NodeCatalogue) -> Iterator[_Told]:
    name = node["class_type"]
    if name in catalogue:
        return
    pack = pack_of(name)
    advice = f"It is in the node pack {pack.name}: {pack.url}" if pack else ""
    text = f"this ComfyUI has no node class {shown(name)!r}"
    finding = Finding(
        Code.UNKNOWN_NODE, key, shown(name), None, "invalid_prompt", text, name, advice
    )
    yield _Told(finding, None if pack else lambda: meant(near(name, catalogue)))


def _is_output(node: Mapping[str, Any], catalogue: NodeCatalogue) -> bool:
    spec = catalogue.get(node["class_type"])
    return spec is not None and spec.output_node


def _node(
    key: str,
    graph: Mapping[str, Any],
    catalogue: NodeCatalogue,
    files: AbstractSet[str],
    arriving: AbstractSet[str],
) -> Iterator[_Told]:
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
            yield _told(key, spec, name, problem)
    yield from _undeclared(key, graph, spec, catalogue, arriving)


def _undeclared(
    key: str,
    graph: Mapping[str, Any],
    spec: NodeSpec,
    catalogue: NodeCatalogue,
    arriving: AbstractSet[str],
) -> Iterator[_Told]:
    """Yield models that stand in no declared input, as in a list of LoRAs that grows."""
    for name, value in graph[key]["inputs"].items():
        if name in spec.inputs or (isinstance(value, dict) and value.get("on") is False):
            continue
        for text in strings(value):
            if text not in arriving and MODEL_FILE.search(text) and text not in catalogue.models():
                yield _told(key, spec, name, values.missing_anywhere(text, catalogue.models()))


def _dangling(key: str, graph: Mapping[str, Any], catalogue: NodeCatalogue) -> Iterator[_Told]:
    """Yield links to nowhere that ComfyUI does not look at before the run."""
    spec = catalogue.get(graph[key]["class_type"])
    for name, source in links.waited(graph, catalogue, key) if spec else ():
        if source not in graph and spec and name not in spec.inputs:
            text = f"links to node {shown(source)}, which is not in the graph"
            value = graph[key]["inputs"][name]
            problem = Problem("exception_during_validation", text, certain=False, value=value)
            yield _told(key, spec, name, problem)


def _told(key: str, spec: NodeSpec, name: str | None, problem: Problem) -> _Told:
    finding = Finding(
        code=problem.code,
        node=key,
        class_type=spec.name,
        input=name,
        type=problem.type,
        message=problem.message,
        value=None if problem.value is None else shown(problem.value),
        refuses=problem.certain,
    )
    return _Told(finding, problem.guess, problem.late)


def _circle(ring: list[str], graph: Mapping[str, Any]) -> Finding:
    path = " -> ".join(map(shown, [*ring[:20], ring[0]]))
    following = ring[1] if len(ring) > 1 else ring[0]
    inputs = graph[ring[0]]["inputs"]
    name = next(n for n, v in inputs.items() if isinstance(v, list) and v[:1] == [following])
    text = f"its links go in a circle: {path}"
    kind = graph[ring[0]]["class_type"]
    return Finding(Code.BAD_WORKFLOW, ring[0], kind, name, "dependency_cycle", text)
