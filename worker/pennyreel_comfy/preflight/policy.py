"""What an untrusted graph may not do on the server, and what in it costs money."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache, lru_cache
from typing import Any

from pennyreel_comfy.preflight.catalogue import InputSpec, NodeCatalogue
from pennyreel_comfy.preflight.finding import Finding, shown
from pennyreel_comfy.preflight.paths import (
    media,
    other_folder,
    path_like,
    steps_up,
    strings,
    unsafe,
)
from pennyreel_comfy.preflight.tables import table
from pennyreel_contract import Code

ALL = "*"  # in `allow`: every class
_TEXT = ("STRING", "*")  # types of inputs by which a path may come
_ADVICE = "Pass files as inputs of the job instead, or have the operator allow this node"


def refused_nodes(
    graph: Mapping[str, Any],
    catalogue: NodeCatalogue | Mapping[str, Any],
    allow: frozenset[str] = frozenset(),
) -> list[Finding]:
    """Return what a graph may not do, with the code `node_refused`.

    A class of `unsafe.toml` is refused whatever its inputs are. In any other node a value is, if
    its input names a file, folder or URL and it leads out of ComfyUI's own folders: an absolute
    path, a step up, a home folder, a URL, or another folder by "[output]" or "[temp]". Prompts are
    never looked at: only inputs that are named or declared for files.

    Args:
        graph: API format.
        catalogue: the server's classes.
        allow: classes that the operator allows, to which no rule applies; "*" for all.

    """
    if ALL in allow:
        return []
    catalogue = NodeCatalogue.of(catalogue)
    return [
        finding
        for key, node in graph.items()
        if isinstance(node, dict) and isinstance(node.get("class_type"), str)
        if node["class_type"] not in allow
        for finding in _node(key, node, graph, catalogue)
    ]


def paid_nodes(graph: Mapping[str, Any], catalogue: NodeCatalogue | Mapping[str, Any]) -> list[str]:
    """Return the classes in a graph that call a paid API, each once, in the graph's order.

    /object_info marks them with `api_node`. Such a graph must never be run a second time by itself.
    """
    catalogue = NodeCatalogue.of(catalogue)
    found: dict[str, None] = {}
    for node in graph.values():
        spec = catalogue.get(node.get("class_type")) if isinstance(node, dict) else None
        if spec and spec.paid:
            found[spec.name] = None
    return list(found)


def _node(
    key: str, node: Mapping[str, Any], graph: Mapping[str, Any], catalogue: NodeCatalogue
) -> Iterator[Finding]:
    name = node["class_type"]
    reason = _reason(name)
    if reason:
        yield _finding(key, name, None, f"this worker does not run it: {reason}")
        return
    spec = catalogue.get(name)
    inputs = node.get("inputs")
    for field, value in inputs.items() if isinstance(inputs, dict) else ():
        declared = spec.inputs.get(field) if spec else None
        why = _why(field, value, declared, graph)
        if why:
            yield _finding(key, name, field, why, value)


def _why(
    field: str, value: Any, declared: InputSpec | None, graph: Mapping[str, Any]
) -> str | None:
    """Return why a value is refused, or None."""
    choice = declared is not None and declared.type == "COMBO"
    file = declared is not None and (declared.upload or (declared.judged and choice))
    named = path_like(field, declared)
    if isinstance(value, list):
        # ComfyUI keeps what is linked to a choice, such as a model's name, in its own folders.
        takes_text = file or (named and (declared is None or declared.type in _TEXT))
        free = declared is None or field.startswith("filename_prefix")
        return _linked(value, graph, free=free) if takes_text else None
    # The name tells where nothing is known of the class, as while ComfyUI is down.
    file = file or media(field)
    if not (choice or file or named):
        return None
    for text in strings(value):
        if declared and declared.options and text in declared.options:
            continue
        found = unsafe(text)
        if found:
            return found
        if file and other_folder(text):
            return "it reads from the folder of other jobs"
    return None


def _linked(link: list[Any], graph: Mapping[str, Any], *, free: bool) -> str | None:
    """Judge a path that comes by a link.

    From a node that only holds a text it is judged like a literal. Where a node puts it together
    nobody can foretell it: pieces that are harmless may make a path that is not. Where that is
    `free` they must only have no steps up: ComfyUI itself holds a filename_prefix to its output
    folder, and what an undeclared input takes need not be a text at all.
    """
    source, texts, links = _pieces(link, graph)
    if not links and len(texts) <= 1:
        found = next(filter(None, map(unsafe, texts)), None)
        return f"linked from node {source}: {found}" if found else None
    if not free:
        return f"its path is put together by node {source}"
    seen = {source}
    while links:
        source, more, further = _pieces(links.pop(), graph)
        if source not in seen:
            seen.add(source)
            texts += more
            links += further
    return "it is put together with .." if any(map(steps_up, texts)) else None


def _pieces(link: list[Any], graph: Mapping[str, Any]) -> tuple[str, list[str], list[list[Any]]]:
    """Return a link's source, and the literal texts and the links among its inputs."""
    source = link[0] if len(link) == 2 and isinstance(link[0], str) else ""
    node = graph.get(source)
    inputs = node.get("inputs") if isinstance(node, dict) else None
    values = list(inputs.values()) if isinstance(inputs, dict) else []
    texts = [text for one in values for text in strings(one)]
    return source, texts, [one for one in values if isinstance(one, list)]


@lru_cache(maxsize=4096)
def _reason(class_type: str) -> str | None:
    exact, patterns = _rules()
    found = exact.get(class_type)
    return found or next((why for search, why in patterns if search(class_type)), None)


@cache
def _rules() -> tuple[dict[str, str], list[tuple[Callable[[str], object], str]]]:
    exact: dict[str, str] = {}
    patterns: list[tuple[Callable[[str], object], str]] = []
    for rule in table("unsafe")["rule"]:
        exact.update(dict.fromkeys(rule["classes"], rule["reason"]))
        patterns += [(re.compile(p).search, rule["reason"]) for p in rule.get("patterns", ())]
    return exact, patterns


def _finding(
    key: str, name: str, field: str | None, why: str, value: object | None = None
) -> Finding:
    return Finding(
        code=Code.NODE_REFUSED,
        node=key,
        class_type=shown(name),
        input=field,
        type="node_refused",
        message=why,
        value=None if value is None else shown(value),
        suggestion=_ADVICE,
    )
