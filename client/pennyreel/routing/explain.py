"""A decision as text: what was chosen and why, and of every other candidate why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone

from pennyreel.money.amounts import dollars
from pennyreel.money.estimates import Seconds
from pennyreel.routing.decision import Candidate, Decision, Outcome, Verdict

_VERDICTS = {
    Verdict.CHOSEN: "chosen",
    Verdict.NEXT: "next",
    Verdict.CONSENT: "needs a yes",
    Verdict.MISFIT: "cannot do it",
    Verdict.FORBIDDEN: "not allowed",
    Verdict.NOT_PRIVATE: "not private",
    Verdict.TRIED: "tried",
    Verdict.UNAVAILABLE: "unavailable",
    Verdict.BREAKER_OPEN: "failing",
    Verdict.TOO_SLOW: "too slow",
    Verdict.TOO_DEAR: "too dear",
    Verdict.OVER_BUDGET: "over budget",
}


_FEW = 2
"""Of more candidates a line has only numbers: what each lacks stands beside it."""


def explained(decision: Decision) -> str:
    """Return the whole story in lines, for `pennyreel why`."""
    return "\n".join(_lines(decision))


def headline(decision: Decision) -> str:
    """Return what came of it, in one line."""
    chosen = decision.chosen
    if chosen is not None:
        cost, time = chosen.price.text(), time_text(chosen.seconds)
        return f"{chosen.key}: {chosen.reasons[0]} ({cost}, {time})"
    if decision.outcome is Outcome.CONSENT_REQUIRED:
        return "nothing runs without a yes: " + decision.refusal().info.message
    told = [c for c in decision.candidates if c.verdict is not Verdict.FORBIDDEN]
    if len(told) <= _FEW:
        return decision.refusal().info.message
    counts = Counter(verdict_text(c) for c in told)
    return "no backend can do this job now: " + ", ".join(f"{n} {v}" for v, n in counts.items())


def verdict_text(candidate: Candidate) -> str:
    """Return a verdict for a person."""
    return _VERDICTS[candidate.verdict]


def time_text(seconds: Seconds | None) -> str:
    """Return a range of time for a person: 12 s, 30 s to 3 min, unknown time."""
    if seconds is None:
        return "unknown time"
    (low, unit), (high, name) = _measured(seconds.low), _measured(seconds.high)
    if unit != name:
        return f"{low} {unit} to {high} {name}"
    return f"{high} {name}" if low == high else f"{low} to {high} {name}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines, their columns aligned; the last column is as long as it is."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)] if rows else []
    return [
        "  ".join([*(c.ljust(w) for c, w in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in rows
    ]


def _measured(seconds: float) -> tuple[str, str]:
    for size, name in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g}" if name == "h" else f"{seconds / size:.0f}", name
    return f"{seconds:.0f}", "s"


def _lines(decision: Decision) -> Iterator[str]:
    when = datetime.fromtimestamp(decision.at, timezone.utc).isoformat(timespec="seconds")
    limit = decision.limit_microusd
    most = "without a limit of cost" if limit is None else f"at most {_sum(limit)}"
    yield headline(decision)
    yield f"decided {when}, policy {decision.policy}, {most}, prices of {decision.catalog or '?'}"
    if decision.wanted:
        yield f"wanted: {decision.wanted}"
    for note in decision.notes:
        yield f"note: {note}"
    for candidate in decision.candidates:
        yield ""
        yield from _story(candidate)


def _sum(amount: int) -> str:
    return dollars(amount) if amount else "$0.00"


def _story(candidate: Candidate) -> Iterator[str]:
    device = f" on {candidate.device}" if candidate.device else ""
    yield f"{candidate.key}{device}: {verdict_text(candidate)}"
    for reason in candidate.reasons:
        yield f"  - {reason}"
    price = candidate.price
    yield f"  price: {price.text()} ({price.certainty.value}): {price.formula or price.source}"
    seconds = candidate.seconds
    basis = f", by {seconds.basis}" if seconds is not None and seconds.basis else ""
    yield f"  time:  {time_text(seconds)}{basis}"
    if candidate.age_s is not None:
        yield f"  asked: {candidate.age_s:.0f} s before"
    if candidate.success is not None:
        yield f"  went well: {candidate.success:.0%} of its jobs"
    for fix in candidate.fixes:
        yield f"  next: {fix}"
    for consent in candidate.consents:
        if consent.flag not in candidate.fixes:
            yield f"  allow it: {consent.flag}"
