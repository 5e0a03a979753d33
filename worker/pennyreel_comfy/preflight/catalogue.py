"""The node classes of one ComfyUI, from /object_info, indexed so that a check is quick.

Sources: server.py's node_info and execution.py's validate_inputs, 0.3.64 and 0.3.75.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pennyreel_comfy.preflight.tables import table
from pennyreel_comfy.rejections import MODEL_FILE

_CORE = ("comfy_extras.", "comfy_api_nodes.")
_PACK = "custom_nodes."
_UPLOADS = ("image_upload", "video_upload", "audio_upload", "file_upload", "upload")
DYNAMIC = "COMFY_"  # V3 inputs that grow or match; what they take is not in /object_info


@dataclass(frozen=True)
class InputSpec:
    """One declared input.

    Attributes:
        name: its name.
        type: its type's name, such as "INT"; "COMBO" for a choice of either style.
        required: whether ComfyUI wants it there.
        options: what may be chosen; None where it is no choice, or /object_info has no list.
        listed: whether ComfyUI itself holds a value against the options (the list is its type).
        extra: min, max and the like.
        judged: whether the class judges the value itself, so that ComfyUI does not.
        upload: whether it names an input file.

    """

    name: str
    type: str
    required: bool
    options: list[Any] | None
    listed: bool
    extra: Mapping[str, Any]
    judged: bool
    upload: bool

    @property
    def dynamic(self) -> bool:
        """Whether only ComfyUI knows what it takes."""
        return self.type.startswith(DYNAMIC)


@dataclass(frozen=True)
class NodeSpec:
    """One node class.

    Attributes:
        name: the class.
        inputs: its declared inputs, by name.
        outputs: its outputs' types; a choice's is "COMBO".
        output_node: whether ComfyUI starts from it.
        known: whether its source was read, so that what its /object_info says is all there is.
            The others may relax any check by a method or a type of their own, unseen from here.
        judges_links: whether it judges the types of its links itself.
        paid: whether it calls a paid API.

    """

    name: str
    inputs: Mapping[str, InputSpec]
    outputs: tuple[str, ...]
    output_node: bool
    known: bool
    judges_links: bool
    paid: bool


class NodeCatalogue:
    """The node classes of one ComfyUI. Threads may share it."""

    def __init__(
        self, object_info: Mapping[str, Any], hidden: AbstractSet[str] = frozenset()
    ) -> None:
        """Index a parsed /object_info. It is kept and not to be changed afterwards.

        `hidden`: choices that are told to nobody, such as the files of other jobs.
        """
        self._info, self._hidden = object_info, hidden
        self._specs: dict[str, NodeSpec] = {}

    def __contains__(self, class_type: object) -> bool:
        return class_type in self._info

    def __iter__(self) -> Iterator[str]:
        return iter(self._info)

    def __len__(self) -> int:
        return len(self._info)

    def get(self, class_type: object) -> NodeSpec | None:
        """Return a class, or None where this ComfyUI lacks it."""
        if not isinstance(class_type, str):
            return None
        found = self._specs.get(class_type)
        if found is None and class_type in self._info:
            # Two threads may both make it; they make the same.
            found = self._specs[class_type] = _node(
                class_type, self._info[class_type], self._hidden
            )
        return found

    def packs(self) -> list[str]:
        """Return the node packs that have classes here, by the names of their folders or files."""
        modules = (
            str(v.get("python_module", "")) for v in self._info.values() if isinstance(v, dict)
        )
        return sorted({m.removeprefix(_PACK) for m in modules if m.startswith(_PACK)})

    def models(self) -> AbstractSet[str]:
        """Return the model files that any class lists, with and without their folders."""
        return self._models

    @cached_property
    def _models(self) -> frozenset[str]:
        specs = (spec for name in self._info if (spec := self.get(name)) is not None)
        lists = (one.options or () for spec in specs for one in spec.inputs.values())
        names = {o for options in lists for o in options if isinstance(o, str)}
        found = {name for name in names if MODEL_FILE.search(name)}
        return frozenset(found | {name.replace("\\", "/").rpartition("/")[2] for name in found})

    @staticmethod
    def of(source: NodeCatalogue | Mapping[str, Any]) -> NodeCatalogue:
        """Return `source` as a catalogue."""
        return source if isinstance(source, NodeCatalogue) else NodeCatalogue(source)


def _node(name: str, info: Any, hidden: AbstractSet[str]) -> NodeSpec:
    info = info if isinstance(info, dict) else {}
    rules = table("inputs")
    judged = rules["judged"].get(name, ())
    declared = info.get("input") or {}
    inputs: dict[str, InputSpec] = {}
    # ComfyUI looks among the required ones first.
    for required, part in ((False, declared.get("optional")), (True, declared.get("required"))):
        for key, raw in (part or {}).items():
            inputs[key] = _input(key, raw, required, "*" in judged or key in judged, hidden)
    return NodeSpec(
        name=name,
        inputs=inputs,
        outputs=tuple("COMBO" if isinstance(o, list) else str(o) for o in info.get("output") or ()),
        output_node=info.get("output_node") is True,
        known=_known(str(info.get("python_module", ""))),
        judges_links=name in rules["judges_links"],
        paid=bool(info.get("api_node")),
    )


def _input(
    name: str, raw: Any, required: bool, judged: bool, hidden: AbstractSet[str]
) -> InputSpec:
    raw = raw if isinstance(raw, list) and raw else ["*"]
    kind = raw[0]
    extra = raw[1] if len(raw) > 1 and isinstance(raw[1], dict) else {}
    options = kind if isinstance(kind, list) else None
    if kind == "COMBO" and isinstance(extra.get("options"), list) and not extra.get("remote"):
        options = extra["options"]
    if options and hidden:
        options = [one for one in options if not (isinstance(one, str) and one in hidden)]
    return InputSpec(
        name=name,
        type="COMBO" if isinstance(kind, list) else str(kind),
        required=required,
        options=options,
        listed=isinstance(kind, list) and not extra.get("multiselect"),
        extra=extra,
        judged=judged,
        upload=any(extra.get(flag) for flag in _UPLOADS),
    )


def _known(module: str) -> bool:
    return (
        module == "nodes"
        or module.startswith(_CORE)
        or module.removeprefix(_PACK).lower() in table("inputs")["known_packs"]
    )
