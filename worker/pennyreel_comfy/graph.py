"""API-format graphs: read them, name what they hold, change copies of them. No input or output.

A graph is what ComfyUI's POST /prompt takes: node id -> {"class_type", "inputs", "_meta"?}. An
input's value is a literal or a link [node id, output number]. No function here changes the graph
it is given.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import JsonValue

from pennyreel_contract.errors import Code, PennyreelError, error

Graph = dict[str, dict[str, Any]]

MODEL_SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
SEED_INPUTS = ("seed", "noise_seed")

_WRAPPERS = ("input", "prompt", "workflow")
_WRAPPED = "__value__"
_SHOWN = 20  # problems told in one error


class StringInput(NamedTuple):
    """A literal string and where it stands."""

    node: str
    input: str
    value: str


MARK = "pennyreel_attempt"


def parse(source: object, *, links: bool = True) -> Graph:
    """Read a graph from a dict, or from JSON as str or bytes.

    A body that wraps it, as saved from /prompt or sent to a worker, is unwrapped. `links=False`
    leaves links to nodes that are missing: `preflight.check` tells them with all else. A value in
    ComfyUI's __value__ is taken out, unless it is a list.

    Raises:
        BadRequest: `ui_format` for a graph saved in the editor's format; `bad_workflow` naming
            each node that is wrong.

    """
    body = _plain(source)
    for _ in _WRAPPERS:
        body = _unwrap(body)
    if not isinstance(body, dict):
        raise error(Code.BAD_WORKFLOW, f"a workflow is a JSON object, not {_kind(body)}")
    if isinstance(body.get("nodes"), list):
        raise error(
            Code.UI_FORMAT, "this workflow is in the editor's format, which ComfyUI cannot run"
        )
    if not body:
        raise error(Code.BAD_WORKFLOW, "the workflow has no nodes")
    problems = [text for key, node in body.items() for text in _node_problems(key, node)]
    problems = problems or [text for key in body for text in _wrapping_problems(body, key)]
    if links and not problems:
        problems = [text for key in body for text in _link_problems(body, key)]
    if problems:
        raise error(
            Code.BAD_WORKFLOW,
            "; ".join(problems[:_SHOWN]),
            detail={"problems": problems[:_SHOWN], "count": len(problems)},
        )
    return body


def is_link(value: object) -> bool:
    """Tell a link from a literal as ComfyUI does: a list of a string and a number."""
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (int, float))
    )


def find_node(graph: Graph, name: str) -> str:
    """Return the id of the node called `name`: an id, or a title that only one node has.

    Raises:
        BadRequest: `bad_workflow`, naming what comes near.

    """
    if name in graph:
        return name
    titled: dict[str, list[str]] = {}
    for key, node in graph.items():
        titled.setdefault(_title(node), []).append(key)
    found = titled.get(name, []) if name else []
    if len(found) == 1:
        return found[0]
    if found:
        raise error(
            Code.BAD_WORKFLOW,
            f"{len(found)} nodes have the title {name!r}; use an id: {', '.join(found[:_SHOWN])}",
        )
    names = [*graph, *(title for title in titled if title)]
    raise error(Code.BAD_WORKFLOW, f"no node {name!r}{_near(name, names)}")


def find_input(graph: Graph, target: str, *, force: bool = False) -> tuple[str, str]:
    """Return (node id, input name) for "NODE.INPUT"; see `set_input`."""
    name, dot, field = target.rpartition(".")
    if not dot or not name or not field:
        raise error(Code.BAD_WORKFLOW, f"{target!r} should be NODE.INPUT, as in 3.seed")
    key = find_node(graph, name)
    inputs = graph[key]["inputs"]
    if field not in inputs and not force:
        raise error(
            Code.BAD_WORKFLOW,
            f"node {_label(graph, key)} has no input {field!r}{_near(field, list(inputs))}",
        )
    return key, field


def set_input(graph: Graph, target: str, value: JsonValue, *, force: bool = False) -> Graph:
    """Return a copy in which the input `target` has `value`.

    Args:
        graph: the graph, left as it is.
        target: "NODE.INPUT"; NODE is an id, or a title that only one node has.
        value: a literal or a link.
        force: add the input where the node does not list it.

    Raises:
        BadRequest: `bad_workflow` where there is no such node or input, naming near ones.

    """
    key, field = find_input(graph, target, force=force)
    changed = copy.deepcopy(graph)
    changed[key]["inputs"][field] = copy.deepcopy(value)
    return changed


def set_text(graph: Graph, target: str, text: str, *, force: bool = False) -> Graph:
    """Set an input from text, as typed on a command line; the old value tells the type."""
    key, field = find_input(graph, target, force=force)
    try:
        value = parse_value(text, graph[key]["inputs"].get(field, ""))
    except PennyreelError as problem:
        raise error(Code.BAD_WORKFLOW, f"{target!r}: {problem}") from None
    return set_input(graph, target, value, force=force)


def parse_value(text: str, old: JsonValue) -> JsonValue:
    """Read `text` as a value of the type of `old`: JSON, but for strings, which are taken as is.

    Raises:
        BadRequest: `bad_workflow` where it is no such value.

    """
    if isinstance(old, str):
        return text
    try:
        value: JsonValue = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise error(Code.BAD_WORKFLOW, f"{text[:80]!r} is not {_kind(old)}") from None
    if old is not None and _kind(value) != _kind(old):
        raise error(Code.BAD_WORKFLOW, f"{text[:80]!r} is not {_kind(old)}")
    return value


def string_inputs(graph: Graph) -> Iterator[StringInput]:
    """Yield every literal string among the inputs, in the graph's order."""
    for key, node in graph.items():
        for name, value in node["inputs"].items():
            if isinstance(value, str):
                yield StringInput(key, name, value)


