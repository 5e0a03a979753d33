"""One value, from wherever it comes: what it has to be, and what is wrong with it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from pennyreel.config.addresses import well_formed
from pennyreel.config.fields import FIELDS
from pennyreel.config.secret import Secret
from pennyreel.config.settings import COMFYUI_URL
from pennyreel_contract import Code, error


def field_name(text: str) -> str:
    """Return a setting's name for its name, its variable or its place in the file.

    Raises:
        SetupNeeded: there is no such setting.

    """
    for name, field in FIELDS.items():
        if text in {name, field.env, field.toml}:
            return name
    raise unknown(text, FIELDS, "pennyreel")


def checked(name: str, text: str) -> str | Secret:
    """Return a setting's value as the file would have it; raises SetupNeeded where it is wrong."""
    field = FIELDS[name]
    value = converted(text, field.kind, name)
    if field.choices and text not in field.choices:
        raise error(
            Code.NOT_CONFIGURED,
            f"{name} cannot be {text[:40]!r}",
            hint=f"It may be {', '.join(field.choices)}.",
        )
    return value if isinstance(value, (str, Secret)) else text


def converted(value: Any, kind: str, place: str) -> Any:
    """Return a value as `Settings` has it; raises SetupNeeded, naming its place."""
    if kind == "path" and isinstance(value, (str, os.PathLike)):
        return Path(value).expanduser()
    if kind == "secret" and isinstance(value, (str, Secret)):
        return clean(value, place)
    if kind == "url" and isinstance(value, str):
        return _url(value, place)
    if kind in _READ:
        return _READ[kind](value, place)
    if isinstance(value, str):
        return value
    raise error(
        Code.NOT_CONFIGURED,
        f"{place} must be a text, not {type(value).__name__}",
        hint=f"Write {place} as a text.",
    )


def clean(value: str | Secret, place: str) -> Secret:
    """Drop the white space around a key; refuse what no header can carry, without quoting it."""
    text = (value.reveal() if isinstance(value, Secret) else value).strip()
    if not (text.isascii() and text.isprintable()):
        raise error(
            Code.NOT_CONFIGURED,
            f"{place} holds characters that no key has (control characters, or other than ASCII)",
            hint=f"Copy the key anew into {place}.",
        )
    return Secret(text)


def _flag(value: Any, place: str) -> bool:
    word = str(value).strip().lower()
    if word not in _FLAGS:
        raise error(
            Code.NOT_CONFIGURED,
            f"{place} is neither yes nor no: {str(value)[:40]!r}",
            hint=f"Write {place} as yes or no.",
        )
    return _FLAGS[word]


def _amount(value: Any, place: str) -> str:
    """Return the amount's text, which has been seen to be one: `money.amounts` reads it."""
    text = str(value).strip()
    bare = text.removeprefix("$").removesuffix("USD").strip()
    word = bare.lower() == "none" and place in _ENDLESS
    try:
        fits = word or (type(value) is not bool and 0 <= Decimal(bare) <= _MOST_USD)
    except InvalidOperation:
        fits = False
    if not fits:
        raise error(
            Code.NOT_CONFIGURED,
            f"{place} is no amount in dollars: {text[:40]!r}",
            hint=f"Write {place} like 0.05 or $2{', or none' * (place in _ENDLESS)}.",
        )
    return text


def _count(value: Any, place: str) -> int:
    text = str(value).strip()
    if type(value) is bool or not (text.isascii() and text.isdigit()) or int(text) > _MOST_COUNT:
        raise error(
            Code.NOT_CONFIGURED,
            f"{place} is no number from 0 to {_MOST_COUNT}: {text[:40]!r}",
            hint=f"Write {place} like 30.",
        )
    return int(text)


def _names(value: Any, place: str) -> tuple[str, ...]:
    """Return several names, from a text with commas or a list."""
    several = value.split(",") if isinstance(value, str) else value
    if not isinstance(several, Collection) or not all(isinstance(one, str) for one in several):
        raise error(
            Code.NOT_CONFIGURED,
            f"{place} is no list of names",
            hint=f"Write {place} like a,b; in the file also as a list.",
        )
    return tuple(dict.fromkeys(one.strip() for one in several if one.strip()))


_READ: dict[str, Callable[[Any, str], Any]] = {
    "flag": _flag,
    "amount": _amount,
    "count": _count,
    "names": _names,
}
_FLAGS = {"yes": True, "true": True, "on": True, "1": True,
          "no": False, "false": False, "off": False, "0": False}  # fmt: skip
_ENDLESS = {"day_limit", FIELDS["day_limit"].env, FIELDS["day_limit"].toml}
"""Places where `none` is a limit too: that there is none."""
_MOST_USD = 1_000_000
_MOST_COUNT = 10_000


def unknown(name: str, known: Mapping[str, Any], where: str) -> Exception:
    """Return the error of a name that is none of those known; it says which was meant."""
    near = difflib.get_close_matches(name, known, 1)
    return error(
        Code.NOT_CONFIGURED,
        f"{where} has no setting {name!r}",
        hint=f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}",
    )


def _url(value: str, place: str) -> str:
    text = value.strip()
    if not well_formed(text):  # not quoted: it may hold a password
        raise error(
            Code.NOT_CONFIGURED,
            f"{place} is no http(s) URL",
            hint=f"Write {place} like {COMFYUI_URL} or https://host.example/path",
        )
    return text
