"""The price table: `catalog.toml`, what RunPod last told, and the user's own rows, later wins.

    [prices."runpod/AMPERE_24"]      in HOME/prices.toml, or in config.toml
    usd = 0.00018                    what is not named stays as it was

`parse` and `Catalog.merged` are pure; `load` and `builtin` read files.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

from pennyreel.errors import Code, SetupNeeded, error
from pennyreel.money.rows import (
    Certainty,
    Row,
    Way,
    as_table,
    overridden,
    read_date,
    read_row,
    read_speed,
    read_way,
    wrong,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "Catalog",
    "Certainty",
    "Row",
    "Way",
    "builtin",
    "cached",
    "fetched",
    "load",
    "parse",
    "remember",
]

_BUILTIN = Path(__file__).with_name("catalog.toml")
_OWN = "prices.toml"
_LIVE = "prices-runpod.json"


@dataclass(frozen=True)
class Catalog:
    """All rows by sku. `version` tells this very table from others, overrides included."""

    version: str
    date: str
    rows: Mapping[str, Row]
    speeds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Slowest and fastest at diffusion of a GPU or pool, relative to an RTX 4090."""
    ways: tuple[Way, ...] = ()
    pools: Mapping[str, str] = field(default_factory=dict)
    """RunPod's GPU pool of an endpoint, by its id, as far as RunPod's API has told it."""

    def row(self, sku: str) -> Row | None:
        """Return the row of a sku, else of the part before its last slash, else `THAT PART/*`."""
        found, head = self.rows.get(sku), sku
        while found is None and "/" in head:
            head = head.rpartition("/")[0]
            found = self.rows.get(head) or self.rows.get(f"{head}/*")
        return found if found is None or found.sku == sku else replace(found, sku=sku)

    def merged(self, prices: Mapping[str, Any], file: str) -> Catalog:
        """Return this table with rows replaced or added, field by field.

        Args:
            prices: sku -> fields, as TOML has them.
            file: where they stand, for messages and as the source of a changed price.

        Raises:
            SetupNeeded: an entry is wrong, named by file, entry and field.

        """
        if not prices:
            return self
        rows = dict(self.rows)
        for sku, fields in prices.items():
            rows[sku] = overridden(self.row(sku), sku, fields, file)
        told = json.dumps(prices, sort_keys=True, default=str)
        mark = hashlib.sha256(f"{self.version}{told}".encode()).hexdigest()[:8]
        return replace(self, version=f"{self.version.partition('+')[0]}+{mark}", rows=rows)


def load(
    home: Path | None = None,
    prices: Mapping[str, Any] | None = None,
    *,
    file: str = "the config file",
) -> Catalog:
    """Read the table as it is for this user.

    Args:
        home: where `prices.toml` and RunPod's last prices may be.
        prices: the config file's `[prices]`.
        file: that file, for messages.

    Raises:
        SetupNeeded: a file cannot be read, or an entry in it is wrong.

    """
    catalog = builtin()
    if home is not None:
        catalog = catalog.merged(_newer(cached(home), catalog), str(home / _LIVE))
        catalog = replace(catalog, pools=_pools(home))
        catalog = catalog.merged(_own(home / _OWN), str(home / _OWN))
    return catalog.merged(as_table(prices or {}, file, "prices"), file)


@lru_cache(maxsize=1)
def builtin() -> Catalog:
    """Return the table that is shipped."""
    return parse(_read(_BUILTIN), _BUILTIN.name)


def parse(data: Mapping[str, Any], file: str) -> Catalog:
    """Build a table from a catalogue's TOML.

    Raises:
        SetupNeeded: an entry is wrong, named by file, entry and field.

    """
    rows = {s: read_row(s, as_table(f, file, s), file) for s, f in data["prices"].items()}
    speeds = {name: read_speed(value, file, name) for name, value in data["speeds"].items()}
    ways = tuple(read_way(way, file) for way in data["ways"])
    return Catalog(str(data["version"]), read_date(data["date"]), rows, speeds, ways)


def cached(home: Path) -> dict[str, Any]:
    """Return the rows that RunPod's API told last, {} where there are none that can be read."""
    try:
        rows = json.loads((home / _LIVE).read_text("utf-8"), parse_float=Decimal)["prices"]
        builtin().merged(rows, _LIVE)
        return dict(rows)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SetupNeeded):
        return {}


def fetched(home: Path) -> str | None:
    """Return when RunPod's API was asked last (ISO, UTC), None where its prices are not here."""
    if not cached(home):
        return None
    return str(json.loads((home / _LIVE).read_text("utf-8")).get("fetched", "")) or None


def remember(
    home: Path, rows: Mapping[str, Any], when: str, pools: Mapping[str, str] | None = None
) -> Path:
    """Keep what RunPod's API told: rows, and an endpoint's pool; raises OSError."""
    file = home / _LIVE
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    told = {"fetched": when, "prices": rows, "pools": dict(pools or {})}
    temporary.write_text(json.dumps(told, indent=1), "utf-8")
    temporary.replace(file)
    return file


def _pools(home: Path) -> dict[str, str]:
    if not cached(home):
        return {}
    told = json.loads((home / _LIVE).read_text("utf-8")).get("pools")
    return {str(k): str(v) for k, v in told.items()} if isinstance(told, dict) else {}


def _newer(rows: Mapping[str, Any], catalog: Catalog) -> dict[str, Any]:
    """Leave out what a newer version of this program knows better."""
    known = catalog.rows
    return {s: f for s, f in rows.items() if s not in known or f["date"] >= known[s].date}


def _own(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    data = _read(file)
    if unknown := set(data) - {"prices"}:
        raise wrong(str(file), min(unknown), "", 'is no part of it; write [prices."SKU"]')
    return as_table(data.get("prices", {}), str(file), "prices")


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"), parse_float=Decimal)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise error(
            Code.NOT_CONFIGURED,
            f"{file} cannot be read ({type(problem).__name__}: {str(problem)[:100]})",
            hint=f"Correct or remove {file}.",
        ) from None