def rename_files(graph: Graph, names: Mapping[str, str]) -> Graph:
    """Return a copy in which inputs that are exactly an old file name have the new one.

    ComfyUI's annotated form "name [input]" is renamed too; "[output]" and "[temp]" are not, since
    they name files of other folders.
    """
    changed = copy.deepcopy(graph)
    for key, name, value in string_inputs(graph):
        plain = value.removesuffix(" [input]")
        if plain in names:
            changed[key]["inputs"][name] = names[plain] + value[len(plain) :]
    return changed


def prefix_outputs(graph: Graph, prefix: str) -> Graph:
    """Return a copy whose output files go to the subfolder `prefix`.

    Every literal `filename_prefix` becomes "prefix/old". Steps up and absolute paths are taken out
    of both; ComfyUI's %tokens% stay.
    """
    changed = copy.deepcopy(graph)
    folder = _safe_path(prefix)
    for key, name, value in string_inputs(graph):
        if name == "filename_prefix":
            parts = [*folder, *(_safe_path(value) or ["ComfyUI"])]
            changed[key]["inputs"][name] = "/".join(parts)
    return changed


def mark_nodes(graph: Graph, nodes: Collection[str], mark: str) -> Graph:
    """Return a copy in which ComfyUI runs these nodes even where it has their outputs cached.

    They get an input that no node declares: ComfyUI ignores such a one (get_input_data of its
    execution.py), but its cache compares all inputs (get_immediate_node_signature of caching.py).
    """
    changed = copy.deepcopy(graph)
    for key in nodes:
        changed[key]["inputs"][MARK] = mark
    return changed


def set_seed(graph: Graph, seed: int) -> tuple[Graph, int]:
    """Return a copy with `seed` in every literal integer seed, and how many there were."""
    changed = copy.deepcopy(graph)
    count = 0
    for node in changed.values():
        for name in SEED_INPUTS:
            value = node["inputs"].get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                node["inputs"][name] = seed
                count += 1
    return changed, count


def model_names(graph: Graph) -> list[StringInput]:
    """Return the inputs that look like the name of a model file, in the graph's order."""
    return [
        found
        for found in string_inputs(graph)
        if found.value.lower().endswith(MODEL_SUFFIXES)
        and len(found.value) <= 255
        and "\n" not in found.value
    ]


def output_candidates(graph: Graph) -> list[str]:
    """Return the ids of nodes that may save or show something, in the graph's order.

    Only /object_info knows which are output nodes. Without it these are likely: nodes that nothing
    reads, nodes with a `filename_prefix`, and those named Save… or Preview….
    """
    read = {
        value[0] for node in graph.values() for value in node["inputs"].values() if is_link(value)
    }
    return [
        key
        for key, node in graph.items()
        if key not in read
        or "filename_prefix" in node["inputs"]
        or node["class_type"].startswith(("Save", "Preview"))
    ]


