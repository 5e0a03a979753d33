"""The router's books, kept in the ledger: what `routing.ports.Books` asks for.

Beside its own columns the ledger keeps, as records of a job, what the router needs to go on after
a crash: the options in their order, how each attempt ended, and that the user cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pennyreel.errors import Code
from pennyreel.money.caps import Cap
from pennyreel.money.ledger import Ledger
from pennyreel.money.records import Attempt
from pennyreel.routing.machine import (
    AttemptRecord,
    JobRecord,
    Option,
    Outcome,
    Stage,
    Trouble,
)

_CODES = {
    Outcome.DONE: "done",
    Outcome.CANCELLED: Code.CANCELLED.value,
    Outcome.UNKNOWN: Code.UNKNOWN_OUTCOME.value,
    Outcome.UNFETCHED: Code.STORAGE_FAILED.value,
    Outcome.FAILED: Code.BACKEND_UNAVAILABLE.value,
    Outcome.REFUSED: Code.CONSENT_REQUIRED.value,
}
_STAGES = {
    "intended": Stage.RESERVED,
    "sent": Stage.SENDING,
    "accepted": Stage.ACCEPTED,
    "running": Stage.ACCEPTED,
    "unknown": Stage.UNKNOWN,
}
_LATE = "late"


@dataclass(frozen=True)
class Priced:
    """How sure an option's reservation is, and by which price table."""

    certainty: str = "estimated"
    catalogue: str = ""


