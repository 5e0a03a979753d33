"""The links of a graph: do they lead somewhere, do they fit, do they go in a circle?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from pennyreel_comfy.graph import is_link
from pennyreel_comfy.preflight.catalogue import InputSpec, NodeCatalogue, NodeSpec
from pennyreel_comfy.preflight.finding import shown
from pennyreel_comfy.preflight.values import Problem

Nodes = Mapping[str, Mapping[str, Any]]
Sources = Mapping[str, Sequence[str]]
"""The nodes that each one reads."""


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


def declared(nodes: Nodes, catalogue: NodeCatalogue) -> Sources:
    """Return the nodes by whose links ComfyUI goes while it validates: those of declared inputs."""
    return {key: [source for _, source in _asked(nodes, catalogue, key)] for key in nodes}


def followed(nodes: Nodes, catalogue: NodeCatalogue) -> Sources:
    """Return the nodes that ComfyUI certainly runs before each: by all its links but lazy ones."""
    return {
        key: [source for _, source in waited(nodes, catalogue, key) if source in nodes]
        for key in nodes
    }


def waited(nodes: Nodes, catalogue: NodeCatalogue, key: str) -> Iterator[tuple[str, str]]:
    """Yield (input, source) of each link that ComfyUI goes by when it is to run a node.

    Declared or not, and whether there is such a node or not (add_node of its graph.py).
    """
    spec = catalogue.get(nodes[key]["class_type"])
    for name, value in nodes[key]["inputs"].items():
        known = spec.inputs.get(name) if spec else None
        if is_link(value) and not (known and known.extra.get("lazy")):
            yield name, value[0]


def _asked(nodes: Nodes, catalogue: NodeCatalogue, key: str) -> Iterator[tuple[str, str]]:
    spec = catalogue.get(nodes[key]["class_type"])
    inputs = nodes[key]["inputs"]
    for name in spec.inputs if spec else ():
        value = inputs.get(name)
        if isinstance(value, list) and is_link(value) and value[0] in nodes:
            yield name, value[0]


def reached(sources: Sources, starts: Iterable[str]) -> set[str]:
    """Return the nodes that these depend on, themselves included."""
    found: set[str] = set()
    ahead = list(starts)
    while ahead:
        key = ahead.pop()
        if key not in found:
            found.add(key)
            ahead += sources[key]
    return found


def reaching(sources: Sources, ends: Iterable[str]) -> set[str]:
    """Return the nodes that depend on any of these, themselves included."""
    readers: dict[str, list[str]] = {}
    for key, read in sources.items():
        for source in read:
            readers.setdefault(source, []).append(key)
    return reached({**dict.fromkeys(sources, ()), **readers}, ends)


def circles(sources: Sources, among: AbstractSet[str]) -> list[list[str]]:
    """Return circles of ids, each reading the next; there is none that has nothing of these.

    `among` are the nodes to look at, with all that they read.
    """
    waits = {key: {*read} for key, read in sources.items() if key in among}
    readers: dict[str, list[str]] = {key: [] for key in waits}
    for key, read in waits.items():
        for source in read:
            readers[source].append(key)
    # What does not wait for anything that waits is no part of a circle.
    _release([key for key, read in waits.items() if not read], waits, readers)
    found: list[list[str]] = []
    path: dict[str, None] = {}
    while waits:
        # Each node that is left waits for another one that is left; so does the path's last one.
        if not path:
            path[next(iter(waits))] = None
        following = min(waits[next(reversed(path))])
        if following not in path:
            path[following] = None
            continue
        ring: list[str] = []
        while not ring or ring[-1] != following:
            ring.append(path.popitem()[0])
        found.append(ring[::-1])
        _release(ring, waits, readers)
        while path and next(reversed(path)) not in waits:
            path.popitem()
    return found


def _release(
    ready: list[str], waits: dict[str, set[str]], readers: Mapping[str, list[str]]
) -> None:
    """Take these out of what waits, and all that then waits for nothing more."""
    ready = list(ready)
    for key in ready:
        del waits[key]
    while ready:
        done = ready.pop()
        for key in readers[done]:
            if key in waits:
                waits[key].discard(done)
                if not waits[key]:
                    del waits[key]
                    ready.append(key)
