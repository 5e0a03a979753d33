"""What a job would cost and take everywhere: every backend, and which one it would be. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pennyreel.money.amounts import dollars
from pennyreel.money.catalog import Catalog, Way
from pennyreel.money.pricing import Price, clip_price
from pennyreel.need import Need
from pennyreel.routing.decision import Candidate, Decision, Outcome, Verdict
from pennyreel.routing.explain import headline, table, time_text, verdict_text
from pennyreel.routing.facts import NOTHING, Facts, Rules, Spent
from pennyreel.routing.policy import decide

QUALITY = ("test", "draft", "good", "best")
"""By `Abilities.quality`."""


@dataclass(frozen=True)
class Better:
    """A way to a better backend than there is, with what a clip costs there."""

    way: Way
    clip: Price

    def to_json(self) -> dict[str, Any]:
        """Return plain data; amounts in micro-dollars."""
        way = self.way
        return {
            "backend": way.backend,
            "title": way.title,
            "deposit_microusd": way.deposit_microusd,
            "setup_minutes": way.setup_minutes,
            "clip": self.clip.to_json(),
            "next": way.next,
            "source": way.source,
        }


@dataclass(frozen=True)
class Quote:
    """The decision that would be made now, with all candidates; and ways to have better ones."""

    decision: Decision
    better: tuple[Better, ...] = ()
    """Cheapest first; empty where a GPU or a paid backend is there already."""

    @property
    def chosen(self) -> Candidate | None:
        """The backend that the job would go to."""
        return self.decision.chosen

    @property
    def rows(self) -> tuple[Candidate, ...]:
        """Every backend, the chosen one first."""
        return self.decision.candidates

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            **self.decision.to_json(),
            "quality_classes": list(QUALITY),
            "better": [b.to_json() for b in self.better],
        }

    def text(self) -> str:
        """Return it as a table for a terminal."""
        return "\n".join(_lines(self))


def quote(
    candidates: Iterable[Facts],
    need: Need,
    rules: Rules,
    catalog: Catalog,
    *,
    now: float,
    spent: Spent = NOTHING,
) -> Quote:
    """Return what the job would cost and take on each candidate. Arguments as of `decide`."""
    found = list(candidates)
    decision = decide(found, need, rules, now=now, spent=spent)
    return Quote(decision, () if _well_off(decision, found) else better(catalog, need))


def better(catalog: Catalog, need: Need | None = None) -> tuple[Better, ...]:
    """Return the ways to a better backend, cheapest clip first, unknown prices last.

    A way that runs no workflows is left out where the job is one that only ComfyUI can run.
    """
    graph_only = need is not None and need.workflow
    ways = [w for w in catalog.ways if not graph_only or w.backend in {"comfyui", "runpod"}]
    priced = [Better(way, clip_price(way, catalog)) for way in ways]
    return tuple(sorted(priced, key=_cheapness))


def better_text(ways: Iterable[Better]) -> str:
    """Return them as a table, each with its next step."""
    rows = [("a clip", "deposit", "set-up", "way")]
    for one in ways:
        deposit = dollars(one.way.deposit_microusd).replace("free", "none")
        told = f"{one.way.title}: {one.way.next}"
        rows.append((one.clip.text(), deposit, f"{one.way.setup_minutes:g} min", told))
    return "\n".join(table(rows))


def _well_off(decision: Decision, found: Iterable[Facts]) -> bool:
    """Whether something stronger than a CPU can have the job, with a yes or without."""
    strong = {f.key for f in found if not f.fit.weak}
    able = {Verdict.CHOSEN, Verdict.NEXT, Verdict.CONSENT, Verdict.TOO_DEAR}
    return any(c.verdict in able and c.key in strong for c in decision.candidates)


def _cheapness(one: Better) -> tuple[float, float, float, str]:
    likely = float("inf") if one.clip.likely is None else float(one.clip.likely)
    return likely, one.way.deposit_microusd, one.way.setup_minutes, one.way.title


def _lines(quoted: Quote) -> Iterator[str]:
    head = ("", "backend", "price", "certainty", "time", "quality", "why")
    yield from table([head, *(_row(c) for c in quoted.rows)])
    # What the ways to a better one say below is not said twice.
    shown = {b.way.backend for b in quoted.better} - {"comfyui"}
    for candidate in quoted.rows:
        if candidate.verdict is Verdict.UNAVAILABLE and candidate.backend in shown:
            continue
        asked = candidate.verdict in {Verdict.CONSENT, Verdict.TOO_DEAR}
        told = [*candidate.fixes, *(c.flag for c in candidate.consents if asked)]
        if told and candidate.verdict not in {Verdict.CHOSEN, Verdict.NEXT}:
            yield f"{candidate.key}, to have it: {'; '.join(dict.fromkeys(told))}"
    yield ""
    decision = quoted.decision
    yield ("it would go to " if decision.outcome is Outcome.GO else "") + headline(decision)
    for note in decision.notes:
        yield f"note: {note}"
    if quoted.better:
        yield ""
        yield "Ways to a better one, cheapest first:"
        yield better_text(quoted.better)


def _row(candidate: Candidate) -> tuple[str, ...]:
    quality = QUALITY[max(0, min(candidate.quality, len(QUALITY) - 1))]
    return (
        "->" if candidate.verdict is Verdict.CHOSEN else "",
        candidate.key,
        candidate.price.text(),
        candidate.price.certainty.value,
        time_text(candidate.seconds),
        quality,
        f"{verdict_text(candidate)}: {candidate.reasons[0]}",
    )
