"""Graphs of any node class there is, with up to three things done to each. The same for a seed."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator, Sequence
from typing import Any

from comfy.preflight.graphs import Graph, node

_DEEPEST = 4
_LITERALS = {"INT": 1, "FLOAT": 1.0, "STRING": "a", "BOOLEAN": True}
_VALUES: list[Any] = [
    *(0, 1, -1, 0.5, 1.5, 2**70, -(2**70), 1e308, "1", "1.0", "1e3", " 2 ", "1_0", "nan", "inf"),
    *("", "x", "größe", "true", None, True, False, {}, {"a": 1}, [], ["1"], ["1", 0, 0], [1, 0]),
    *(["no", 0], [["1", 0], 0], [None, 0], ["1", None], [{}, 0], ["a", "b"], [0.5, 1.5]),
    *({"__value__": 1}, {"__value__": "x"}, {"__value__": []}, {"__value__": ["a", "b"]}),
    *({"__value__": None}, {"__value__": {"a": 1}}, {"content": "x", "image": "y"}),
    *("a.png", "a.png [input]", "a.png [output]", "b.wav", "c.mp4", "one.safetensors"),
    *("sub/three.safetensors", "sub\\three.safetensors", "One.safetensors", "nope.safetensors"),
]


class Mutants:
    """Makes graphs from a parsed /object_info."""

    def __init__(
        self, info: dict[str, Any], seed: int, classes: Sequence[str] | None = None
    ) -> None:
        self._info = info
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._classes = classes or sorted(info)
        self._givers: dict[str, list[tuple[str, int]]] = {}
        for name in sorted(info):
            for number, kind in enumerate(info[name]["output"]):
                for one in [kind] if isinstance(kind, str) else []:
                    self._givers.setdefault(one, []).append((name, number))
        for givers in self._givers.values():
            givers.sort(key=lambda giver: self._needs(giver[0]))

    def of_each_class(self) -> Iterator[tuple[str, Graph]]:
        """Yield each class with a graph around it that is as good as can be made."""
        for name in self._classes:
            yield name, self._around(name)

    def spoiled(self, count: int) -> Iterator[Graph]:
        """Yield graphs with one to three things done to each."""
        for _ in range(count):
            graph = self._around(self._random.choice(self._classes))
            if self._random.random() < 0.3:  # beside something, perhaps with another output
                more = self._around(self._random.choice(self._classes), "b:")
                graph = {**graph, **more}
            for _ in range(self._random.randint(1, 3)):
                self._spoil(graph)
            yield graph

    def _needs(self, name: str) -> int:
        return sum(
            not isinstance(raw[0], list) and raw[0] not in (*_LITERALS, "COMBO")
            for raw in self._info[name]["input"].get("required", {}).values()
        )

    def _around(self, name: str, prefix: str = "") -> Graph:
        graph: Graph = {}
        key = self._add(graph, name, prefix, 0)
        info = self._info[name]
        if not info["output_node"] and info["output"]:
            number = self._random.randrange(len(info["output"]))
            graph[f"{prefix}out"] = node("PreviewAny", source=[key, number])
        return graph

    def _add(self, graph: Graph, name: str, prefix: str, depth: int) -> str:
        key = f"{prefix}{len(graph) + 1}"
        graph[key] = made = node(name)
        made["_meta"] = {"title": name}
        declared = self._info[name]["input"]
        inputs = {**declared.get("required", {})}
        optional = (declared.get("optional") or {}).items()
        inputs |= {field: raw for field, raw in optional if self._random.random() < 0.3}
        for field, raw in inputs.items():
            value = self._good(graph, raw, prefix, depth)
            if value is not None:
                made["inputs"][field] = value
        return key

    def _good(self, graph: Graph, raw: list[Any], prefix: str, depth: int) -> Any:
        kind, extra = raw[0], raw[1] if len(raw) > 1 else {}
        options = kind if isinstance(kind, list) else extra.get("options")
        if isinstance(options, list) and (isinstance(kind, list) or kind == "COMBO"):
            return self._random.choice(options) if options else None
        if "default" in extra and extra["default"] is not None:
            return copy.deepcopy(extra["default"])
        if kind in _LITERALS:
            return extra.get("min", _LITERALS[kind])
        return self._link(graph, kind, prefix, depth)

    def _link(self, graph: Graph, kind: str, prefix: str, depth: int) -> Any:
        one = self._random.choice(kind.split(",")) if "," in kind else kind
        if one == "*":
            one = "IMAGE"
        givers = self._givers.get(one.strip(), [])
        if not givers or depth >= _DEEPEST:
            return None
        for key, made in graph.items():  # one that is there already
            outputs = self._info[made["class_type"]]["output"]
            if one in outputs and self._random.random() < 0.5 and depth > 0 and key == prefix + "2":
                return [key, outputs.index(one)]
        name, number = self._random.choice(givers[: 2 if depth else 6])
        return [self._add(graph, name, prefix, depth + 1), number]

    def _spoil(self, graph: Graph) -> None:
        pick = self._random.choice
        key = pick(list(graph))
        made = graph[key]
        declared = self._info.get(made["class_type"], {"input": {}})["input"]
        fields = [f for part in ("required", "optional") for f in declared.get(part) or {}]
        change = pick(["value"] * 5 + ["edge"] * 3 + ["link"] * 5 + ["drop", "class", "extra"])
        field = pick([*(fields or ["x"]), *made["inputs"]]) if change != "extra" else "undeclared"
        inputs = made["inputs"]
        if change in ("value", "extra"):
            inputs[field] = copy.deepcopy(pick(_VALUES))
        elif change == "edge":
            self._edge(declared, inputs)
        elif change == "link":
            inputs[field] = [pick(list(graph)), pick([0, 0, 0, 1, 2, -1, 99, True, 0.0, "0"])]
        elif change == "drop":
            inputs.pop(field, None)
        else:
            made["class_type"] = pick(self._classes)

    def _edge(self, declared: dict[str, Any], inputs: dict[str, Any]) -> None:
        found = [
            (field, raw[1])
            for part in ("required", "optional")
            for field, raw in (declared.get(part) or {}).items()
            if len(raw) > 1 and {"min", "max"} & {*raw[1]}
        ]
        if found:
            field, extra = self._random.choice(found)
            edge = self._random.choice([extra.get("min", 0), extra.get("max", 0)])
            value = edge + self._random.choice([-1, -0.001, 0, 0.001, 1])
            inputs[field] = self._random.choice([value, str(value), {"__value__": value}])
