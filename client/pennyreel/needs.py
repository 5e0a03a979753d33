"""What a graph, or a template's graph, requires of the server that runs it."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from typing import Any

from pennyreel.need import Need
from pennyreel_comfy import graph as graphs
from pennyreel_comfy.preflight.tables import folder_of
from pennyreel_comfy.templates import Rendered, Template

_KINDS = (
    ("video", ("video", "webm", "animated", "vhs_")),
    ("audio", ("audio",)),
    ("model3d", ("glb", "3d")),
)
"""Words in the class names of output nodes, and what those nodes make."""

_NAMES_A_FILE = re.compile(r"(^|_)(name|file|model|ckpt|lora|vae|unet|clip)\d*$", re.IGNORECASE)
"""Inputs that name a model, by their own names."""

_STEERING = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What steers a terminal, or cannot be stored."""


def of_template(template: Template, rendered: Rendered, *, seed: bool = False) -> Need:
    """Return what a template needs with these parameters; `seed`: one was asked for."""
    values = rendered.parameters
    packs = tuple(pack.name for pack in template.needs.node_packs)
    return Need(
        kind=rendered.kind,
        workflow=True,
        template=template.name,
        seed=seed,
        steps=_whole(values.get("steps")),
        models=models_of(rendered.graph, {m.name: m.folder for m in rendered.models}),
        node_packs=packs,
        classes=classes_of(rendered.graph),
        vram_min_bytes=template.needs.vram_min_bytes,
        vram_good_bytes=template.needs.vram_comfortable_bytes,
        profile=template.name,
        size=_size(template, values),
    )


def of_graph(graph: Mapping[str, Any], *, seed: bool = False, files: bool = False) -> Need:
    """Return what a stranger's graph needs, as far as its nodes' names tell."""
    classes = sorted(str(node.get("class_type")) for node in graph.values())
    named = hashlib.sha256("\n".join(classes).encode("utf-8", "replace")).hexdigest()[:12]
    return Need(
        kind=_kind(dict(graph)),
        workflow=True,
        image_input=files,
        lora=any("Lora" in name for name in classes),
        seed=seed,
        models=models_of(graph),
        classes=classes_of(graph),
        profile=f"graph-{named}",
    )


def classes_of(graph: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of a graph's node classes, sorted, each once."""
    return tuple(sorted({_told(str(node.get("class_type"))) for node in graph.values()}))


def models_of(
    graph: Mapping[str, Any], folders: Mapping[str, str] | None = None
) -> tuple[tuple[str, str], ...]:
    """Return (folder, name) of the model files that a graph names, each once, in its order.

    `folders` has those that are known, by the file's name; else the class and the input tell. A
    text that only ends like a file, a prompt for example, is none.
    """
    found: dict[tuple[str, str], None] = {}
    for node, name, value in graphs.model_names(dict(graph)):
        folder = (folders or {}).get(value) or folder_of(graph[node]["class_type"], name)
        if folder or _NAMES_A_FILE.search(name):
            found[folder, _told(value.replace("\\", "/"))] = None
    return tuple(found)


def _told(name: str) -> str:
    """Return a name as it may be stored and printed: no server has one with what is replaced."""
    return _STEERING.sub("\ufffd", name)


def _kind(graph: dict[str, Any]) -> str:
    outputs = [str(graph[n].get("class_type")).lower() for n in graphs.output_candidates(graph)]
    for kind, words in _KINDS:
        if any(word in name for name in outputs for word in words):
            return kind
    return "image"


def _size(template: Template, values: Mapping[str, Any]) -> float:
    """Return the work as a multiple of that with the defaults: time is linear in each."""
    factors = []
    for name in template.cost.scales_with if template.cost else ():
        usual, value = template.parameters[name].default, values.get(name)
        if isinstance(usual, (int, float)) and isinstance(value, (int, float)) and usual:
            factors.append(value / usual)
    return math.prod(factors)


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None
