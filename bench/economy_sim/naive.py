"""A fixed order of backends: the next one when one fails, whatever became of the former call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from economy_sim.backends import Site
from economy_sim.demand import Wish
from economy_sim.play import Tally
from economy_sim.tables import LOCAL, Kind
from pennyreel.need import misfits


def play(
    sites: dict[str, Site],
    order: Sequence[Kind],
    wishes: Iterable[Wish],
    local: Callable[[int], Site],
) -> Tally:
    """Play every job: no retry, no look-up, no breaker, no cancel."""
    tally = Tally()
    for wish in wishes:
        tally.jobs += 1
        able = [k for k in order if not any(misfits(wish.sort.need, k.abilities))]
        able = [k for k in able if k is not LOCAL or wish.gpu]
        if not able:
            tally.refused += 1
            continue
        at, cost, tries, winner = wish.at, 0, 0, ""
        for kind in able:
            site = local(wish.user) if kind is LOCAL else sites[kind.name]
            tries += 1
            answer = site.submit(wish.number, tries, at)
            run = answer.run
            cost += run.bill if run is not None else 0
            if answer.said == "accepted" and run is not None:
                at = run.ends_at
                if run.trouble is None:
                    winner = kind.name
                    break
        tally.moved += tries > 1
        if winner:
            tally.done += 1
            tally.by[winner] = tally.by.get(winner, 0) + 1
            tally.costs[wish.number] = cost
            tally.seconds += at - wish.at
        else:
            tally.failed += 1
    return tally
