"""The router's books, kept in the ledger: what `routing.ports.Books` asks for.

Beside its own columns the ledger keeps, as records of a job, what the router needs to go on after
a crash: the options in their order, what the user allowed for them, what was surely not sent, how
each attempt ended, and that the user cancelled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.caps import Cap, Scope
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
from pennyreel_comfy.echoes import unquoted

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
_BELIEVED = {
    **dict.fromkeys(Stage, frozenset({"ended", "unknown"})),
    Stage.RESERVED: frozenset({"sent"}),
    Stage.SENDING: frozenset({"sent"}),
    Stage.STOPPING: frozenset({"accepted", "running"}),
}
"""With which of the ledger's states a record of a stage is the last word."""

_LATE = "late"
MOST_SAID = 5000
MOST_KEPT = 500
"""Characters of a trouble's words that are read, and that are kept."""


@dataclass(frozen=True)
class Priced:
    """How sure an option's reservation is, and by which price table."""

    certainty: str = "estimated"
    catalogue: str = ""


@dataclass(frozen=True)
class Allowed:
    """What the user allowed for a job, beside the order of its options."""

    priced: Mapping[str, Priced] = field(default_factory=dict)
    """By an option's key."""
    caps: Sequence[Cap] = ()
    """Limits of this job's own, besides the budgets that are set."""
    unpriced: bool = False
    """The user agreed to an unknown price."""
    limit: int | None = None
    """What all attempts of the job may cost together, in micro-dollars."""


class LedgerBooks:
    """See the module. One job, one process at a time: `Spool.hold` gives out that right."""

    def __init__(self, ledger: Ledger, words: Iterable[str] = ()) -> None:
        """Keep the ledger. `words` are the job's own: its prompts, which no record may quote."""
        self._ledger, self._words = ledger, tuple(words)
        self._allowed: Allowed | None = None
        self.beside_unknown = False
        """The user agreed to pay for another attempt after one of an unknown outcome."""
        self.on_accepted: Callable[[str], None] = lambda _: None
        """Told the handle of each attempt that a backend has accepted."""

    def begin(self, job_id: str, options: Sequence[Option], allowed: Allowed | None = None) -> None:
        """Keep a job's options and what is allowed for them; before `Driver.run`."""
        self._allowed = allowed or Allowed()
        told = {"options": [asdict(o) for o in options], "allowed": _written(self._allowed)}
        self._ledger.record_decision(job_id, {"record": "options", **told})

    def record(self, job_id: str) -> JobRecord:
        """Return what is kept of a job."""
        job = self._ledger.job(job_id)
        kept = self._ledger.decisions(job_id)
        options = _options(kept)
        places = {o.key: n for n, o in reversed(list(enumerate(options)))}
        # Of each attempt the last word counts, and of an option its last attempt: one that was
        # set aside for a while, with nothing sent, has another.
        words = {r["attempt_id"]: r for r in kept if r.get("record") in {"end", "stage"}}
        last: dict[int, AttemptRecord] = {}
        for one in job.attempts:
            n = places.get(_key(one))
            if n is not None:
                last.pop(n, None)
                last[n] = _attempt(one, n, words.get(one.attempt_id))
        attempts = tuple(last.values())
        outcome = None if job.outcome is None else (job.summary or {}).get("outcome")
        return JobRecord(
            job_id,
            options,
            attempts,
            cancel=any(r.get("record") == "cancel" for r in kept),
            outcome=None if outcome is None else Outcome(outcome),
            limit=(self._allowed or _allowed(kept)).limit,
        )

    def reserve(
        self,
        job_id: str,
        n: int,  # noqa: ARG002 - the option's key says which one it is
        option: Option,
        attempt_id: str,
    ) -> None:
        """Hold the money and write the intent, in one transaction."""
        allowed = self._allowed = self._allowed or _allowed(self._ledger.decisions(job_id))
        priced = allowed.priced.get(option.key, Priced())
        self._ledger.reserve(
            attempt_id,
            option.reserve_microusd,
            job_id=job_id,
            backend=option.backend,
            target=option.target,
            certainty=priced.certainty,
            catalogue=priced.catalogue,
            caps=allowed.caps,
            unpriced=allowed.unpriced,
            beside_unknown=self.beside_unknown or self._agreed_before(job_id),
        )

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

        The ledger's states never go back and know no stopping, so a record says what they cannot:
        a refused send goes back to RESERVED, until it is sent again.
        """
        attempt_id = self.attempt_id(job_id, n)
        before = self._ledger.attempt(attempt_id)
        state = None if before is None else before.state
        if stage is Stage.SENDING and state not in {"intended", "sent"}:
            raise _taken_over(attempt_id, state)
        if stage is Stage.SENDING and state == "intended":
            self._ledger.mark(attempt_id, "sent")
        elif stage is Stage.ACCEPTED:
            self._ledger.mark(attempt_id, "accepted", handle=handle)
            if handle is not None:
                self.on_accepted(handle)
        else:
            told = {"record": "stage", "attempt_id": attempt_id, "stage": stage.value}
            self._ledger.record_decision(job_id, told)

    def settle(
        self, job_id: str, n: int, stage: Stage, microusd: int | None, trouble: Trouble | None
    ) -> None:
        """Keep how an attempt ended and what it cost."""
        attempt_id = self.attempt_id(job_id, n)
        code = "done" if stage is Stage.DONE else (trouble.code if trouble else stage.value)
        # First, and not believed before the money says the same: a crash between the two leaves an
        # attempt that has not ended, and is followed again.
        told = {"stage": stage.value, "trouble": trouble and self._trouble(trouble)}
        self._ledger.record_decision(job_id, {"record": "end", "attempt_id": attempt_id, **told})
        before = self._ledger.attempt(attempt_id)
        if stage is Stage.UNKNOWN:
            self._ledger.mark(attempt_id, "unknown", code=code)
        elif before is not None and before.state == "ended":
            self._correct(before, microusd)
        elif microusd == 0 and stage is not Stage.DONE:
            self._ledger.release(attempt_id, code=code)
        else:
            self._ledger.settle(attempt_id, microusd, code=code)

    def mark_cancelled(self, job_id: str) -> None:
        """Keep that the user wants the job no more."""
        self._ledger.record_decision(job_id, {"record": "cancel"})

    def cancelled(self, job_id: str) -> bool:
        """Whether the user wants the job no more, whichever process was told so."""
        return any(r.get("record") == "cancel" for r in self._ledger.decisions(job_id))

    def made(self, job_id: str) -> str | None:
        """Return the handle of the attempt that made the job's result."""
        attempts = self.record(job_id).attempts
        return next((a.handle for a in attempts if a.stage is Stage.DONE), None)

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

    def _trouble(self, trouble: Trouble) -> dict[str, Any]:
        """Return it as plain data: a vendor's words may be long, and quote the prompt."""
        text, hint = (
            unquoted(said[:MOST_SAID], self._words)[:MOST_KEPT]
            for said in (trouble.text, trouble.hint)
        )
        return {**asdict(trouble), "text": text, "hint": hint}

    def _agreed_before(self, job_id: str) -> bool:
        """Whether each attempt that may be billed unseen has been followed by another already.

        What was free is not paid for twice, and after all but the last the user has agreed.
        """
        attempts = self._ledger.job(job_id).attempts
        return not any(a.state == "unknown" and a.reserved for a in attempts[-1:])

    def _correct(self, before: Attempt, microusd: int | None) -> None:
        """Add what a late bill says to what was settled; a late bill is a bill."""
        first = self._ledger.entries(before.attempt_id)[0]
        owed = first.reserved if microusd is None else microusd
        if owed != before.spent:
            self._ledger.adjust(before.attempt_id, owed - before.spent, reference=_LATE)


