"""A decision, as it is stored and shown: every candidate with its verdict and why.

It holds no prompt, no file and no key; `to_json` gives plain data and `from_json` reads it again,
also where an older or newer version wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.estimates import Seconds
from pennyreel.money.pricing import Price

FORMAT = 1


class Verdict(str, Enum):
    """What becomes of a candidate. `CHOSEN`, `NEXT` and `CONSENT` can do the job."""

    CHOSEN = "chosen"
    NEXT = "next"
    """Tried, in its turn, if those before it fail."""
    CONSENT = "consent"
    """Tried only with a yes."""
    MISFIT = "misfit"
    FORBIDDEN = "forbidden"
    NOT_PRIVATE = "not_private"
    TRIED = "tried"
    UNAVAILABLE = "unavailable"
    BREAKER_OPEN = "breaker_open"
    TOO_SLOW = "too_slow"
    TOO_DEAR = "too_dear"
    OVER_BUDGET = "over_budget"


class Outcome(str, Enum):
    """What comes of it all."""

    GO = "go"
    CONSENT_REQUIRED = "consent_required"
    NONE = "none"


@dataclass(frozen=True)
class Consent:
    """One thing that needs a yes, and how it is given."""

    what: str
    """cost, day, unknown_price, slow or weak."""
    why: str
    flag: str
    """As on the command line, its value included."""


@dataclass(frozen=True)
class Candidate:
    """One way to run the job, judged."""

    key: str
    backend: str
    target: str
    place: str
    verdict: Verdict
    reasons: tuple[str, ...]
    price: Price
    seconds: Seconds | None
    quality: int
    device: str = ""
    success: float | None = None
    age_s: float | None = None
    """How old the answer of its health probe was."""
    fixes: tuple[str, ...] = ()
    """What would make it a candidate."""
    consents: tuple[Consent, ...] = ()
    gpu: str = ""
    """By which name its seconds are learned; "" where an older version wrote it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {
            **vars(self),
            "verdict": self.verdict.value,
            "reasons": list(self.reasons),
            "price": self.price.to_json(),
            "seconds": None if self.seconds is None else dict(vars(self.seconds)),
            "fixes": list(self.fixes),
            "consents": [dict(vars(c)) for c in self.consents],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Candidate:
        """Read what `to_json` gave."""
        known = _known(cls, data)
        return cls(
            **{
                **known,
                "verdict": Verdict(data["verdict"]),
                "reasons": tuple(data["reasons"]),
                "price": Price.from_json(data["price"]),
                "seconds": None
                if data.get("seconds") is None
                else Seconds(**_known(Seconds, data["seconds"])),
                "fixes": tuple(data.get("fixes", ())),
                "consents": tuple(Consent(**_known(Consent, c)) for c in data.get("consents", ())),
            }
        )


@dataclass(frozen=True)
class Decision:
    """All candidates, the chosen one first, and what they were judged by."""

    at: float
    """Epoch seconds."""
    policy: str
    outcome: Outcome
    candidates: tuple[Candidate, ...]
    order: tuple[str, ...] = ()
    """Keys, in the order in which they are tried."""
    notes: tuple[str, ...] = ()
    """What a person should know though nothing forbids it."""
    retry_after_s: float | None = None
    """Where there is none: when the first breaker lets a try through."""
    limit_microusd: int | None = None
    """What the job may cost; None = no limit."""
    catalog: str = ""
    """The price table's version."""
    wanted: str = ""
    """What the job requires, in words."""

    @property
    def chosen(self) -> Candidate | None:
        """The one that the job goes to."""
        return self.find(self.order[0]) if self.order else None

    def find(self, key: str) -> Candidate | None:
        """Return a candidate by its key."""
        return next((c for c in self.candidates if c.key == key), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, to be stored."""
        chosen = self.chosen
        return {
            "format": FORMAT,
            "at": self.at,
            "policy": self.policy,
            "outcome": self.outcome.value,
            "chosen": None if chosen is None else chosen.key,
            "order": list(self.order),
            "candidates": [c.to_json() for c in self.candidates],
            "notes": list(self.notes),
            "retry_after_s": self.retry_after_s,
            "limit_microusd": self.limit_microusd,
            "catalog": self.catalog,
            "wanted": self.wanted,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Decision:
        """Read what `to_json` gave; fields that this version lacks are passed over."""
        return cls(
            **{
                **_known(cls, data),
                "outcome": Outcome(data["outcome"]),
                "candidates": tuple(Candidate.from_json(c) for c in data["candidates"]),
                "order": tuple(data["order"]),
                "notes": tuple(data.get("notes", ())),
            }
        )

    def refusal(self) -> PennyreelError:
        """Return the error that says why nothing runs, and what to do; the quote is its detail."""
        if self.outcome is Outcome.CONSENT_REQUIRED:
            asking = [c for c in self.candidates if c.verdict in _ASKING]
            first = asking[0]
            ways = [f"{_flags(c)}  ({c.key}, {c.price.text()})" for c in asking]
            return error(
                Code.CONSENT_REQUIRED,
                f"{first.key} can do it: {'; '.join(c.why for c in first.consents)}",
                hint="Allow it: " + "\nor: ".join(ways),
                detail={"decision": self.to_json()},
            )
        # What the user has ruled out himself is no news, unless there is nothing else.
        told = [c for c in self.candidates if c.verdict is not Verdict.FORBIDDEN]
        told = told or list(self.candidates)
        fixes = [fix for c in told for fix in c.fixes]
        wait = self.retry_after_s
        return error(
            self._code(),
            "no backend can do this job: "
            + ("; ".join(f"{c.key}: {c.reasons[0]}" for c in told) or "there is none"),
            hint="\n".join(dict.fromkeys(fixes)) or "See what there is: pennyreel doctor",
            retryable=wait is not None,
            detail={
                "decision": self.to_json(),
                **({} if wait is None else {"retry_after_s": wait}),
            },
        )

    def _code(self) -> Code:
        """Return what the user does next: mend the request, set something up, or wait."""
        verdicts = {c.verdict for c in self.candidates}
        if verdicts and verdicts <= _REQUEST:
            return Code.BAD_REQUEST
        if any(c.verdict is Verdict.UNAVAILABLE and c.fixes for c in self.candidates):
            return Code.NOT_CONFIGURED
        if Verdict.OVER_BUDGET in verdicts:
            return Code.BUDGET_EXCEEDED
        return Code.BACKEND_UNAVAILABLE


_REQUEST = {Verdict.MISFIT, Verdict.FORBIDDEN, Verdict.NOT_PRIVATE, Verdict.TOO_SLOW}
_ASKING = {Verdict.CONSENT, Verdict.TOO_DEAR}


def _flags(candidate: Candidate) -> str:
    return " ".join(dict.fromkeys(c.flag for c in candidate.consents))


def _known(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data[name] for name in cls.__dataclass_fields__ if name in data}
