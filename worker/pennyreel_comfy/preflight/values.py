"""Is a literal what its input takes? As validate_inputs decides in ComfyUI 0.3.64 and 0.3.75."""

from __future__ import annotations

import os
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple

from pennyreel_comfy.preflight.catalogue import InputSpec, NodeSpec
from pennyreel_comfy.preflight.finding import shown
from pennyreel_comfy.preflight.packs import near, near_file
from pennyreel_comfy.preflight.paths import media, path_like
from pennyreel_comfy.preflight.tables import folder_of
from pennyreel_comfy.rejections import MODEL_FILE
from pennyreel_contract import Code

_CONVERT: dict[str, Callable[[Any], object]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}
_LISTED = 20  # options told whole


class Problem(NamedTuple):
    """What is wrong with one input; most fields are a Finding's.

    Attributes:
        certain: ComfyUI refuses it, or fails when it runs the node.
        guess: makes the suggestion. Looking for names close by takes milliseconds for each.
        late: ComfyUI takes it, and only the run would show it.

    """

    type: str
    message: str
    certain: bool
    code: Code = Code.BAD_WORKFLOW
    value: object = None
    guess: Callable[[], str] | None = None
    late: bool = False


def problem_of(
    node: NodeSpec,
    spec: InputSpec,
    value: Any,
    *,
    files: AbstractSet[str],
    arriving: AbstractSet[str],
) -> Problem | None:
    """Return what is wrong with a literal, or None.

    Args:
        node: the class.
        spec: its input.
        value: the literal.
        files: names of input files that the job brings.
        arriving: names of model files that will be there by the time the graph runs.

    """
    if isinstance(value, dict) and "__value__" in value:
        value = value["__value__"]
    try:
        value = _CONVERT[spec.type](value) if spec.type in _CONVERT else value
    except (TypeError, ValueError, OverflowError, RecursionError) as why:
        return Problem(
            "invalid_input_type",
            f"{shown(value)} is no {spec.type} value ({shown(str(why))})",
            certain=True,
            value=value,
        )
    if spec.upload or (spec.judged and spec.type == "COMBO"):
        return _file(spec, value, files)
    if spec.judged or spec.dynamic:
        return None
    return _range(node, spec, value) or _choice(node, spec, value, arriving)


def _range(node: NodeSpec, spec: InputSpec, value: Any) -> Problem | None:
    low, high = spec.extra.get("min"), spec.extra.get("max")
    try:
        if "min" in spec.extra and value < low:
            kind, text = "value_smaller_than_min", f"Value {value} smaller than min of {low}"
        elif "max" in spec.extra and value > high:
            kind, text = "value_bigger_than_max", f"Value {value} bigger than max of {high}"
        else:
            return None
    except TypeError as why:  # ComfyUI stumbles over it in the same way
        kind, text = "exception_during_validation", f"{shown(value)} has no range: {why}"
    return Problem(kind, text, certain=node.known, value=value)


def _choice(
    node: NodeSpec, spec: InputSpec, value: Any, arriving: AbstractSet[str]
) -> Problem | None:
    if spec.options is None or value in spec.options:
        return None
    certain = node.known and spec.listed
    if isinstance(value, list) and not spec.listed:  # of a multiple choice
        inside = all(one in spec.options for one in value)
        return (
            None
            if inside
            else Problem("value_not_in_list", f"{shown(value)} are not all in its list", False)
        )
    text = value if isinstance(value, str) else ""
    if text and text.replace("\\", "/") in {name.replace("\\", "/") for name in arriving}:
        return None
    if MODEL_FILE.search(text):
        return _model(node, spec, text)
    message = f"{shown(value)!r} is not in its list"
    if path_like(spec.name, spec) or media(spec.name):
        # It may list the input folder, where the names of other jobs are.
        return Problem("value_not_in_list", message, certain, value=value)
    names = [one for one in spec.options if isinstance(one, str)]
    told = f": {names}" if len(spec.options) <= _LISTED else f" of {len(spec.options)}"
    return Problem(
        "value_not_in_list",
        message + shown(told),
        certain,
        value=value,
        guess=lambda: meant(near(text, names)),
    )


def _model(node: NodeSpec, spec: InputSpec, name: str) -> Problem:
    folder = folder_of(node.name, spec.name)
    where = f" in models/{folder}" if folder else ""
    # Models only: an input may list something else, whatever name it is asked for.
    names = [o for o in spec.options or () if isinstance(o, str) and MODEL_FILE.search(o)]
    # ComfyUI holds no value against a list in the newer style, samples with what is there, and
    # fails at the loader, unless the disk knows the file by a name that is spelled otherwise.
    late = not spec.listed and bool(folder) and _path(name) not in map(_path, names)
    return Problem(
        "value_not_in_list",
        f"the model file {shown(name)!r} is not there{where}",
        certain=node.known and (spec.listed or late),
        code=Code.MISSING_MODEL,
        value=name,
        guess=lambda: _instead(name, names),
        late=late,
    )


def missing_anywhere(name: str, models: AbstractSet[str]) -> Problem:
    """Return what to say of a model in an input of which nothing is known."""
    return Problem(
        "value_not_in_list",
        f"the model file {shown(name)!r} is in no list of this ComfyUI's models",
        certain=False,
        code=Code.MISSING_MODEL,
        value=name,
        guess=lambda: meant(near_file(name, sorted(models))),
    )


def _path(name: str) -> str:
    return os.path.normpath(name).casefold()


def _instead(name: str, names: list[str]) -> str:
    close = meant(near_file(name, names))
    if close or not names:
        return close or "There is no such file at all yet"
    return f"There is {', '.join(map(repr, names[:_LISTED]))}"


def _file(spec: InputSpec, value: Any, files: AbstractSet[str]) -> Problem | None:
    # The list has only the top of the input folder, and not all kinds: ComfyUI looks by itself.
    plain = value.removesuffix(" [input]") if isinstance(value, str) else value
    known = [one for one in spec.options or () if isinstance(one, str)]
    if not isinstance(plain, (str, list)):
        text = f"{shown(plain)} is no file's name"
        return Problem("custom_validation_failed", text, certain=False, value=value)
    if not isinstance(plain, str) or not plain or plain in known or plain in files:
        return None
    if spec.options is None and not spec.judged:
        return None
    return Problem(
        "custom_validation_failed",
        f"there is no input file {shown(plain)!r}, and the job brings none",
        certain=False,
        code=Code.BAD_INPUT,
        value=value,
        guess=lambda: meant(near_file(plain, sorted(files))),  # its own: others' are not told
    )


def meant(names: list[str]) -> str:
    """Return a did-you-mean sentence, or nothing."""
    return f"Did you mean {' or '.join(map(repr, names))}?" if names else ""