def _taken_over(attempt_id: str, state: str | None) -> PennyreelError:
    """Return the error of a driver that was away for so long that another ended its attempt."""
    return error(
        Code.ATTEMPT_CONFLICT,
        f"attempt {attempt_id} is {state or 'gone'} in the ledger; nothing is sent",
        hint="Another process went on with the job: pennyreel jobs list",
    )


def _options(kept: list[dict[str, Any]]) -> tuple[Option, ...]:
    told: list[dict[str, Any]] = next(
        (r["options"] for r in reversed(kept) if r.get("record") == "options"), []
    )
    known = Option.__dataclass_fields__
    return tuple(Option(**{k: v for k, v in one.items() if k in known}) for one in told)


def _written(allowed: Allowed) -> dict[str, Any]:
    return {
        "priced": {key: asdict(one) for key, one in allowed.priced.items()},
        "caps": [[str(c.scope), c.period, c.limit] for c in allowed.caps],
        "unpriced": allowed.unpriced,
        "limit": allowed.limit,
    }


def _allowed(kept: list[dict[str, Any]]) -> Allowed:
    told = next((r["allowed"] for r in reversed(kept) if "allowed" in r), None)
    if told is None:
        return Allowed()
    return Allowed(
        priced={key: Priced(**one) for key, one in told["priced"].items()},
        caps=tuple(Cap(Scope.parse(scope), period, limit) for scope, period, limit in told["caps"]),
        unpriced=told["unpriced"],
        limit=told.get("limit"),
    )


def _key(attempt: Attempt) -> str:
    return f"{attempt.backend}:{attempt.target}" if attempt.target else attempt.backend


def _attempt(attempt: Attempt, n: int, word: dict[str, Any] | None) -> AttemptRecord:
    stage = _STAGES.get(attempt.state, Stage.DONE if attempt.code == "done" else Stage.FAILED)
    trouble = None
    if word is not None and attempt.state in _BELIEVED[Stage(word["stage"])]:
        stage = Stage(word["stage"])
        told = word.get("trouble")
        known = Trouble.__dataclass_fields__
        trouble = told and Trouble(**{k: v for k, v in told.items() if k in known})
    at = None if attempt.accepted_ms is None else attempt.accepted_ms / 1000
    cost = attempt.spent + attempt.reserved
    return AttemptRecord(n, stage, attempt.handle, at, trouble, cost)
