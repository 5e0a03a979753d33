"""Runs the simulations that are compared, and adds them up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from economy_sim import naive
from economy_sim.backends import Luck, Site
from economy_sim.demand import Wish, wishes
from economy_sim.play import Play, Tally
from economy_sim.tables import FIXED, KINDS, LOCAL, RUNPOD, Kind, prices
from pennyreel.money.amounts import USD

SECOND = replace(RUNPOD, name="runpod-2")
"""A second endpoint of the user's, elsewhere."""


@dataclass(frozen=True)
class Setting:
    """What is simulated."""

    table: str = "roadmap"
    jobs: int = 100_000
    gpu_share: float = 0.20
    per_hour: float = 120.0
    max_cost: int = 600_000
    seed: int = 1
    luck: Luck = field(default_factory=Luck)


def ours(setting: Setting, kinds: Sequence[Kind] = KINDS) -> Tally:
    """Play our router with these backends."""
    catalog, sites = prices(setting.table), _Sites(setting)
    play = Play(
        {k.name: sites.of(k) for k in kinds if k is not LOCAL},
        kinds,
        catalog,
        max_cost=setting.max_cost,
        local=sites.local,
        seed=setting.seed,
    )
    return sites.paid(play.run(_wishes(setting)))


def fixed(setting: Setting) -> Tally:
    """Play the roadmap's order."""
    sites = _Sites(setting)
    by_name = {k.name: k for k in KINDS}
    order = [by_name[name] for name in FIXED]
    hosted = {k.name: sites.of(k) for k in order if k is not LOCAL}
    return sites.paid(naive.play(hosted, order, _wishes(setting), sites.local))


def figures(tally: Tally) -> dict[str, Any]:
    """Return a tally's figures. Shares of outcomes are of the jobs that were not refused."""
    tried = tally.jobs - tally.refused
    return {
        "jobs": tally.jobs,
        "done": tally.done,
        "refused": tally.refused,
        "unknown": tally.unknown,
        "failed": tally.failed,
        "success": _ratio(tally.done, tried),
        "error_ratio": _ratio(tally.failed, tried),
        "unknown_ratio": _ratio(tally.unknown, tried),
        "avg_cost_usd": _ratio(tally.paid / USD, tally.done),
        "avg_seconds": _ratio(tally.seconds, tally.done),
        "moved": tally.moved,
        "served_by": dict(sorted(tally.by.items())),
    }


def alike(one: Tally, other: Tally, numbers: Iterable[int] | None = None) -> dict[str, Any]:
    """Compare the jobs that both made: the same clips, by job; idle tails left out of both."""
    both = one.costs.keys() & other.costs.keys()
    if numbers is not None:
        both &= set(numbers)
    ours_usd = sum(one.costs[n] for n in both) / USD
    theirs_usd = sum(other.costs[n] for n in both) / USD
    return {
        "jobs": len(both),
        "ours_usd": _ratio(ours_usd, len(both)),
        "baseline_usd": _ratio(theirs_usd, len(both)),
        "saved_usd": _ratio(theirs_usd - ours_usd, len(both)),
    }


def singles(setting: Setting) -> dict[str, Any]:
    """Each backend alone, with our router: what it cannot do is refused."""
    told = {}
    for kind in KINDS:
        told[kind.name] = figures(ours(setting, (kind,)))
    return told


def by_sort(setting: Setting, one: Tally, other: Tally) -> dict[str, Any]:
    """Compare like with like: each sort of request on its own.

    Hotshot-XL makes one second of 8 frames, so it competes for short clips only.
    """
    found: dict[str, list[int]] = {}
    for wish in _wishes(setting):
        found.setdefault(wish.sort.name, []).append(wish.number)
    return {
        name: {
            "ours_alone_usd": _mean(one, numbers),
            "baseline_alone_usd": _mean(other, numbers),
            **alike(one, other, numbers),
        }
        for name, numbers in found.items()
    }


def _mean(tally: Tally, numbers: list[int]) -> float | None:
    made = [tally.costs[n] for n in numbers if n in tally.costs]
    return round(sum(made) / USD / len(made), 5) if made else None


def _wishes(setting: Setting) -> Iterable[Wish]:
    return wishes(
        setting.jobs,
        gpu_share=setting.gpu_share,
        per_hour=setting.per_hour,
        seed=setting.seed,
    )


def _ratio(part: float, whole: float) -> float:
    return round(part / whole, 5) if whole else 0.0


class _Sites:
    """The backends of one simulation."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self._catalog = setting, prices(setting.table)
        self._horizon = setting.jobs / setting.per_hour * 3600 * 2
        self._all: list[Site] = []
        self._local: dict[int, Site] = {}

    def of(self, kind: Kind, name: str = "") -> Site:
        s = self._setting
        site = Site(kind, self._catalog, s.luck, s.seed, self._horizon, name)
        self._all.append(site)
        return site

    def local(self, user: int) -> Site:
        if user not in self._local:
            self._local[user] = self.of(LOCAL, f"comfyui of {user}")
        return self._local[user]

    def paid(self, tally: Tally) -> Tally:
        for site in self._all:
            site.close()
        tally.paid = sum(site.billed + site.tails for site in self._all)
        return tally
