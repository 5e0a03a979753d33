"""`models.toml`: which models there are, where they come from, and what they must be.

    [[models]]
    name = "v3_sd15_mm.ckpt"            as graphs name it; may have subfolders
    folder = "animatediff_models"       as ComfyUI names it
    url = "https://…"
    sha256 = "…"                        a pickle must have it
    bytes = 1673262583
    licence = "Apache-2.0"
    sets = ["animatediff"]
    description = "…"

`load()` reads the one that ships with this package; more files add to it or override it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from pennyreel_comfy.models.names import check_pinned, checked_name, known_folder
from pennyreel_contract import Code, PennyreelError, error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

UNKNOWN = "unknown"
"""The licence of a model that nobody has looked up."""

_FILE = "models.toml"
_T = TypeVar("_T")


def _said(check: Callable[[str], _T], value: str) -> _T:
    """Run one of the checks of `names`, and put its failure as pydantic wants it."""
    try:
        return check(value)
    except PennyreelError as problem:
        raise ValueError(f"{problem}. {problem.hint}") from None


Name = Annotated[str, AfterValidator(lambda value: _said(checked_name, value))]
Folder = Annotated[str, AfterValidator(lambda value: _said(known_folder, value))]


class Entry(BaseModel):
    """One model file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Name
    folder: Folder
    url: str = Field(pattern=r"^https?://[^\s\x00-\x1f]+$", repr=False)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    bytes: int | None = Field(default=None, gt=0, strict=True)
    licence: str = Field(default=UNKNOWN, min_length=1)
    sets: tuple[Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$")], ...] = ()
    description: str = ""

    @model_validator(mode="after")
    def _no_loose_pickle(self) -> Entry:
        _said(lambda name: check_pinned(name, self.sha256), self.name)
        return self

    @property
    def key(self) -> str:
        """Folder and name, which together are unique."""
        return f"{self.folder}/{self.name}"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    models: tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """All entries, in the order of the files; a later one of the same folder and name has won."""

    entries: tuple[Entry, ...]

    @property
    def sets(self) -> tuple[str, ...]:
        """The names of all sets, sorted."""
        return tuple(sorted({name for entry in self.entries for name in entry.sets}))

    def find(self, folder: str, name: str) -> Entry | None:
        """Return the entry of that folder and name."""
        return next((e for e in self.entries if (e.folder, e.name) == (folder, name)), None)

    def select(self, wanted: Iterable[str]) -> tuple[Entry, ...]:
        """Return the entries that are meant: by name, by folder/name, by set, `all` or `none`.

        Raises:
            BadRequest: `bad_request`: nothing is called so.

        """
        chosen: dict[str, Entry] = {}
        for text in wanted:
            found = self._meant(text)
            if not found and text != "none":
                known = ["all", "none", *self.sets, *(e.name for e in self.entries)]
                raise error(
                    Code.BAD_REQUEST,
                    f"no model and no set is called {text!r}",
                    hint=f"Known: {', '.join(known)}.",
                )
            chosen.update({entry.key: entry for entry in found})
        return tuple(chosen.values())

    def _meant(self, text: str) -> list[Entry]:
        if text == "all":
            return [e for e in self.entries if e.sets]
        return [e for e in self.entries if text in (e.name, e.key) or text in e.sets]


def load(paths: Sequence[Path] = ()) -> Manifest:
    """Read the shipped manifest and then `paths`, whose entries add to it or override it.

    Raises:
        SetupNeeded: `not_configured`: a file cannot be read; names the entry and the field.

    """
    shipped = resources.files(__package__).joinpath(_FILE).read_bytes()
    entries = {e.key: e for e in parse(shipped, f"the shipped {_FILE}")}
    for path in paths:
        try:
            raw = path.read_bytes()
        except OSError as problem:
            raise _bad(f"{path} cannot be read: {problem.strerror}") from None
        entries.update({entry.key: entry for entry in parse(raw, str(path))})
    return Manifest(tuple(entries.values()))


def parse(raw: bytes, where: str) -> tuple[Entry, ...]:
    """Read one file's text; `where` is what messages call it. Raises as `load` does."""
    try:
        data = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise _bad(f"{where} is not TOML: {problem}") from None
    try:
        entries = _File.model_validate(data).models
    except ValidationError as problem:
        found = [_told(data, e["loc"], e["msg"]) for e in problem.errors(include_input=False)]
        raise _bad(f"{where}: {'; '.join(found[:8])}", problems=found[:50]) from None
    seen: set[str] = set()
    for entry in entries:
        if entry.key in seen:
            raise _bad(f"{where}: {entry.key} is there twice")
        seen.add(entry.key)
    return entries


def written(entry: Entry) -> str:
    """Return an entry as TOML, to be appended to a file."""
    lines = ["[[models]]"]
    for field, value in entry.model_dump(exclude_defaults=True).items():
        plain = list(value) if isinstance(value, tuple) else value
        # Of texts, numbers and lists of texts, JSON is TOML; only DEL has to be escaped besides.
        lines.append(
            f"{field} = {json.dumps(plain, ensure_ascii=False)}".replace("\x7f", "\\u007f")
        )
    if entry.licence == UNKNOWN:
        lines.append(f'licence = "{UNKNOWN}"')
    return "\n".join(lines) + "\n"


def _told(data: dict[str, object], location: tuple[int | str, ...], message: str) -> str:
    """Name the entry and the field that an error is about."""
    parts = [str(part) for part in location]
    if len(location) > 1 and location[0] == "models" and isinstance(location[1], int):
        entries = data.get("models")
        entry = entries[location[1]] if isinstance(entries, list) else None
        name = entry.get("name") if isinstance(entry, dict) else None
        named = f" ({str(name)[:80]!r})" if name else ""
        parts = [f"entry {location[1] + 1}{named}", *parts[2:]]
    return f"{', '.join(parts)}: {message.removeprefix('Value error, ')}"


def _bad(message: str, **detail: object) -> PennyreelError:
    return error(Code.NOT_CONFIGURED, message, hint="Correct that file.", detail=detail)
