"""What an untrusted graph may not do on the server, and what in it costs money."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Any

from pennyreel_comfy.graph import is_link
from pennyreel_comfy.preflight.catalogue import InputSpec, NodeCatalogue, NodeSpec
from pennyreel_comfy.preflight.finding import Finding, shown
from pennyreel_comfy.preflight.paths import (
    media,
    other_folder,
    path_like,
    steps_up,
    strings,
    top,
    unsafe,
)
from pennyreel_comfy.preflight.tables import table
from pennyreel_contract import Code

ALL = "*"  # in `allow`: every class
_LONGEST = 200
"""Characters that a class's name may have: patterns look through names in square time, and hold the
interpreter's lock meanwhile."""

_TEXT = ("STRING", "*")  # types of inputs by which a path may come
_HELD = {"IMAGE", "MASK", "LATENT", "VIDEO", "AUDIO", "VHS_FILENAMES"}
"""Types of inputs that are named for a medium or for files, and take no names."""

_PREFIXED = {"VHS_VideoCombine"}
"""Classes that are not `known`, and have ComfyUI itself hold their filename_prefix."""
_OTHERS = "it reads from the folder of other jobs"
_BROUGHT = "it names a model that another job brought; have this job ask for it by its URL"
_DIGEST = re.compile("[0-9a-f]{64}")
_COMMAND = "it becomes part of a command, and may have letters, digits and _ . + - only"
_PLAIN = re.compile(r"[\w.+-]*", re.ASCII)
_SHOWN = "videopreview"
"""What the editor keeps of a player; the node never looks at it."""

_ADVICE = "Pass files as inputs of the job instead, or have the operator allow this node"


