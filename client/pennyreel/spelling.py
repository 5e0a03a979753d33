"""What a caller's words have to be, before anything is made of them: one table of all.

A wrong one is an answer, not a crash in the middle of what runs: library, command line and batch
files look here first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from decimal import Decimal
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any, NamedTuple

from pennyreel.errors import Code, error

MOST_SEED = 2**64 - 1
_MOST = 1e15
_SHOWN = 40
_TOLD = 20


class Kind(NamedTuple):
    """What a word has to be."""

    expected: str
    fits: Callable[[Any], bool]


class Finding(NamedTuple):
    """One word that is wrong."""

    field: str
    told: str
    """As in "seconds must be a number, not 'abc'"."""
    number: int | None = None
    """Of the line, or the wish, from 1."""


def wrong(options: Mapping[str, Any]) -> list[Finding]:
    """Return what is of another kind than it has to be. None = not said; other names: any kind."""
    return [
        Finding(name, f"{name} must be {kind.expected}, not {_shown(options[name])}")
        for name, kind in KINDS.items()
        if options.get(name) is not None and not kind.fits(options[name])
    ]


def check(options: Mapping[str, Any]) -> None:
    """Raise BadRequest, naming all that is of another kind than it has to be."""
    found = wrong(options)
    if found:
        raise refused(found)


def named(options: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise BadRequest, naming all names that are none of these, and what each may have meant."""
    odd = [name for name in options if name not in known]
    if not odd:
        return
    near = [near for name in odd for near in get_close_matches(name, known, n=1)]
    hint = f"Did you mean {' and '.join(near)}?" if near else f"It may be: {', '.join(known)}"
    raise refused([Finding(name, f"there is no option {_shown(name)}") for name in odd], hint=hint)


def refused(found: Sequence[Finding], *, what: str = "", hint: str = "") -> Exception:
    """Return the one error of all findings.

    Args:
        found: at least one.
        what: has the numbers: line, or wish.
        hint: what to write instead.

    """
    told = [one.told if one.number is None else f"{what} {one.number}{one.told}" for one in found]
    more = f"; and {len(told) - _TOLD} more" if len(told) > _TOLD else ""
    return error(
        Code.BAD_REQUEST,
        "; ".join(told[:_TOLD]) + more,
        hint=hint,
        detail={"findings": [_json(one) for one in found[:_TOLD]]},
    )


def _json(one: Finding) -> dict[str, Any]:
    return {"number": one.number, "field": one.field, "problem": one.told.lstrip(": ")}


def _shown(value: Any) -> str:
    """Return a short value as it is, and of any other what it is."""
    if isinstance(value, (bool, int, float, Decimal, str)):
        try:
            text = repr(value)
        except ValueError:  # an int of more digits than Python prints
            return "a number that large"
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    name = type(value).__name__
    return {"dict": "an object", "list": "a list"}.get(name, name)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _bool(value: Any) -> bool:
    return isinstance(value, bool)


def _number(value: Any) -> bool:  # not NaN, not infinite
    real = isinstance(value, Real) and not _bool(value)
    return real and bool(-_MOST < value < _MOST)


def _whole(value: Any) -> bool:
    return isinstance(value, Integral) and _number(value)


def _seed(value: Any) -> bool:
    whole = isinstance(value, Integral) and not _bool(value)
    return whole and bool(0 <= value <= MOST_SEED)


def _amount(value: Any) -> bool:
    return isinstance(value, (str, Decimal)) or _number(value)


def _texts(value: Any) -> bool:
    several = isinstance(value, Collection) and not isinstance(value, (str, bytes, Mapping))
    return several and all(isinstance(one, str) for one in value)


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) for name in value)


def _file(value: Any) -> bool:
    if isinstance(value, tuple):
        return [type(one) for one in value] == [str, bytes]
    return isinstance(value, (str, os.PathLike, bytes))


def _kinds() -> dict[str, Kind]:
    """Return each option's name with what it has to be."""
    same = {
        Kind("a text", _text): (
            "prompt", "kind", "template", "negative_prompt", "format", "lora",
            "policy", "backend", "project", "user",
        ),
        Kind("a number", _number): ("seconds", "fps", "timeout_s", "deadline_s"),
        Kind("a whole number", _whole): ("width", "height", "frames"),
        Kind(f"a whole number from 0 to {MOST_SEED}", _seed): ("seed",),
        Kind("an amount in dollars, like 0.05", _amount): ("max_cost", "day_limit"),
        Kind("true or false", _bool): (
            "audio", "private", "allow_slow", "allow_unknown_price", "temp", "preview",
        ),
        Kind("a list of texts", _texts): ("places", "forbid", "nodes", "kinds"),
        Kind("names with values", _mapping): (
            "set", "set_text", "inputs", "parameters", "parameters_text", "metadata",
        ),
        Kind("a file's path, a URL, bytes, or (name, bytes)", _file): ("image",),
        Kind("a folder's path", lambda value: isinstance(value, (str, os.PathLike))): ("out_dir",),
        Kind("something to call", callable): ("ask", "noted"),
    }  # fmt: skip
    return {name: kind for kind, names in same.items() for name in names}


KINDS = _kinds()
