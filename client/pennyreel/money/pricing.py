"""What a job will cost: its billable units x the price table. Pure.

A price is a range: low where a warm worker takes it and goes on to the next job, high with every
cold start and idle tail that may be billed. Unknown is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pennyreel.money.amounts import USD, dollars, times
from pennyreel.money.catalog import Catalog, Certainty, Row, Way
from pennyreel.money.estimates import Seconds
from pennyreel.need import Unit, Usage

_WORDS = {
    Unit.GPU_SECOND: "a GPU second",
    Unit.RUN: "a run",
    Unit.OUTPUT_SECOND: "a second of output",
    Unit.IMAGE: "an image",
}


@dataclass(frozen=True)
class Price:
    """A range in micro-dollars, or three None: unknown. Its table's version goes with it."""

    sku: str
    low: int | None
    likely: int | None
    high: int | None
    certainty: Certainty
    version: str
    source: str = ""
    formula: str = ""
    """How it comes about, for a person."""

    @property
    def known(self) -> bool:
        """Whether there is a figure at all."""
        return self.high is not None

    def text(self) -> str:
        """Return it for a person, rounded: free, $0.50, $0.008 to $0.04, unknown."""
        low, high = _brief(self.low), _brief(self.high)
        return high if low == high else f"{low} to {high}"

    def to_json(self) -> dict[str, Any]:
        """Return plain data; amounts in micro-dollars."""
        return {**vars(self), "certainty": self.certainty.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Price:
        """Read what `to_json` gave; fields that this version lacks are passed over."""
        known = {name: data[name] for name in cls.__dataclass_fields__ if name in data}
        return cls(**{**known, "certainty": Certainty(data["certainty"])})


@dataclass(frozen=True)
class Meter:
    """A bill by the second, where the backend itself ends what runs for too long."""

    microusd_s: Fraction
    """Of a second."""
    besides_s: float = 0.0
    """Seconds of start and idling that are billed besides the run, at most."""

    def seconds(self, microusd: int) -> float:
        """Return how long a job may run for so much; 0 where that pays for its start alone."""
        return max(0.0, float(Fraction(microusd) / self.microusd_s) - self.besides_s)

    def microusd(self, seconds: float) -> int:
        """Return what a run of so many seconds costs at most."""
        return times(self.microusd_s, seconds + self.besides_s)


def metered(usage: Usage, catalog: Catalog) -> Meter | None:
    """Return by what a limit on a job's time limits its bill, or None: its bill is no such one."""
    row = catalog.row(usage.sku)
    by_seconds = row is not None and row.unit is usage.unit is Unit.GPU_SECOND
    if row is None or not by_seconds or not row.microusd:
        return None
    # A bill is rounded up to its step, so a step more may be billed.
    return Meter(row.microusd, _besides(usage, row, None)[2] + row.step_s)


def unknown(sku: str, version: str, why: str, source: str = "") -> Price:
    """Return the price that nobody knows."""
    return Price(sku, None, None, None, Certainty.UNKNOWN, version, source, why)


def price(
    usage: Usage,
    catalog: Catalog,
    seconds: Seconds | None = None,
    *,
    warm: bool | None = None,
) -> Price:
    """Return what a job that is billed so will cost.

    Args:
        usage: its billable units.
        catalog: the price table.
        seconds: how long it will run on the GPU; used where the usage has no amount.
        warm: whether a started worker waits for it; None = it is not known.

    """
    row = catalog.row(usage.sku)
    each = None if row is None else row.microusd
    if row is None or each is None:
        told = f"the price table has no row {usage.sku}" if row is None else row.note or row.source
        return unknown(usage.sku, catalog.version, told, "" if row is None else row.source)
    if each == 0:
        return _of(row, catalog, (0, 0, 0), "free", exact=True)
    if row.unit is not usage.unit:
        told = f"the price is of {_WORDS[row.unit]}, the bill of {_WORDS[usage.unit]}"
        return unknown(usage.sku, catalog.version, told, row.source)
    units = _units(usage, row, seconds)
    if units is None:
        told = f"{_each(each)} {_WORDS[row.unit]}, and how many is not known"
        return unknown(usage.sku, catalog.version, told, row.source)
    return _priced(usage, row, catalog, units, warm)


def clip_price(way: Way, catalog: Catalog) -> Price:
    """Return what one clip costs by a way to get a better backend."""
    row = catalog.row(way.sku)
    unit = Unit.GPU_SECOND if row is None else row.unit
    told = None if way.seconds is None else Seconds(*way.seconds)
    return price(Usage(way.sku, unit, way.amount), catalog, told)


def settled(usage: Usage, catalog: Catalog) -> Price:
    """Return what a job that ended has cost: its amount, and what was billed besides.

    Args:
        usage: what `Backend.billed` tells; its start-up is the one that really was.
        catalog: the price table.

    """
    row = catalog.row(usage.sku)
    if row is None or row.microusd is None or usage.amount is None or row.unit is not usage.unit:
        return price(usage, catalog)
    idle = min(usage.idle_s, usage.idle_s if row.idle_s is None else row.idle_s)
    amount = usage.amount + usage.startup_s + idle
    if not _sound(amount):
        return unknown(usage.sku, catalog.version, "its amount makes no sense", row.source)
    amount = _stepped(amount, row.step_s)
    cost = _times(row.microusd, (amount, amount, amount))
    return _of(row, catalog, cost, _formula(row, (amount, amount, amount)), exact=True)


def _priced(
    usage: Usage,
    row: Row,
    catalog: Catalog,
    units: tuple[float, float, float],
    warm: bool | None,
) -> Price:
    each = row.microusd or Fraction(0)
    if row.unit is not Unit.GPU_SECOND:
        return _of(row, catalog, _times(each, units), _formula(row, units), exact=True)
    besides = _besides(usage, row, warm)
    billed = tuple(_stepped(n + b, row.step_s) for n, b in zip(units, besides, strict=True))
    exact = usage.amount is not None and besides[2] == 0
    text = _formula(row, units, besides)
    return _of(row, catalog, _times(each, billed), text, exact=exact)


def _units(usage: Usage, row: Row, seconds: Seconds | None) -> tuple[float, float, float] | None:
    """Return low, likely, high of the billed unit, or None."""
    found: tuple[float, float, float] | None = None
    if usage.amount is not None:
        found = (usage.amount, usage.amount, usage.amount)
    elif row.unit is Unit.GPU_SECOND:
        found = row.seconds if seconds is None else (seconds.low, seconds.likely, seconds.high)
    return found if found is not None and all(map(_sound, found)) else None


def _besides(usage: Usage, row: Row, warm: bool | None) -> tuple[float, float, float]:
    """Return what is billed besides the run: the table's word, which users may change, else
    the backend's.
    """
    startup = usage.startup_s if row.startup_s is None else row.startup_s
    idle = usage.idle_s if row.idle_s is None else row.idle_s
    certain = startup if warm is False else 0.0
    return certain, (0.0 if warm else startup) + idle, startup + idle


def _stepped(seconds: float, step: float) -> float:
    return math.ceil(seconds / step) * step if step else seconds


def _times(each: Fraction, units: tuple[float, ...]) -> tuple[int, int, int]:
    low, likely, high = (times(each, n) for n in units)
    return low, likely, high


def _of(
    row: Row, catalog: Catalog, cost: tuple[int, int, int], formula: str, *, exact: bool
) -> Price:
    certainty = row.certainty
    if not exact and certainty is Certainty.KNOWN:
        certainty = Certainty.ESTIMATED
    source = f"{row.source}, {row.date}" if row.date else row.source
    return Price(row.sku, *cost, certainty, catalog.version, source, formula)


def _formula(
    row: Row,
    units: tuple[float, float, float],
    besides: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> str:
    each = row.microusd or Fraction(0)
    low, likely, high = (f"{n:.4g}" for n in units)
    many = low if low == high else f"{low} to {high} (likely {likely})"
    text = f"{_each(each)} {_WORDS[row.unit]} x {many}"
    if besides[2]:
        text += f", with up to {besides[2]:.4g} s of start and idling"
    return text


def _each(each: Fraction) -> str:
    if each.denominator == 1:
        return dollars(int(each))
    return f"${float(each) / USD:.3g}"


def _brief(amount: int | None) -> str:
    return dollars(amount if amount is None or amount < 1000 else round(amount, -2))


def _sound(number: float) -> bool:
    return math.isfinite(number) and number >= 0
