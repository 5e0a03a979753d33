"""Writes the config file: one setting at a time, comments and order kept, whole or not at all."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pennyreel.errors import Code, PennyreelError, error

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def put(file: Path, place: str, value: str | Mapping[str, str]) -> None:
    """Set what stands at a place, such as runpod.endpoint; the file is made where it is missing.

    Raises:
        SetupNeeded: it is no TOML, or cannot be read or written.

    """
    _change(file, lambda document: _put(document, place, value), place, value)


def drop(file: Path, place: str) -> Any:
    """Take a place out and return what stood there; None: nothing did. Raises SetupNeeded."""
    before = _at(_plain(_read(file), file), place)
    if before is not None:
        _change(file, lambda document: _drop(document, place), place, None)
    return before


def _change(file: Path, change: Callable[[TOMLDocument], None], place: str, value: object) -> None:
    import tomlkit  # noqa: PLC0415 - only who writes needs it

    raw = _read(file)
    text = raw.replace("\r\n", "\n")
    before = _plain(text, file)
    document = tomlkit.parse(text)
    change(document)
    made = tomlkit.dumps(document)
    # A library that keeps comments may err; what it wrote has to say what was meant.
    if _plain(made, file) != _with(before, place, value):
        raise error(
            Code.INTERNAL,
            f"{file} cannot be changed without harm, and was left as it is",
            hint=f"Edit it yourself: {place}",
        )
    _write(file, made.replace("\n", "\r\n") if text != raw else made)


def _put(document: TOMLDocument, place: str, value: str | Mapping[str, str]) -> None:
    import tomlkit  # noqa: PLC0415 - see above

    section, _, key = place.rpartition(".")
    item: Any = value
    if not isinstance(value, str):
        item = tomlkit.inline_table()
        item.update(value)
    if not section:
        document[key] = item
        return
    if section not in document:
        document[section] = tomlkit.table()
    table: Any = document[section]
    table[key] = item


def _drop(document: TOMLDocument, place: str) -> None:
    section, _, key = place.rpartition(".")
    table: Any = document[section] if section else document
    del table[key]


def _with(data: dict[str, Any], place: str, value: object) -> dict[str, Any]:
    """Return the plain data with one value changed; None: without it."""
    section, _, key = place.rpartition(".")
    inner = {**data.get(section, {})} if section else {**data}
    if value is None:
        inner.pop(key, None)
    else:
        inner[key] = dict(value) if isinstance(value, Mapping) else value
    return {**data, section: inner} if section else inner


def _at(data: dict[str, Any], place: str) -> Any:
    section, _, key = place.rpartition(".")
    inner = data.get(section, {}) if section else data
    return inner.get(key) if isinstance(inner, dict) else None


def _plain(text: str, file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        # Not quoted: the line may hold a key.
        raise _unusable(file, type(problem).__name__) from None


def _read(file: Path) -> str:
    try:
        if file.exists() and not file.is_file():  # /dev/null, a folder: not to be replaced
            raise _unusable(file, "it is no file")
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as problem:
        raise _unusable(file, type(problem).__name__) from None


def _write(file: Path, text: str) -> None:
    """Replace the file behind any link to it; a new one is for its user alone."""
    final = file.resolve()
    part = final.with_name(f".{final.name}.{secrets.token_hex(4)}.tmp")
    try:
        final.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        mode = final.stat().st_mode & 0o777 if final.exists() else 0o600
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        part.chmod(mode)
        part.replace(final)
    except OSError as problem:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise _unusable(file, problem.strerror or type(problem).__name__) from None


def _unusable(file: Path, why: str) -> PennyreelError:
    return error(
        Code.NOT_CONFIGURED,
        f"{file} cannot be read or written: {why}",
        hint="Correct it, or name another file in PENNYREEL_CONFIG.",
    )
