"""Which node pack has a class, and which class was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from pennyreel_comfy.preflight.tables import table


class Pack(NamedTuple):
    """A node pack and its repository."""

    name: str
    url: str


def pack_of(class_type: str) -> Pack | None:
    """Return the widely used pack that has a class, as far as the shipped table knows."""
    exact, beginnings, endings = _index()
    found = exact.get(class_type)
    if found is None:
        found = next((p for text, p in beginnings if class_type.startswith(text)), None)
    if found is None:
        found = next((p for text, p in endings if class_type.endswith(text)), None)
    return found


def near(name: str, among: Iterable[str], most: int = 3) -> list[str]:
    """Return what comes close to a name: the same but for case, else what is spelled alike."""
    return _near(name, {one: one.strip().casefold() for one in among}, name.casefold(), most)


def near_file(name: str, among: Iterable[str], most: int = 3) -> list[str]:
    """Return the file names close to one; folders and the direction of slashes do not count."""
    return _near(name, {one: _file(one) for one in among}, _file(name), most)


def _near(name: str, plain: dict[str, str], key: str, most: int) -> list[str]:
    same = [one for one, form in plain.items() if form == key and one != name]
    if same:
        return same[:most]
    forms = difflib.get_close_matches(key, set(plain.values()), n=most, cutoff=0.7)
    rank = {form: place for place, form in enumerate(forms)}
    found = [one for one, form in plain.items() if form in rank and one != name]
    return sorted(found, key=lambda one: rank[plain[one]])[:most]


def _file(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2].strip().casefold()


_Index = tuple[dict[str, Pack], list[tuple[str, Pack]], list[tuple[str, Pack]]]


@lru_cache(maxsize=1)
def _index() -> _Index:
    exact: dict[str, Pack] = {}
    beginnings: list[tuple[str, Pack]] = []
    endings: list[tuple[str, Pack]] = []
    for entry in table("packs")["pack"]:
        pack = Pack(entry["name"], entry["url"])
        for name in entry.get("classes", ()):
            exact.setdefault(name, pack)
        beginnings += [(text, pack) for text in entry.get("prefixes", ())]
        endings += [(text, pack) for text in entry.get("suffixes", ())]
    beginnings.sort(key=lambda pair: -len(pair[0]))
    return exact, beginnings, endings
