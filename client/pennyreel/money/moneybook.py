"""The ledger's part about money: reserved before a job is sent, settled when it has ended.

An attempt goes intended -> sent -> accepted -> running -> ended, and to `unknown` where it was sent
and no answer came. Its reservation stands until it is settled or released; unknown, it counts as
spent. Each call may be repeated: it counts once.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import Connection, Row, select, update

from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.alerts import Alert, crossed
from pennyreel.money.amounts import MOST, dollars
from pennyreel.money.book import Book
from pennyreel.money.caps import Cap, applies, caps_on, check
from pennyreel.money.jobbook import find_attempt
from pennyreel.money.records import CERTAINTIES, Attempt, Entry
from pennyreel.money.tables import attempts, entries, jobs
from pennyreel.types import Handle

CLAIM_S = 120.0
"""How long an attempt is its maker's, unless it asks again."""

_RANK = {"intended": 0, "sent": 1, "accepted": 2, "running": 3}
_log = logging.getLogger(__name__)


class MoneyBook(Book):
    """Reservations, settlements, states of attempts, budgets."""

    def reserve(
        self,
        attempt_id: str,
        amount: int,
        *,
        job_id: str,
        backend: str,
        target: str = "",
        catalogue: str = "",
        certainty: str = "estimated",
        caps: Sequence[Cap] = (),
        claim_s: float = CLAIM_S,
        beside_unknown: bool = False,
        unpriced: bool = False,
    ) -> Attempt:
        """Write down that an attempt is about to be sent, and hold back what it may cost at most.

        One transaction: either both are on the disk and every cap still holds, or nothing is.

        Args:
            attempt_id: minted by the caller, once for each try.
            amount: micro-dollars, the worst case.
            job_id: a job that `record_job` knows.
            backend: its name.
            target: which of its kind.
            catalogue: the version of the prices.
            certainty: known, estimated or unknown.
            caps: limits of this call's own, besides the budgets that are set.
            claim_s: for so long nobody else resumes it.
            beside_unknown: the user agrees that it may run beside, or after, an attempt of which
                nobody knows whether it ran.
            unpriced: the user agrees to a price that is unknown and of which no more than 0 is
                reserved, though there is a budget.

        Raises:
            Unavailable: `budget_exceeded`; detail has scope, period, cap_microusd, spent_microusd,
                reserved_microusd, left_microusd, wanted_microusd, resets.
            BadRequest: `attempt_conflict`: this id is another attempt's; or the job has another
                attempt that has not ended, or is done.
            SetupNeeded: `ledger_unusable`. Nothing may be sent.

        """
        _check_amount(amount, certainty)
        with self._db.write() as connection:
            old = find_attempt(connection, attempt_id)
            if old is not None:
                return self._same(connection, old, (job_id, backend, target, amount))
            job = self._job_for(connection, job_id, beside_unknown=beside_unknown)
            labels = {"backend": backend, **_labels(job)}
            own = [c for c in caps if applies(c, labels)]
            limits = [*caps_on(connection, labels), *own]
            if limits and certainty == "unknown" and not amount and not unpriced:
                raise _unpriced(limits[0])
            now = self.now_ms()
            check(connection, limits, amount, now)
            self._intend(
                connection, attempt_id, job_id, backend, target, now_ms=now, claim_s=claim_s
            )
            self._add(
                connection, attempt_id, kind="reserve", reserved=amount, booked_ms=now,
                catalogue=catalogue, certainty=certainty, **labels,
            )  # fmt: skip
            return _must_find(connection, attempt_id)

    def settle(
        self,
        attempt_id: str,
        amount: int | None,
        *,
        code: str = "done",
        certainty: str = "known",
        catalogue: str | None = None,
    ) -> Attempt:
        """Write down what an attempt has cost, give the rest back, and end it.

        Args:
            attempt_id: of a reservation.
            amount: micro-dollars; None = nobody knows, so all that was reserved is spent.
            code: how it ended: done, or an error's code.
            certainty: known, estimated or unknown.
            catalogue: the version of the prices, where it is another than when reserved.

        A second settlement changes nothing. What turns out to have cost something after it was
        released is settled all the same: the books tell the truth, also beyond a cap.

        """
        if amount is None:
            certainty = "unknown"
        _check_amount(amount or 0, certainty)
        with self._db.write() as connection:
            found, lines = _lines(connection, attempt_id)
            if "settle" in lines:
                return found
            first = lines["reserve"]
            spent = int(first.reserved) if amount is None else amount
            self._add(
                connection, attempt_id, kind="settle", reserved=-found.reserved, spent=spent,
                certainty=certainty, catalogue=catalogue or first.catalogue, **_booked(first),
            )  # fmt: skip
            self._end(connection, attempt_id, code)
            told = self._reached(connection, attempt_id)
            ended = _must_find(connection, attempt_id)
        if spent > first.reserved:
            _log.warning(
                "%s cost %s on %s, and %s was reserved for it",
                attempt_id, dollars(spent), found.backend, dollars(first.reserved),
            )  # fmt: skip
        self._alerts.tell(told)
        return ended

    def release(self, attempt_id: str, *, code: str) -> Attempt:
        """Give back all that was reserved for an attempt that cost nothing for certain; end it.

        `code` says how it ended. After a settlement, or a second time, this changes nothing.
        """
        with self._db.write() as connection:
            found, lines = _lines(connection, attempt_id)
            if "settle" not in lines and "release" not in lines:
                first = lines["reserve"]
                self._add(
                    connection, attempt_id, kind="release", reserved=-found.reserved,
                    certainty="known", catalogue=first.catalogue, **_booked(first),
                )  # fmt: skip
                self._end(connection, attempt_id, code)
            return _must_find(connection, attempt_id)

    def adjust(
        self, attempt_id: str, difference: int, *, reference: str, certainty: str = "known"
    ) -> Attempt:
        """Correct what was spent, up or down, as by a provider's bill; once for each reference."""
        if not reference:
            raise error(
                Code.BAD_REQUEST, "an adjustment needs a reference, such as a bill's number"
            )
        with self._db.write() as connection:
            found, lines = _lines(connection, attempt_id)
            if f"adjust {reference}" in lines:
                return found
            if found.spent + difference < 0:
                raise error(Code.BAD_REQUEST, f"{attempt_id} cannot have cost less than nothing")
            first = lines["reserve"]
            self._add(
                connection, attempt_id, kind="adjust", reference=reference, spent=difference,
                certainty=certainty, catalogue=first.catalogue, **_booked(first),
            )  # fmt: skip
            told = self._reached(connection, attempt_id)
            changed = _must_find(connection, attempt_id)
        self._alerts.tell(told)
        return changed

    def mark(
        self,
        attempt_id: str,
        state: Literal["sent", "accepted", "running", "unknown"],
        *,
        handle: Handle | str | None = None,
        code: str | None = None,
    ) -> Attempt:
        """Write down how far an attempt is. News that come late, or after its end, change nothing.

        `settle` and `release` end it.
        """
        with self._db.write() as connection:
            old = _must_find(connection, attempt_id)
            if not _moves(old.state, state):
                return old
            changed = {
                "state": state,
                f"{state}_ms": self.now_ms(),
                "handle": old.handle if handle is None else str(handle),
                "code": code,
            }
            row = attempts.c.attempt_id == attempt_id
            connection.execute(update(attempts).where(row).values(changed))
            told = self._reached(connection, attempt_id) if state == "unknown" else []
            found = _must_find(connection, attempt_id)
        self._alerts.tell(told)
        return found

    def entries(self, attempt_id: str) -> list[Entry]:
        """Return the lines of an attempt, oldest first."""
        query = select(entries).where(entries.c.attempt_id == attempt_id).order_by(entries.c.id)
        names = list(Entry.__dataclass_fields__)
        with self._db.read() as connection:
            rows = connection.execute(query).mappings()
            return [Entry(**{name: row[name] for name in names}) for row in rows]

    def _job_for(self, connection: Connection, job_id: str, *, beside_unknown: bool) -> Row[Any]:
        """Return the job's row, if it may have one more attempt."""
        job = connection.execute(select(jobs).where(jobs.c.job_id == job_id)).first()
        if job is None:
            raise error(Code.BAD_REQUEST, f"the ledger has no job {job_id!r}")
        query = select(attempts.c.state).where(
            attempts.c.job_id == job_id, attempts.c.state != "ended"
        )
        alive = set(connection.execute(query).scalars())
        if alive - {"unknown"}:
            raise _conflict(
                job_id, "has an attempt that has not ended", "Wait for it, or cancel it."
            )
        if alive and not beside_unknown:
            raise _conflict(
                job_id,
                "has an attempt of which nobody knows whether it ran",
                "Look it up first; another one may be paid twice and needs consent.",
            )
        if job.outcome == "done":
            raise _conflict(job_id, "is done", "Record a new job to make another.")
        if job.outcome is not None:
            again = jobs.c.job_id == job_id
            connection.execute(
                update(jobs).where(again).values(outcome=None, ended_ms=None, summary=None)
            )
        return job

    def _intend(
        self,
        connection: Connection,
        attempt_id: str,
        job_id: str,
        backend: str,
        target: str,
        *,
        now_ms: int,
        claim_s: float,
    ) -> None:
        self._follows = True
        connection.execute(
            attempts.insert().values(
                attempt_id=attempt_id,
                job_id=job_id,
                backend=backend,
                target=target,
                state="intended",
                intended_ms=now_ms,
                claimed_by=self._owner,
                claimed_until_ms=now_ms + int(claim_s * 1000),
            )
        )

    def _same(
        self, connection: Connection, old: Attempt, asked: tuple[str, str, str, int]
    ) -> Attempt:
        lines = _lines(connection, old.attempt_id)[1]
        if (old.job_id, old.backend, old.target, lines["reserve"].reserved) == asked:
            return old
        raise error(
            Code.ATTEMPT_CONFLICT,
            f"attempt {old.attempt_id} is in the ledger with another job, backend or amount",
            hint="Mint a new attempt id for each try.",
        )

    def _add(self, connection: Connection, attempt_id: str, **line: Any) -> None:
        values = {"reference": "", "reserved": 0, "spent": 0, "at_ms": self.now_ms(), **line}
        connection.execute(entries.insert().values(attempt_id=attempt_id, **values))

    def _reached(self, connection: Connection, attempt_id: str) -> list[Alert]:
        """Return the alerts that are due after a change of what an attempt has spent."""
        first = _lines(connection, attempt_id)[1]["reserve"]
        return crossed(connection, _of(first), first.booked_ms, self.now_ms())

    def _end(self, connection: Connection, attempt_id: str, code: str) -> None:
        connection.execute(
            update(attempts)
            .where(attempts.c.attempt_id == attempt_id)
            .values(
                state="ended",
                code=code,
                ended_ms=self.now_ms(),
                claimed_by=None,
                claimed_until_ms=None,
            )
        )


