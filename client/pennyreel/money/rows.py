"""Rows of the price table, read from TOML: each mistake is named by file, entry and field. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from typing import Any

from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.amounts import USD, microusd
from pennyreel.need import Unit


class Certainty(str, Enum):
    """How far a figure can be relied on."""

    KNOWN = "known"
    ESTIMATED = "estimated"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Row:
    """One price. `usd` is of one unit, or of an hour of it; None = nobody knows."""

    sku: str
    unit: Unit
    usd: Decimal | None
    certainty: Certainty
    date: str
    """YYYY-MM-DD: when the source said so."""
    source: str
    per: str = "unit"
    startup_s: float | None = None
    """Seconds of a cold start that are billed besides, at most; None = as the usage says."""
    idle_s: float | None = None
    """The same of a worker's idling afterwards."""
    step_s: float = 0.0
    """The seconds of a bill are rounded up to a multiple of it."""
    seconds: tuple[float, float, float] | None = None
    """Low, likely, high seconds of a run where nothing has been learned."""
    watts: float = 0.0
    kwh_usd: Decimal = Decimal(0)
    """What a kilowatt-hour costs the user, for his own machine."""
    note: str = ""

    @property
    def microusd(self) -> Fraction | None:
        """Micro-dollars of one unit, exactly."""
        if self.usd is None:
            return None
        current = Fraction(self.watts) * Fraction(self.kwh_usd) / 3_600_000
        return (Fraction(self.usd) / (3600 if self.per == "hour" else 1) + current) * USD


@dataclass(frozen=True)
class Way:
    """A way to get a better backend: what it takes, and what a clip costs there."""

    backend: str
    title: str
    sku: str
    deposit_microusd: int
    setup_minutes: float
    next: str
    source: str
    amount: float | None = None
    seconds: tuple[float, float, float] | None = None


def overridden(old: Row | None, sku: str, fields: object, file: str) -> Row:
    """Lay the user's fields over a row; a new price is the user's word, known and undated."""
    given = dict(as_table(fields, file, sku))
    if old is None:
        base: dict[str, Any] = {"certainty": "known", "date": "", "source": file}
    else:
        base = {n: getattr(old, n) for n in Row.__dataclass_fields__ if n != "sku"}
        base = {n: v for n, v in base.items() if v is not None}
        if "usd" in given:
            base |= {"certainty": "known", "date": "", "source": file, "note": ""}
            base.pop("per")
    return read_row(sku, {**base, **given}, file)


def read_row(sku: str, given: Mapping[str, Any], file: str) -> Row:
    """Return the row that TOML gives for a sku."""
    known = [n for n in Row.__dataclass_fields__ if n != "sku"]
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            told = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise wrong(file, sku, name, f"is no field of a price; {told}")
    usd = _amount(given.get("usd"), file, sku, "usd")
    row = Row(
        sku=sku,
        unit=Unit(_choice(given.get("unit"), [u.value for u in Unit], file, sku, "unit")),
        usd=usd,
        certainty=Certainty(
            _choice(given.get("certainty"), [c.value for c in Certainty], file, sku, "certainty")
        ),
        date=read_date(given.get("date", "")),
        source=str(given.get("source", file))[:200],
        per=_choice(given.get("per", "unit"), ["unit", "second", "hour"], file, sku, "per"),
        startup_s=_optional(given.get("startup_s"), file, sku, "startup_s"),
        idle_s=_optional(given.get("idle_s"), file, sku, "idle_s"),
        step_s=_number(given.get("step_s", 0), file, sku, "step_s"),
        seconds=_three(given.get("seconds"), file, sku),
        watts=_number(given.get("watts", 0), file, sku, "watts"),
        kwh_usd=_amount(given.get("kwh_usd", 0), file, sku, "kwh_usd") or Decimal(0),
        note=str(given.get("note", ""))[:200],
    )
    if (usd is None) != (row.certainty is Certainty.UNKNOWN):
        raise wrong(file, sku, "usd", "is there if and only if the certainty is not unknown")
    if row.per != "unit" and row.unit is not Unit.GPU_SECOND:
        raise wrong(file, sku, "per", f"is for gpu_second, not for {row.unit.value}")
    return row


def read_way(given: Mapping[str, Any], file: str) -> Way:
    """Return an entry of `[[ways]]`."""
    sku = str(given["sku"])
    return Way(
        backend=str(given["backend"]),
        title=str(given["title"]),
        sku=sku,
        deposit_microusd=microusd(given["deposit_usd"], f"{file}: {sku}: deposit_usd"),
        setup_minutes=_number(given["setup_minutes"], file, sku, "setup_minutes"),
        next=str(given["next"]),
        source=str(given["source"]),
        amount=_optional(given.get("amount"), file, sku, "amount"),
        seconds=_three(given.get("seconds"), file, sku),
    )


def as_table(given: object, file: str, entry: str) -> Mapping[str, Any]:
    """Return what has to be a table."""
    if isinstance(given, Mapping):
        return given
    raise wrong(file, entry, "", "is a table of fields, such as usd = 0.0002")


def _choice(given: object, known: list[str], file: str, sku: str, name: str) -> str:
    if isinstance(given, str) and given in known:
        return given.value if isinstance(given, Enum) else given
    raise wrong(file, sku, name, f"is one of {', '.join(known)}")


def _amount(given: object, file: str, sku: str, name: str) -> Decimal | None:
    if given is None:
        return None
    if isinstance(given, (int, float, Decimal)) and not isinstance(given, bool):
        value = Decimal(str(given))
        if value.is_finite() and 0 <= value <= 1_000_000:
            return value
    raise wrong(file, sku, name, "is a number of dollars, 0 or more")


def _number(given: object, file: str, sku: str, name: str) -> float:
    if isinstance(given, (int, float, Decimal)) and not isinstance(given, bool):
        value = float(given)
        if 0 <= value <= 1e9:
            return value
    raise wrong(file, sku, name, "is a number, 0 or more")


def _optional(given: object, file: str, sku: str, name: str) -> float | None:
    return None if given is None else _number(given, file, sku, name)


def _three(given: object, file: str, sku: str) -> tuple[float, float, float] | None:
    if given is None:
        return None
    if isinstance(given, (list, tuple)) and len(given) == 3:
        low, likely, high = (_number(n, file, sku, "seconds") for n in given)
        if low <= likely <= high:
            return low, likely, high
    raise wrong(file, sku, "seconds", "is [low, likely, high], rising")


def read_speed(given: object, file: str, name: str) -> tuple[float, float]:
    """Return slowest and fastest of an entry of `[speeds]`."""
    both = given if isinstance(given, list) else [given, given]
    slow, fast = (_number(n, file, "speeds", name) for n in both)
    if not 0 < slow <= fast:
        raise wrong(file, "speeds", name, "is a speed above 0, or [slowest, fastest]")
    return slow, fast


def read_date(given: object) -> str:
    """Return a date as YYYY-MM-DD."""
    return given.isoformat() if isinstance(given, date) else str(given)[:20]


def wrong(file: str, entry: str, name: str, what: str) -> PennyreelError:
    """Return the error that names a mistake."""
    field_ = f": {name}" if name else ""
    return error(
        Code.NOT_CONFIGURED,
        f'{file}: prices."{entry}"{field_} {what}',
        hint="See the rows that there are, and their form: pennyreel prices",
    )