def upstream(graph: Graph, starts: Iterable[str]) -> set[str]:
    """Return the nodes that ComfyUI runs for these: they, and all that they read by a link."""
    found: set[str] = set()
    ahead = [key for key in starts if key in graph]
    while ahead:
        key = ahead.pop()
        if key not in found:
            found.add(key)
            values = graph[key]["inputs"].values()
            ahead += [v[0] for v in values if is_link(v) and v[0] in graph]
    return found


def count(graph: Graph, class_type: str | None = None) -> int:
    """Return how many nodes there are, of one class or of all."""
    return sum(class_type in (None, node["class_type"]) for node in graph.values())


def _plain(source: object) -> Any:
    """Return `source` as JSON objects of our own, sharing nothing with the caller."""
    try:
        if isinstance(source, (bytes, bytearray)):
            source = bytes(source).decode("utf-8-sig")
        if not isinstance(source, str):
            source = json.dumps(source, allow_nan=False)
        return json.loads(source.removeprefix("\ufeff"), parse_constant=_refuse_constant)
    except (TypeError, ValueError, RecursionError) as problem:
        raise error(Code.BAD_WORKFLOW, f"the workflow is not JSON: {problem}") from None


def _unwrap(body: Any) -> Any:
    if not isinstance(body, dict) or isinstance(body.get("nodes"), list):
        return body
    # The editor's graphToPrompt gives both forms: the one that can run is its "output".
    for key in ("output", *_WRAPPERS) if "workflow" in body else _WRAPPERS:
        inner = body.get(key)
        if isinstance(inner, dict) and "class_type" not in inner:
            return inner
    return body


def _node_problems(key: str, node: object) -> Iterator[str]:
    if not isinstance(node, dict):
        yield f"node {key!r} is {_kind(node)}, not an object"
        return
    if not isinstance(node.get("class_type"), str) or not node["class_type"]:
        yield f"node {key!r} has no class_type"
    if not isinstance(node.get("inputs"), dict):
        yield f"node {key!r} has no inputs"
    if not isinstance(node.get("_meta", {}), dict):
        yield f"node {key!r}: _meta is {_kind(node['_meta'])}, not an object"


def _wrapping_problems(graph: Graph, key: str) -> Iterator[str]:
    """Take plain values out of ComfyUI's __value__, so that nothing here overlooks them.

    It is meant for lists that are no links; ComfyUI takes it off while it validates, and follows a
    link that was in it.
    """
    inputs = graph[key]["inputs"]
    for name, value in inputs.items():
        if not isinstance(value, dict) or _WRAPPED not in value:
            continue
        inner = value[_WRAPPED]
        again = isinstance(inner, dict) and _WRAPPED in inner
        if is_link(inner) or again:
            what = "a link" if is_link(inner) else "another one"
            yield f"node {_label(graph, key)}: input {name!r} has {what} inside {_WRAPPED}"
        elif not isinstance(inner, list):
            inputs[name] = inner


def _link_problems(graph: Graph, key: str) -> Iterator[str]:
    for name, value in graph[key]["inputs"].items():
        if is_link(value) and value[0] not in graph:
            yield (
                f"node {_label(graph, key)}: input {name!r} is linked to node {value[0]!r}, "
                "which is not in the workflow"
            )


def _safe_path(text: str) -> list[str]:
    parts = re.split(r"[\\/]", re.sub(r"[\x00-\x1f]", "", text))
    if re.fullmatch(r"[A-Za-z]:", parts[0]):
        parts = parts[1:]
    return [part for part in parts if part.strip(" .")]


def _title(node: dict[str, Any]) -> str:
    title = node.get("_meta", {}).get("title")
    return title if isinstance(title, str) else ""


def _label(graph: Graph, key: str) -> str:
    # A lone surrogate, which JSON can carry, would not survive on the wire.
    class_type = graph[key]["class_type"].encode("utf-8", "replace").decode()
    return f"{key!r} ({class_type})"


def _near(name: str, names: list[str]) -> str:
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names[:8]
    return f"; there is {', '.join(map(repr, close))}" if close else ""


def _kind(value: object) -> str:
    for kind, name in (
        (bool, "true or false"),
        ((int, float), "a number"),
        (str, "a string"),
        (list, "a list"),
        (dict, "an object"),
    ):
        if isinstance(value, kind):
            return name
    return "null" if value is None else type(value).__name__


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