def _moves(old: str, new: str) -> bool:
    if old in {"ended", new}:
        return False
    if new == "unknown":
        return True
    return _RANK[new] > (_RANK["sent"] if old == "unknown" else _RANK[old])


def _must_find(connection: Connection, attempt_id: str) -> Attempt:
    found = find_attempt(connection, attempt_id)
    if found is None:
        raise error(Code.BAD_REQUEST, f"the ledger has no attempt {attempt_id!r}")
    return found


def _lines(connection: Connection, attempt_id: str) -> tuple[Attempt, dict[str, Row[Any]]]:
    """Return an attempt and its entries by their kind, adjustments by kind and reference."""
    found = _must_find(connection, attempt_id)
    rows = connection.execute(select(entries).where(entries.c.attempt_id == attempt_id)).all()
    return found, {f"{row.kind} {row.reference}".strip(): row for row in rows}


def _labels(row: Row[Any]) -> dict[str, str | None]:
    return {"project": row.project, "user": row.user, "template": row.template}


def _of(first: Row[Any]) -> dict[str, str | None]:
    return {"backend": first.backend, **_labels(first)}


def _booked(first: Row[Any]) -> dict[str, Any]:
    """What every later entry of an attempt takes from its reservation."""
    return {"booked_ms": first.booked_ms, **_of(first)}


def _check_amount(amount: int, certainty: str) -> None:
    if type(amount) is not int or not 0 <= amount <= MOST:
        raise error(Code.BAD_REQUEST, f"{amount!r} is no amount of micro-dollars")
    if certainty not in CERTAINTIES:
        raise error(Code.BAD_REQUEST, f"{certainty!r} is none of {', '.join(CERTAINTIES)}")


def _conflict(job_id: str, told: str, hint: str) -> PennyreelError:
    return error(Code.ATTEMPT_CONFLICT, f"job {job_id} {told}", hint=hint)


def _unpriced(cap: Cap) -> PennyreelError:
    return error(
        Code.BUDGET_EXCEEDED,
        f"the price is unknown, and there is a {cap.period} budget of {cap.scope}: "
        f"{dollars(cap.limit)}",
        hint="Agree to an unknown price, set a price of your own, or use another backend.",
    )
