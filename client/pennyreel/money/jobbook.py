"""The ledger's part about jobs: recorded before anything is sent, looked up by list and resume."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, false, select, update

from pennyreel.errors import Code, error
from pennyreel.money.book import Book
from pennyreel.money.claims import is_dead
from pennyreel.money.records import (
    JOB_STATES,
    Attempt,
    Job,
    Labels,
    as_attempt,
    attempts_with_money,
)
from pennyreel.money.tables import attempts, decisions, jobs
from pennyreel.need import Need

MOST_RECORD = 500_000
MOST_SUMMARY = 8_000
"""Characters of JSON."""

Plain = str | int | float | bool | None


class JobBook(Book):
    """Jobs, the decisions made for them, and who follows their attempts."""

    def record_job(
        self,
        job_id: str,
        *,
        request_sha256: str,
        need: Need | Mapping[str, Any],
        labels: Labels | None = None,
        backends: Sequence[str] = (),
        policy: str = "cheapest",
    ) -> Job:
        """Write down a job before anything of it is sent; the same job again changes nothing.

        Raises:
            BadRequest: `attempt_conflict`: another request has this id.
            SetupNeeded: `ledger_unusable`.

        """
        facts = asdict(need) if is_dataclass(need) else dict(need)
        with self._db.write() as connection:
            old = connection.execute(select(jobs).where(jobs.c.job_id == job_id)).first()
            if old is not None and old.request_sha256 != request_sha256:
                raise error(
                    Code.ATTEMPT_CONFLICT,
                    f"job {job_id} is in the ledger with another request",
                    hint="Mint a new job id for a request that differs.",
                )
            if old is None:
                connection.execute(
                    jobs.insert().values(
                        job_id=job_id,
                        created_ms=self.now_ms(),
                        request_sha256=request_sha256,
                        need=_sized(facts, MOST_RECORD, "need"),
                        backends=list(backends),
                        policy=policy,
                        **asdict(labels or Labels()),
                    )
                )
            return _job(connection, job_id)

    def record_decision(self, job_id: str, record: Mapping[str, Any]) -> None:
        """Write down why a job goes where it goes: all candidates with their reasons, as JSON.

        Raises:
            BadRequest: it is no JSON, or has more than MOST_RECORD characters.

        """
        body = _sized(record, MOST_RECORD, "decision")
        with self._db.write() as connection:
            connection.execute(
                decisions.insert().values(job_id=job_id, at_ms=self.now_ms(), record=body)
            )

    def decisions(self, job_id: str) -> list[dict[str, Any]]:
        """Return a job's decisions, oldest first, each with its time `at_ms`."""
        query = select(decisions).where(decisions.c.job_id == job_id).order_by(decisions.c.id)
        with self._db.read() as connection:
            return [{**r.record, "at_ms": r.at_ms} for r in connection.execute(query)]

    def end_job(self, job_id: str, outcome: str, summary: Mapping[str, Plain] | None = None) -> Job:
        """Write down how a job ended: done, or an error's code. What is done stays done.

        `summary` has numbers and short texts about the result: files, bytes, seconds.
        """
        told = None if summary is None else _summary(summary)
        with self._db.write() as connection:
            if _job(connection, job_id).outcome != "done":
                connection.execute(
                    update(jobs)
                    .where(jobs.c.job_id == job_id)
                    .values(outcome=outcome, ended_ms=self.now_ms(), summary=told)
                )
            return _job(connection, job_id)

    def job(self, job_id: str) -> Job:
        """Return a job with its attempts; the first letters of its id will do.

        Raises:
            BadRequest: no job begins so, or several do.

        """
        with self._db.read() as connection:
            return _job(connection, _full(connection, job_id))

    def jobs(
        self,
        *,
        state: str | None = None,
        labels: Labels | None = None,
        since_ms: int = 0,
        limit: int = 50,
    ) -> list[Job]:
        """Return jobs with their attempts, newest first.

        Args:
            state: one of JOB_STATES; None = any.
            labels: those that must be as given.
            since_ms: created then or later.
            limit: at most so many.

        """
        wanted = [jobs.c[k] == v for k, v in asdict(labels or Labels()).items() if v is not None]
        query = (
            select(jobs)
            .where(jobs.c.created_ms >= since_ms, _in_state(state), *wanted)
            .order_by(jobs.c.created_ms.desc(), jobs.c.job_id)
            .limit(limit)
        )
        with self._db.read() as connection:
            return _jobs(connection, connection.execute(query).all())

    def attempt(self, attempt_id: str) -> Attempt | None:
        """Return an attempt, or None where there is none of this id."""
        with self._db.read() as connection:
            return find_attempt(connection, attempt_id)

    def open_attempts(self, job_id: str | None = None) -> list[Attempt]:
        """Return the attempts that have not ended, oldest first, whoever follows them."""
        with self._db.read() as connection:
            return _open(connection, job_id)

    def claim_open(self, seconds: float, job_id: str | None = None) -> list[Attempt]:
        """Take the attempts that have not ended and that nobody follows, for a resume.

        Each goes to one caller only. It is the caller's for so many seconds, or until it ends;
        `claim` again to keep it.
        """
        with self._db.write() as connection:
            free = [a for a in _open(connection, job_id) if self._free(a)]
            for one in free:
                self._take(connection, one.attempt_id, seconds)
            return free

    def claim(self, attempt_id: str, seconds: float) -> bool:
        """Take an attempt, or keep it longer; False where another follows it or it has ended."""
        with self._db.write() as connection:
            found = find_attempt(connection, attempt_id)
            if found is None or found.state == "ended" or not self._free(found):
                return False
            self._take(connection, attempt_id, seconds)
            return True

    def unclaim(self, attempt_id: str | None = None) -> None:
        """Let an attempt go, or all that this ledger has taken: another may follow them."""
        ours = attempts.c.claimed_by == self._owner
        one = ours if attempt_id is None else and_(ours, attempts.c.attempt_id == attempt_id)
        with self._db.write() as connection:
            connection.execute(
                update(attempts).where(one).values(claimed_by=None, claimed_until_ms=None)
            )

    def _free(self, one: Attempt) -> bool:
        if one.claimed_by in {None, self._owner} or (one.claimed_until_ms or 0) <= self.now_ms():
            return True
        return is_dead(str(one.claimed_by))

    def _take(self, connection: Connection, attempt_id: str, seconds: float) -> None:
        self._follows = True
        until = self.now_ms() + int(seconds * 1000)
        connection.execute(
            update(attempts)
            .where(attempts.c.attempt_id == attempt_id)
            .values(claimed_by=self._owner, claimed_until_ms=until)
        )


