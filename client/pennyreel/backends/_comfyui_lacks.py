"""What a running ComfyUI lacks of what a graph requires, by its own lists.

/object_info tells the node classes, and in their inputs' choices the model files that they offer,
whatever folders those lie in. Sources: get_object_info and get_models of ComfyUI's server.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pennyreel.errors import PennyreelError
from pennyreel.need import Lacks, Need
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.preflight import NodeCatalogue
from pennyreel_comfy.preflight.tables import folder_of
from pennyreel_comfy.waiting import Deadline

FEW = 16
"""So many classes are asked for one by one; of more, all there are at once (about 0.8 MB)."""

Model = tuple[str, str]


def lacking(http: ComfyHttp, need: Need, deadline: Deadline) -> Lacks | None:
    """Return what the server lacks; None where it does not say. Never raises PennyreelError."""
    if not need.classes:
        return None
    try:
        told = _classes(http, need.classes, deadline)
        if told is None:
            return None
        offered = _offered(NodeCatalogue(told), need.classes)
        models = {one: _has(http, one, offered, deadline) for one in need.models}
    except PennyreelError:
        return None
    return Lacks(
        classes=tuple(name for name in need.classes if name not in told),
        models=tuple(one for one, has in models.items() if has is False),
        unsure=tuple(one for one, has in models.items() if has is None),
    )


def _classes(
    http: ComfyHttp, wanted: Sequence[str], deadline: Deadline
) -> Mapping[str, Any] | None:
    told: dict[str, Any] = {}
    if len(wanted) <= FEW:
        for name in wanted:
            if deadline.expired:
                return None
            told |= _described(http.object_info(name, within=deadline.left()))
        if told:
            return told
    # Not one of them: is it a ComfyUI that says so, or something that has no such route?
    if deadline.expired:
        return None
    return _described(http.object_info(within=deadline.left())) or None


def _described(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an answer describes a node class: a proxy may say something else."""
    return {k: v for k, v in body.items() if isinstance(v, dict) and "input" in v}


class _Offer:
    """What the graph's classes offer of one folder of models."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.certain = True
        """Whether ComfyUI itself refuses what is not among them."""


def _offered(catalogue: NodeCatalogue, wanted: Sequence[str]) -> dict[str, _Offer]:
    """Return what is offered, by folder."""
    found: dict[str, _Offer] = {}
    for node in filter(None, map(catalogue.get, wanted)):
        for spec in node.inputs.values():
            folder = folder_of(node.name, spec.name)
            if not folder:
                continue
            offer = found.setdefault(folder, _Offer())
            offer.names.update(_plain(spec.options or ()))
            # A stranger's class may take more than it lists: see preflight.
            offer.certain &= node.known and spec.listed and not spec.judged
    return found


def _has(
    http: ComfyHttp, model: Model, offered: dict[str, _Offer], deadline: Deadline
) -> bool | None:
    folder, name = model
    offer = offered.get(folder)
    if offer is not None and (name in offer.names or offer.certain):
        return name in offer.names
    # What loads it is not there, or may take more than it lists. A file in the folder is there; one
    # that is not may be of a kind that ComfyUI itself does not list, such as .gguf.
    if not folder or deadline.expired:
        return None
    return True if name in _plain(http.models(folder, timeout=deadline.left())) else None


def _plain(names: Iterable[object]) -> Iterator[str]:
    """Yield names with slashes as everywhere: a server on Windows lists others."""
    return (name.replace("\\", "/") for name in names if isinstance(name, str))
