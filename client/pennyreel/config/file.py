"""The config file: where it is, and what it says, by itself or by the system's keyring."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import platformdirs

from pennyreel import keys
from pennyreel.config.fields import FIELDS
from pennyreel.config.secret import Secret
from pennyreel.config.values import clean, converted, unknown
from pennyreel_contract import Code, error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_ENV = "PENNYREEL_CONFIG"


class Kept(Secret):
    """A secret that the file says is in the keyring."""

    __slots__ = ()


def file_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the config file is, or would be."""
    env = os.environ if environ is None else environ
    if env.get(CONFIG_ENV):
        return Path(env[CONFIG_ENV]).expanduser()
    return Path(platformdirs.user_config_dir("pennyreel", appauthor=False)) / "config.toml"


def read(file: Path, *, named: bool) -> dict[str, Any]:
    """Return the settings that are in the file, by their names in `Settings`.

    Args:
        file: what is not there has none, unless the user has `named` it.

    Raises:
        SetupNeeded: it cannot be read, or names a setting that we do not have.

    """
    data = _parsed(file, named=named)
    places = {field.toml: name for name, field in FIELDS.items()}
    prices = data.pop("prices", None)
    values = {} if prices is None else {"prices": prices}
    for place, value in _flatten(data):
        if place not in places:
            raise unknown(place, places, str(file))
        name = places[place]
        kept = _in_keyring(name, value)
        values[name] = kept or converted(value, FIELDS[name].kind, place)
    return values


def _parsed(file: Path, *, named: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not named:
            return {}
        raise error(
            Code.NOT_CONFIGURED,
            f"{CONFIG_ENV} names {file}, and there is no such file",
            hint=f"Write it, or unset {CONFIG_ENV}.",
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        # A parser may quote the line it failed at, and that line may hold a key.
        where = getattr(problem, "lineno", None)
        raise error(
            Code.NOT_CONFIGURED,
            f"{file} cannot be read ({type(problem).__name__}{f', line {where}' if where else ''})",
            hint=f"Correct or remove {file}.",
        ) from None


def _in_keyring(name: str, value: Any) -> Secret | None:
    """Return the secret that `{ keyring = "SERVICE" }` stands for; it is read when it is used."""
    field = FIELDS[name]
    service = value.get("keyring") if isinstance(value, dict) and len(value) == 1 else None
    if field.kind != "secret" or not isinstance(service, str) or not service:
        return None
    return Kept(lambda: clean(keys.read(name, service, field.env), field.toml).reveal())


def _flatten(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, dict):
            found += [(f"{key}.{inner}", v) for inner, v in value.items()]
        else:
            found.append((key, value))
    return found
