"""The tables shipped beside this file, each read once."""

from __future__ import annotations

import sys
from functools import cache
from importlib import resources
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@cache
def table(name: str) -> dict[str, Any]:
    """Return the table in `name`.toml. It is shared: do not change it."""
    return tomllib.loads((resources.files(__package__) / f"{name}.toml").read_text("utf-8"))


def folder_of(class_type: str, name: str) -> str:
    """Return which folder of models an input's file belongs in; "" where that is not known."""
    folders: dict[str, str] = table("inputs")["folders"]
    return folders.get(f"{class_type}.{name}") or folders.get(name) or ""
