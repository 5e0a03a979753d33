"""From what a caller names (a workflow or template, values, files) to work ready to be sent."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import JsonValue, ValidationError

from pennyreel import _http, needs, sources
from pennyreel.backends.base import Work
from pennyreel.config import well_formed
from pennyreel.errors import Code, JobTimeout, PennyreelError, error
from pennyreel.sources import Given, Source
from pennyreel_comfy import graph as graphs
from pennyreel_comfy import templates
from pennyreel_comfy.templates import Template
from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import ModelNeed, Outputs, new_attempt_id

Workflow: TypeAlias = "str | os.PathLike[str] | Mapping[str, Any]"

MAX_WORKFLOW_BYTES = 20_000_000
FILE_INPUTS = ("image", "video", "audio", "file")
"""Inputs that name a file, by which `--input NODE=FILE` finds the one it means."""


@dataclass(frozen=True)
class Order:
    """What a caller wants; see `Client.run` for each field."""

    workflow: Workflow
    set: Mapping[str, JsonValue]
    set_text: Mapping[str, str]
    inputs: Mapping[str, Given]
    parameters: Mapping[str, JsonValue]
    parameters_text: Mapping[str, str]
    seed: int | None = None
    timeout_s: float | None = None
    nodes: Collection[str] | None = None
    kinds: Collection[str] | None = None
    temp: bool = False
    preview: bool = False
    metadata: Mapping[str, JsonValue] | None = None


def build(order: Order, *, attempt_id: str | None = None) -> Work:
    """Return the work, its attempt's id minted.

    Raises:
        BadRequest: naming what is wrong with the workflow, a value or a file.

    """
    named: dict[str, Source] = {}
    loaded = load(order.workflow, Deadline(order.timeout_s))
    models: tuple[ModelNeed, ...] = ()
    seed, need = order.seed, None
    if isinstance(loaded, Template):
        values, named = _parameters(loaded, order)
        rendered = loaded.render(values)
        graph = rendered.graph
        models = tuple(
            ModelNeed(folder=m.folder, name=m.name, url=m.url, sha256=m.sha256)
            for m in rendered.models
        )
        drawn = rendered.parameters.get(seed_parameter(loaded) or "")
        seed = seed if seed is not None or not isinstance(drawn, int) else drawn
        need = needs.of_template(loaded, rendered, seed=order.seed is not None)
    else:
        graph = graphs.parse(loaded)
        if order.parameters or order.parameters_text:
            raise error(
                Code.BAD_REQUEST,
                "parameters belong to templates, and this is a workflow",
                hint="Set a node's input instead: --set NODE.INPUT=VALUE",
            )
    for target, text in order.set_text.items():
        graph = graphs.set_text(graph, target, text)
    for target, value in order.set.items():
        graph = graphs.set_input(graph, target, value)
    if seed is not None and order.seed is not None:
        graph, _ = graphs.set_seed(graph, seed)
    graph, files = _place_inputs(graph, order.inputs, named)
    if need is None:
        need = needs.of_graph(graph, seed=order.seed is not None, files=bool(files))
    else:  # values that were set may name other models than the template does
        need = replace(
            need, models=needs.models_of(graph, {name: folder for folder, name in need.models})
        )
    work = _work(order, graph, files, models, seed, attempt_id or new_attempt_id())
    return replace(work, need=need)


def _work(
    order: Order,
    graph: graphs.Graph,
    files: list[Source],
    models: tuple[ModelNeed, ...],
    seed: int | None,
    attempt_id: str,
) -> Work:
    try:
        wanted = (
            None if order.nodes is None else tuple(graphs.find_node(graph, n) for n in order.nodes)
        )
        work = Work(
            attempt_id=attempt_id,
            graph=graph,
            sources=tuple(files),
            outputs=Outputs.model_validate(
                {"nodes": wanted, "kinds": order.kinds, "temp": order.temp}
            ),
            models=models,
            seed=seed,
            timeout_s=order.timeout_s,
            preview=order.preview,
            metadata=order.metadata or {},
        )
        work.request()  # what the wire would refuse is refused here
    except ValidationError as problem:
        found = problem.errors(include_input=False)[0]
        where = ".".join(str(p) for p in found["loc"])
        raise error(
            Code.BAD_REQUEST, f"{where}: {found['msg'].removeprefix('Value error, ')}".lstrip(": ")
        ) from None
    return work


def load(workflow: Workflow, deadline: Deadline) -> Template | Mapping[str, Any] | bytes:
    """Read a path, a URL or a dict; a name without .json that is no file is a template's.

    Raises:
        BadRequest: there is no such file or template, or it cannot be read.

    """
    if isinstance(workflow, Mapping):
        return workflow
    text = os.fspath(workflow)
    if text.lower().startswith(("http://", "https://")):
        if not well_formed(text):
            raise error(Code.BAD_WORKFLOW, "the workflow's address is no http(s) URL")
        return _fetch(text, deadline)
    path = Path(text).expanduser()
    if path.is_file():
        try:
            if path.stat().st_size > MAX_WORKFLOW_BYTES:
                raise error(Code.BAD_WORKFLOW, f"{text} is too large for a workflow")
            return path.read_bytes()
        except OSError as problem:
            raise error(Code.BAD_WORKFLOW, f"{text} cannot be read: {problem.strerror}") from None
    if path.suffix or "/" in text or os.sep in text:
        raise error(
            Code.BAD_WORKFLOW,
            f"there is no file {text}",
            hint="Give a workflow's file or URL, or a template's name: pennyreel templates",
        )
    return templates.load(text)


def _fetch(url: str, deadline: Deadline) -> bytes:
    sink = _Memory()
    try:
        _http.download(
            url,
            sink,
            local=True,
            plain=True,
            pause=time.sleep,
            most=MAX_WORKFLOW_BYTES,
            deadline=deadline,
        )
    except JobTimeout:
        raise
    except PennyreelError as problem:
        raise error(
            Code.BAD_WORKFLOW, f"the workflow cannot be fetched: {problem}", hint="Check the URL."
        ) from None
    return bytes(sink.data)


class _Memory:
    """A sink for something small."""

    sha256 = ""

    def __init__(self) -> None:
        self.data = bytearray()

    @property
    def size(self) -> int:
        return len(self.data)

    def write(self, data: bytes) -> None:
        self.data += data

    def restart(self) -> None:
        self.data.clear()


def _parameters(template: Template, order: Order) -> tuple[dict[str, JsonValue], dict[str, Source]]:
    """Merge the parameters; those of type image may be given as files."""
    values = {**template.parse(order.parameters_text), **order.parameters}
    seed_name = seed_parameter(template)
    if order.seed is not None and seed_name is not None:
        values.setdefault(seed_name, order.seed)
    named: dict[str, Source] = {}
    for name, parameter in template.parameters.items():
        given: object = order.inputs.get(name, values.get(name))
        if parameter.type == "image" and given is not None:
            named[name] = sources.source(given, fallback=name)  # type: ignore[arg-type]
    for (name, _), one in zip(named.items(), sources.unique(list(named.values())), strict=True):
        named[name] = one
        values[name] = one.name
    return values, named


def seed_parameter(template: Template) -> str | None:
    """Return the name of a template's seed, if it has one."""
    return next((n for n, p in template.parameters.items() if p.type == "seed"), None)