class LedgerBooks:
    """See the module. One job, one process at a time: `Ledger.claim` gives out that right."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        priced: Mapping[str, Priced] | None = None,
        caps: Sequence[Cap] = (),
        unpriced: bool = False,
        beside_unknown: bool = False,
    ) -> None:
        """Keep all of it.

        Args:
            ledger: where it is kept.
            priced: by an option's key.
            caps: limits of this job's own, besides the budgets that are set.
            unpriced: the user agreed to an unknown price.
            beside_unknown: the user agreed to pay for another attempt after an unknown one.

        """
        self._ledger = ledger
        self._priced = dict(priced or {})
        self._caps = tuple(caps)
        self._unpriced = unpriced
        self.beside_unknown = beside_unknown
        self.reserved: dict[str, str] = {}
        """Attempt's id by option's key, of what this process has reserved."""
        self.on_accepted: Callable[[str], None] = lambda _: None
        """Told the handle of each attempt that a backend has accepted."""

    def begin(self, job_id: str, options: Sequence[Option]) -> None:
        """Keep a job's options; before `Driver.run`."""
        told = [asdict(option) for option in options]
        self._ledger.record_decision(job_id, {"record": "options", "options": told})

    def record(self, job_id: str) -> JobRecord:
        """Return what is kept of a job."""
        job = self._ledger.job(job_id)
        kept = self._ledger.decisions(job_id)
        options = _options(kept)
        places = {option.key: n for n, option in enumerate(options)}
        ends = {r["attempt_id"]: r for r in kept if r.get("record") == "end"}
        attempts = tuple(
            _attempt(a, places[_key(a)], ends.get(a.attempt_id))
            for a in job.attempts
            if _key(a) in places
        )
        outcome = None if job.outcome is None else (job.summary or {}).get("outcome")
        return JobRecord(
            job_id,
            options,
            attempts,
            cancel=any(r.get("record") == "cancel" for r in kept),
            outcome=None if outcome is None else Outcome(outcome),
        )

    def reserve(
        self,
        job_id: str,
        n: int,  # noqa: ARG002 - the option's key says which one it is
        option: Option,
        attempt_id: str,
    ) -> None:
        """Hold the money and write the intent, in one transaction."""
        priced = self._priced.get(option.key, Priced())
        self._ledger.reserve(
            attempt_id,
            option.reserve_microusd,
            job_id=job_id,
            backend=option.backend,
            target=option.target,
            certainty=priced.certainty,
            catalogue=priced.catalogue,
            caps=self._caps,
            unpriced=self._unpriced,
            beside_unknown=self.beside_unknown,
        )
        self.reserved[option.key] = attempt_id

    def attempt_id(self, job_id: str, n: int) -> str:
        """Return the id that was written with the intent."""
        key = _options(self._ledger.decisions(job_id))[n].key
        found = [a.attempt_id for a in self._ledger.job(job_id).attempts if _key(a) == key]
        return found[-1]

    def write(
        self,
        job_id: str,
        n: int,
        stage: Stage,
        handle: str | None,
        at: float | None,  # noqa: ARG002 - the ledger has its own clock
    ) -> None:
        """Keep how far an attempt is.

        A refused send goes back to RESERVED, and the ledger never goes back: after a crash then it
        is looked for as if it had been sent.
        """
        attempt_id = self.attempt_id(job_id, n)
        if stage is Stage.SENDING:
            self._ledger.mark(attempt_id, "sent")
        elif stage is Stage.ACCEPTED:
            self._ledger.mark(attempt_id, "accepted", handle=handle)
            if handle is not None:
                self.on_accepted(handle)

    def settle(
        self, job_id: str, n: int, stage: Stage, microusd: int | None, trouble: Trouble | None
    ) -> None:
        """Keep how an attempt ended and what it cost."""
        attempt_id = self.attempt_id(job_id, n)
        code = "done" if stage is Stage.DONE else (trouble.code if trouble else stage.value)
        before = self._ledger.attempt(attempt_id)
        if stage is Stage.UNKNOWN:
            self._ledger.mark(attempt_id, "unknown", code=code)
        elif before is not None and before.state == "ended" and microusd is not None:
            if microusd != before.spent:  # a late bill is a bill
                self._ledger.adjust(attempt_id, microusd - before.spent, reference=_LATE)
        elif microusd == 0 and stage is not Stage.DONE:
            self._ledger.release(attempt_id, code=code)
        else:
            self._ledger.settle(attempt_id, microusd, code=code)
        # The money first: a crash between the two leaves less to tell, and nothing held.
        self._ledger.record_decision(
            job_id,
            {
                "record": "end",
                "attempt_id": attempt_id,
                "stage": stage.value,
                "trouble": None if trouble is None else _trouble(trouble),
            },
        )

    def mark_cancelled(self, job_id: str) -> None:
        """Keep that the user wants the job no more."""
        self._ledger.record_decision(job_id, {"record": "cancel"})

    def end(
        self,
        job_id: str,
        outcome: Outcome,
        winner: int | None,
        troubles: tuple[tuple[int, Trouble], ...],
    ) -> None:
        """Keep how the job ended."""
        code = _CODES[outcome]
        if outcome in {Outcome.FAILED, Outcome.REFUSED} and len(troubles) == 1:
            code = troubles[0][1].code
        summary = {"outcome": outcome.value, "tried": len(troubles) + (winner is not None)}
        self._ledger.end_job(job_id, code, summary)


def _options(kept: list[dict[str, Any]]) -> tuple[Option, ...]:
    told: list[dict[str, Any]] = next(
        (r["options"] for r in reversed(kept) if r.get("record") == "options"), []
    )
    known = Option.__dataclass_fields__
    return tuple(Option(**{k: v for k, v in one.items() if k in known}) for one in told)


def _key(attempt: Attempt) -> str:
    return f"{attempt.backend}:{attempt.target}" if attempt.target else attempt.backend


def _attempt(attempt: Attempt, n: int, end: dict[str, Any] | None) -> AttemptRecord:
    stage = _STAGES.get(attempt.state, Stage.DONE if attempt.code == "done" else Stage.FAILED)
    trouble = None
    if end is not None:
        stage = Stage(end["stage"])
        told = end["trouble"]
        known = Trouble.__dataclass_fields__
        trouble = told and Trouble(**{k: v for k, v in told.items() if k in known})
    at = None if attempt.accepted_ms is None else attempt.accepted_ms / 1000
    return AttemptRecord(n, stage, attempt.handle, at, trouble)


def _trouble(trouble: Trouble) -> dict[str, Any]:
    """Return it as plain data, shortened: a vendor's words may be long."""
    told = asdict(trouble)
    return {**told, "text": trouble.text[:500], "hint": trouble.hint[:500]}
