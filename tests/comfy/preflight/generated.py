"""Graphs of any classes of a ComfyUI, whole and spoilt, drawn from its /object_info."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

Graph = dict[str, dict[str, Any]]

VALUES: tuple[Any, ...] = (
    0, 1, 2, -1, 1.5, "2", "x", "", None, True, False, 10**9, -(10**9), {"a": 1}, "1e3", " 5 ",
    {"__value__": 2}, {"__value__": [1, 2]}, [], ["1"], ["1", 0, 0], ["no", 0], [1, 0], [1, 2, 3],
)  # fmt: skip
_DEEP, _MOST_NODES = 3, 40


class Maker:
    """Draws graphs; the same seed draws the same ones of the same ComfyUI."""

    def __init__(self, info: Mapping[str, Any], seed: int) -> None:
        """`info`: a parsed /object_info."""
        self._info, self._rng = info, random.Random(seed)  # noqa: S311 - not a secret
        self._givers: dict[str, list[tuple[str, int]]] = {}
        for name, node in info.items():
            for number, kind in enumerate(node.get("output") or ()):
                if isinstance(kind, str):
                    self._givers.setdefault(kind, []).append((name, number))

    def draw(self) -> Graph:
        """Return a graph with up to three random changes; most have none or one."""
        while True:
            graph: Graph = {}
            wanted = self._rng.choice(list(self._info))
            key = self._add(wanted, graph, 0)
            if key is None or len(graph) > _MOST_NODES or not self._seen(wanted, key, graph):
                continue
            for _ in range(self._rng.choice((0, 0, 1, 1, 2, 3))):
                self._spoil(graph)
            return graph

    def _inputs(self, name: str) -> Iterator[tuple[str, Any, bool]]:
        declared = self._info[name]["input"]
        for part in ("required", "optional"):
            for field, raw in (declared.get(part) or {}).items():
                if isinstance(raw, list) and raw:
                    yield field, raw, part == "required"

    def _add(self, name: str, graph: Graph, depth: int) -> str | None:
        """Add a node and what it needs; None where that cannot be had."""
        inputs: dict[str, Any] = {}
        for field, raw, required in self._inputs(name):
            if not required and self._rng.random() < 0.6:
                continue
            value = _literal(raw)
            if value is None:
                value = self._link(raw[0], name, graph, depth)
            if value is not None:
                inputs[field] = value
            elif required:
                return None
        key = str(len(graph) + 1)
        graph[key] = {"class_type": name, "inputs": inputs}
        return key

    def _link(self, kind: object, taker: str, graph: Graph, depth: int) -> list[Any] | None:
        kinds = ["IMAGE"] if kind == "*" else str(kind).split(",")
        found = [g for one in kinds for g in self._givers.get(one, ()) if g[0] != taker]
        if not found or depth > _DEEP:
            return None
        for giver, number in self._rng.sample(found, min(6, len(found))):
            key = self._add(giver, graph, depth + 1)
            if key is not None:
                return [key, number]
        return None

    def _seen(self, name: str, key: str, graph: Graph) -> bool:
        """See to it that an output node needs it."""
        if self._info[name].get("output_node"):
            return True
        outputs = self._info[name].get("output") or ()
        if outputs:
            source = [key, self._rng.randrange(len(outputs))]
            graph[str(len(graph) + 1)] = {"class_type": "PreviewAny", "inputs": {"source": source}}
        return bool(outputs)

    def _spoil(self, graph: Graph) -> None:
        rng, key = self._rng, self._rng.choice(list(graph))
        inputs = graph[key]["inputs"]
        fields = [field for field, _, _ in self._inputs(graph[key]["class_type"])] or ["nonsense"]
        how = rng.random()
        if how < 0.5:
            inputs[rng.choice(fields)] = rng.choice(VALUES)
        elif how < 0.8:
            inputs[rng.choice(fields)] = [rng.choice(list(graph)), rng.randint(-2, 3)]
        elif how < 0.9 and inputs:
            inputs.pop(rng.choice(list(inputs)))
        else:
            inputs["nonsense"] = rng.choice(VALUES)


def _literal(raw: list[Any]) -> Any:
    """Return a value that is within what an input says; None where it takes links alone."""
    kind, extra = raw[0], raw[1] if len(raw) > 1 and isinstance(raw[1], dict) else {}
    if extra.get("forceInput"):
        return None
    if isinstance(kind, list) or kind == "COMBO":
        options = kind if isinstance(kind, list) else extra.get("options") or ()
        return options[0] if options else None
    plain = {"INT": 1, "FLOAT": 1.0, "STRING": "x", "BOOLEAN": True}
    return extra.get("default", extra.get("min", plain[kind])) if kind in plain else None