def refused_nodes(
    graph: Mapping[str, Any],
    catalogue: NodeCatalogue | Mapping[str, Any],
    allow: frozenset[str] = frozenset(),
    foreign: AbstractSet[str] = frozenset(),
    models: AbstractSet[str] = frozenset(),
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
        foreign: names in the input folder that belong to other jobs; nothing in them is read.
        models: files of models that other jobs brought, called by their sha256; not to be named.

    """
    if ALL in allow:
        return []
    digests = frozenset(name.partition(".")[0] for name in models)
    case = _Case(graph, NodeCatalogue.of(catalogue), foreign, digests)
    return [
        finding
        for key, node in graph.items()
        if isinstance(node, dict) and isinstance(node.get("class_type"), str)
        if node["class_type"] not in allow
        for finding in _node(key, node, case)
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


@dataclass(frozen=True)
class _Case:
    graph: Mapping[str, Any]
    catalogue: NodeCatalogue
    foreign: AbstractSet[str]
    digests: AbstractSet[str]

    @cached_property
    def climbing(self) -> frozenset[str]:
        """The nodes that have a text with a step up, or may be given one by a link."""
        readers: dict[str, list[str]] = {}
        waiting = []
        for key in self.graph:
            texts, links = _inputs_of(key, self.graph)
            if any(map(steps_up, texts)):
                waiting.append(key)
            for link in links:
                readers.setdefault(link[0], []).append(key)
        found: set[str] = set()
        while waiting:
            key = waiting.pop()
            if key not in found:
                found.add(key)
                waiting += readers.get(key, ())
        return frozenset(found)

    def wrong(self, text: str) -> str | None:
        """Return what is wrong with a text as a path, or None."""
        return unsafe(text) or (_OTHERS if top(text) in self.foreign else None)

    def strange(self, value: Any) -> bool:
        """Tell whether a literal has the name of another job's model, be it in a prompt."""
        return bool(self.digests) and any(
            found in self.digests for text in strings(value) for found in _DIGEST.findall(text)
        )

    def no_text(self, link: list[Any]) -> bool:
        """Tell whether a link surely brings something else than a text."""
        types = self._types(link)
        return bool(types) and not types & {*_TEXT, "COMBO"}

    def any_type(self, link: list[Any]) -> bool:
        """Tell whether a link may bring a text where a choice is due, and ComfyUI lets it pass."""
        types = self._types(link)
        return "*" in types or types > {"STRING"}

    def _types(self, link: list[Any]) -> set[str]:
        """Return the types of a link's source; nothing where its class is not known."""
        node, number = self.graph.get(link[0]), link[1]
        spec = self.catalogue.get(node.get("class_type")) if isinstance(node, dict) else None
        if spec is None:
            return set()
        count = len(spec.outputs)  # ComfyUI counts from behind, too, and a pack may count on
        if not isinstance(number, int) or not -count <= number < count:
            return {"*"}
        return {one.strip() for one in spec.outputs[number].split(",")}


def _node(key: str, node: Mapping[str, Any], case: _Case) -> Iterator[Finding]:
    name = node["class_type"]
    reason = _reason(name)
    if reason:
        yield _finding(key, name, None, f"this worker does not run it: {reason}")
        return
    spec = case.catalogue.get(name)
    inputs = node.get("inputs")
    for field, value in inputs.items() if isinstance(inputs, dict) else ():
        why = _why(field, value, spec, case)
        if not why and spec and name in _commands() and field not in spec.inputs:
            why = _command(field, value, case)
        if not why and case.strange(value):
            why = _BROUGHT
        if why:
            yield _finding(key, name, field, why, value)


def _why(field: str, value: Any, spec: NodeSpec | None, case: _Case) -> str | None:
    """Return why a value is refused, or None."""
    declared = spec.inputs.get(field) if spec else None
    choice = declared is not None and declared.type == "COMBO"
    file = declared is not None and (declared.upload or (declared.judged and choice))
    named = path_like(field, declared)
    if is_link(value):
        takes_text = file or (named and (declared is None or declared.type in _TEXT))
        # ComfyUI keeps what is linked to a choice, such as a model's name, in its own folders, but
        # passes what is of any type; and of files in the input folder it keeps nothing.
        chosen = declared is not None and (named or media(field)) and declared.type not in _HELD
        if takes_text or (chosen and case.any_type(value)):
            return _linked(field, value, case, free=_free(field, value, spec, case))
        return None
    # The name tells where nothing is known of the class, as while ComfyUI is down.
    file = file or media(field)
    if not (choice or file or named):
        return None
    return _literal(field, value, declared, case, named=file or named)


def _literal(
    field: str, value: Any, declared: InputSpec | None, case: _Case, *, named: bool
) -> str | None:
    for text in strings(value):
        # A choice of folders, too, lists those of other jobs.
        if named and top(text) in case.foreign:
            return _OTHERS
        if declared and declared.options and text in declared.options:
            continue
        found = unsafe(text) or (_annotated(field, text) if named else None)
        if found:
            return found
    return None


def _annotated(field: str, text: str) -> str | None:
    """Return what is wrong with a text that ends as the name of a file in another folder."""
    return _OTHERS if other_folder(text) and not field.startswith("filename_prefix") else None


def _free(field: str, link: list[Any], spec: NodeSpec | None, case: _Case) -> bool:
    """Tell whether a path may be put together: where it is held, or need not be a text at all."""
    if spec is None:  # nothing is known yet, or ComfyUI does not have it
        return True
    if field.startswith("filename_prefix") and (spec.known or spec.name in _PREFIXED):
        return True
    return field not in spec.inputs and case.no_text(link)


def _linked(field: str, link: list[Any], case: _Case, *, free: bool) -> str | None:
    """Judge a path that comes by a link.

    From a node that only holds a text it is judged like a literal. Where a node puts it together
    nobody can foretell it: pieces that are harmless may make a path that is not. Where that is
    `free` they must only have no steps up: ComfyUI itself holds the filename_prefix of the classes
    that ask it for their output's path, and what an undeclared input takes need not be a text.
    """
    source = link[0]
    texts, links = _inputs_of(source, case.graph)
    if not links and len(texts) <= 1:
        wrong = (case.wrong(text) or _annotated(field, text) for text in texts)
        found = next(filter(None, wrong), None)
        return f"linked from node {source}: {found}" if found else None
    if not free:
        return f"its path is put together by node {source}"
    return "it is put together with .." if source in case.climbing else None


def _command(name: str, value: Any, case: _Case) -> str | None:
    """Judge an undeclared input of a class that makes a command of it (see `unsafe.toml`)."""
    if name == _SHOWN:
        return None
    texts = [*strings(value)]
    if is_link(value):
        if case.no_text(value):
            return None
        texts, links = _inputs_of(value[0], case.graph)
        if links or len(texts) != 1:
            return _COMMAND
    return None if all(map(_PLAIN.fullmatch, texts)) else _COMMAND


def _inputs_of(key: str, graph: Mapping[str, Any]) -> tuple[list[str], list[list[Any]]]:
    """Return the literal texts and the links among a node's inputs."""
    node = graph.get(key)
    inputs = node.get("inputs") if isinstance(node, dict) else None
    values = list(inputs.values()) if isinstance(inputs, dict) else []
    links = [one for one in values if is_link(one)]
    return [text for one in values if not is_link(one) for text in strings(one)], links


def _reason(class_type: str) -> str | None:
    if len(class_type) > _LONGEST:
        return "no node has so long a name"
    return _ruled(class_type)


@lru_cache(maxsize=4096)
def _ruled(class_type: str) -> str | None:
    exact, patterns = _rules()
    found = exact.get(class_type)
    return found or next((why for search, why in patterns if search(class_type)), None)


@cache
def _commands() -> frozenset[str]:
    return frozenset(table("unsafe")["command"]["classes"])


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