def find_attempt(connection: Connection, attempt_id: str) -> Attempt | None:
    """Return an attempt with its money, or None."""
    query = attempts_with_money().where(attempts.c.attempt_id == attempt_id)
    row = connection.execute(query).first()
    return None if row is None else as_attempt(row)


def _open(connection: Connection, job_id: str | None) -> list[Attempt]:
    query = attempts_with_money().where(attempts.c.state != "ended")
    if job_id is not None:
        query = query.where(attempts.c.job_id == job_id)
    return [as_attempt(row) for row in connection.execute(query)]


def _job(connection: Connection, job_id: str) -> Job:
    rows = connection.execute(select(jobs).where(jobs.c.job_id == job_id)).all()
    if not rows:
        raise _no_job(job_id, "there is no such job in the ledger")
    return _jobs(connection, rows)[0]


def _jobs(connection: Connection, rows: Sequence[Row[Any]]) -> list[Job]:
    ids = [row.job_id for row in rows]
    tries: dict[str, list[Attempt]] = {}
    query = attempts_with_money().where(attempts.c.job_id.in_(ids))
    for row in connection.execute(query):
        tries.setdefault(row.job_id, []).append(as_attempt(row))
    found = []
    for row in rows:
        own = tuple(tries.get(row.job_id, ()))
        facts = {**row._mapping, "backends": tuple(row.backends), "attempts": own}  # noqa: SLF001
        spent, reserved = sum(a.spent for a in own), sum(a.reserved for a in own)
        found.append(Job(**facts, spent=spent, reserved=reserved))
    return found


def _full(connection: Connection, given: str) -> str:
    """Return the whole id of the one job that is meant."""
    ids = select(jobs.c.job_id)
    if connection.execute(ids.where(jobs.c.job_id == given)).first():
        return given
    begun = ids.where(jobs.c.job_id.startswith(given, autoescape=True)).limit(2)
    found = connection.execute(begun).scalars().all()
    if len(found) != 1 or not given:
        several = bool(given and found)
        told = "several jobs begin so" if several else "there is no such job in the ledger"
        raise _no_job(given, told)
    return str(found[0])


def _in_state(state: str | None) -> ColumnElement[bool]:
    outcome = jobs.c.outcome
    special = [Code.UNKNOWN_OUTCOME.value, Code.CANCELLED.value]
    ways: dict[str | None, ColumnElement[bool]] = {
        None: jobs.c.job_id.is_not(None),
        "open": outcome.is_(None),
        "done": outcome == "done",
        "unknown": outcome == special[0],
        "cancelled": outcome == special[1],
        "failed": and_(outcome.is_not(None), outcome.not_in(["done", *special])),
    }
    if state not in ways:
        raise error(
            Code.BAD_REQUEST,
            f"no job is in state {state!r}",
            hint=f"States: {', '.join(JOB_STATES)}",
        )
    return ways.get(state, false())


def _no_job(given: str, told: str) -> Exception:
    hint = "See: pennyreel jobs list"
    return error(Code.BAD_REQUEST, f"{given[:80]!r}: {told}", hint=hint)


def _summary(summary: Mapping[str, Plain]) -> dict[str, Any]:
    """Numbers and short texts only, so that no prompt and no file gets into the ledger by it."""
    for name, value in summary.items():
        short = not isinstance(value, str) or len(value) <= 200
        if not (short and (value is None or isinstance(value, (str, int, float)))):
            raise error(Code.BAD_REQUEST, f"the summary's {name} is no number and no short text")
    return _sized(summary, MOST_SUMMARY, "summary")


def _sized(body: Mapping[str, Any], most: int, what: str) -> dict[str, Any]:
    """Return it as JSON gives it back."""
    try:
        text = json.dumps(body, allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise error(Code.BAD_REQUEST, f"the {what} is no JSON: {problem}") from None
    if len(text) > most:
        raise error(Code.BAD_REQUEST, f"the {what} has {len(text)} characters; {most} are kept")
    plain: dict[str, Any] = json.loads(text)
    return plain
