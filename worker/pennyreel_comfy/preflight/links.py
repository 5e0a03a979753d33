"""The links of a graph: do they lead somewhere, do they fit, do they go in a circle?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Any

from pennyreel_comfy.graph import is_link
from pennyreel_comfy.preflight.catalogue import InputSpec, NodeCatalogue, NodeSpec
from pennyreel_comfy.preflight.finding import shown
from pennyreel_comfy.preflight.values import Problem

Nodes = Mapping[str, Mapping[str, Any]]


def problem_of(
    nodes: Nodes, catalogue: NodeCatalogue, node: NodeSpec, spec: InputSpec, value: list[Any]
) -> Problem | None:
    """Return what is wrong with a list that stands as an input's value, or None."""
    if len(value) != 2:
        return Problem(
            "bad_linked_input",
            f"a list is a link [node id, output number], not {shown(value)}",
            certain=True,
            value=value,
        )
    source, number = value
    if not isinstance(source, str) or source not in nodes:
        return Problem(
            "exception_during_validation",
            f"links to node {shown(source)}, which is not in the graph",
            certain=True,
            value=value,
        )
    giver = catalogue.get(nodes[source]["class_type"])
    if giver is None:
        return None  # told where it stands
    count = len(giver.outputs)
    if not isinstance(number, int) or not -count <= number < count:
        outputs = f"; it has {', '.join(giver.outputs)}" if count else ""
        return Problem(
            "exception_during_validation",
            f"links to output {shown(number)} of node {source} ({giver.name}), "
            f"which has {count or 'none'}{outputs}",
            # A pack may answer to any number.
            certain=giver.known or not isinstance(number, int),
            value=value,
        )
    given = giver.outputs[number]
    if node.judges_links or spec.dynamic or fits(given, spec.type):
        return None
    return Problem(
        "return_type_mismatch",
        f"takes {spec.type}, and output {number} of node {source} ({giver.name}) is {given}",
        # Later versions let a text be linked to a choice.
        certain=giver.known and node.known and {given, spec.type} != {"STRING", "COMBO"},
        value=value,
    )


def fits(given: str, wanted: str) -> bool:
    """Tell whether an output may be linked to an input: equal, any, or a type in common."""
    if given == wanted or "*" in (given, wanted) or given.startswith("COMFY_"):
        return True
    return bool({t.strip() for t in given.split(",")} & {t.strip() for t in wanted.split(",")})


def declared(nodes: Nodes, catalogue: NodeCatalogue, key: str) -> Iterator[tuple[str, str]]:
    """Yield (input, source) of each link that ComfyUI follows while it validates."""
    spec = catalogue.get(nodes[key]["class_type"])
    inputs = nodes[key]["inputs"]
    for name in spec.inputs if spec else ():
        value = inputs.get(name)
        if isinstance(value, list) and is_link(value) and value[0] in nodes:
            yield name, value[0]


def reached(nodes: Nodes, catalogue: NodeCatalogue, starts: Iterable[str]) -> set[str]:
    """Return the nodes that these depend on, themselves included."""
    found: set[str] = set()
    ahead = list(starts)
    while ahead:
        key = ahead.pop()
        if key not in found:
            found.add(key)
            ahead += (source for _, source in declared(nodes, catalogue, key))
    return found


def reaching(nodes: Nodes, catalogue: NodeCatalogue, ends: Iterable[str]) -> set[str]:
    """Return the nodes that depend on any of these, themselves included."""
    readers: dict[str, list[str]] = {}
    for key in nodes:
        for _, source in declared(nodes, catalogue, key):
            readers.setdefault(source, []).append(key)
    found: set[str] = set()
    ahead = list(ends)
    while ahead:
        key = ahead.pop()
        if key not in found:
            found.add(key)
            ahead += readers.get(key, ())
    return found


def circle(nodes: Nodes, catalogue: NodeCatalogue, among: AbstractSet[str]) -> list[str]:
    """Return the ids of a circle, each reading the next; empty if there is none.

    `among` are the nodes to look at, with all that they read.
    """
    keys = [key for key in nodes if key in among]
    waits = {key: {source for _, source in declared(nodes, catalogue, key)} for key in keys}
    # What does not wait for anything that waits is no part of a circle.
    ready = [key for key, sources in waits.items() if not sources]
    readers: dict[str, list[str]] = {key: [] for key in keys}
    for key, sources in waits.items():
        for source in sources:
            readers[source].append(key)
    while ready:
        done = ready.pop()
        del waits[done]
        for key in readers[done]:
            waits[key].discard(done)
            if not waits[key]:
                ready.append(key)
    if not waits:
        return []
    path = [next(iter(waits))]
    while True:  # each node left waits for another one that is left
        following = min(waits[path[-1]])
        if following in path:
            return path[path.index(following) :]
        path.append(following)
