"""Who says what: arguments, the environment, the file, the defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import platformdirs

from pennyreel.config.fields import FIELDS
from pennyreel.config.file import CONFIG_ENV, Kept, file_path, read
from pennyreel.config.settings import Settings
from pennyreel.config.values import converted, unknown


class Origin(NamedTuple):
    """A setting's value, and who says so."""

    value: Any
    origin: str
    """argument, environment, file, keyring or default."""


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Args:
        environ: instead of the process's own environment.
        overrides: fields of `Settings`; None means not given.

    Raises:
        SetupNeeded: the file cannot be read, or it or `overrides` name a setting we do not have.

    """
    found, file = _found(environ, overrides)
    values: dict[str, Any] = {name: one.value for name, one in found.items()}
    said = {name: _said(name, one, file) for name, one in found.items() if name in FIELDS}
    return Settings(**values, config_file=file if file.is_file() else None, said=said)


def origins(environ: Mapping[str, str] | None = None, **overrides: Any) -> dict[str, Origin]:
    """Return every setting of `FIELDS` with its value and origin; see `load`."""
    found, _ = _found(environ, overrides)
    usual = Settings(home=Path())
    return {name: found.get(name) or Origin(getattr(usual, name), "default") for name in FIELDS}


def _said(name: str, one: Origin, file: Path) -> str:
    """Return where a person finds what was said."""
    told = {"environment": FIELDS[name].env, "file": f"{FIELDS[name].toml} in {file}"}
    return told.get(one.origin, name)


def _found(
    environ: Mapping[str, str] | None, overrides: Mapping[str, Any]
) -> tuple[dict[str, Origin], Path]:
    """Return what is said by whom, the nearest word of each, and the file's place."""
    env = os.environ if environ is None else environ
    file = file_path(env)
    found = {
        name: Origin(value, "keyring" if isinstance(value, Kept) else "file")
        for name, value in read(file, named=bool(env.get(CONFIG_ENV))).items()
    }
    for name, field in FIELDS.items():
        if env.get(field.env):
            found[name] = Origin(converted(env[field.env], field.kind, field.env), "environment")
    for name, value in overrides.items():
        if name not in FIELDS:
            raise unknown(name, FIELDS, "pennyreel")
        if value is not None:
            found[name] = Origin(converted(value, FIELDS[name].kind, name), "argument")
    usual = Path(platformdirs.user_data_dir("pennyreel", appauthor=False))
    home = found.get("home", Origin(usual, "default"))
    found["home"] = home._replace(value=home.value.expanduser().absolute())
    return found, file