def _place_inputs(
    graph: graphs.Graph, inputs: Mapping[str, Given], named: Mapping[str, Source]
) -> tuple[graphs.Graph, list[Source]]:
    """Write each file's name into its node, and return the files, each once."""
    targets = [_target(graph, place) for place in inputs if place not in named]
    given = [
        sources.source(value, fallback=f"input-{place.replace('.', '-')}")
        for place, value in inputs.items()
        if place not in named
    ]
    files = sources.unique([*named.values(), *given])
    for target, file in zip(targets, files[len(named) :], strict=True):
        graph = graphs.set_input(graph, target, file.name)
    return graph, list({f.name: f for f in files}.values())


def _target(graph: graphs.Graph, place: str) -> str:
    """Return NODE.INPUT; for NODE alone, the one input of it that names a file."""
    try:
        node = graphs.find_node(graph, place)
    except PennyreelError:
        node, name = graphs.find_input(graph, place)
        return f"{node}.{name}"
    inputs = graph[node]["inputs"]
    found = [n for n in FILE_INPUTS if isinstance(inputs.get(n), str)]
    if len(found) != 1:
        has = ", ".join(found) if found else "none"
        raise error(
            Code.BAD_WORKFLOW,
            f"node {node} ({graph[node]['class_type']}) has not exactly one file input ({has})",
            hint=f"Name it: {place}.INPUT",
        )
    return f"{node}.{found[0]}"
