"""A job from what the books keep of it: how each begins, and goes on after a crash."""

from __future__ import annotations

from dataclasses import replace

from pennyreel.errors import Code
from pennyreel.routing.machine import following, rules, sending
from pennyreel.routing.machine.effects import Effect
from pennyreel.routing.machine.moves import end, go_on
from pennyreel.routing.machine.states import Attempt, Job, JobRecord, Outcome, Stage, Trouble
from pennyreel.routing.machine.turn import Turn

_CRASHED = Trouble(
    Code.UNKNOWN_OUTCOME.value,
    "this program ended while it was being sent",
    "Look at the vendor's own list of jobs before you send it again.",
)


def resume(record: JobRecord, at: float, jitter: float = 1.0) -> tuple[Job, tuple[Effect, ...]]:
    """Return the job, and what is to be done now; nothing, where it has ended.

    Whoever calls it is the only one that drives the job: the books give out that right.
    """
    turn = Turn(_rebuilt(record))
    if turn.job.outcome is not None:
        return turn.job, ()
    for attempt in tuple(turn.job.alive()):
        _take_up(turn, attempt, at, jitter)
    if turn.job.outcome is None and not rules.busy(turn.job) and turn.job.asking is None:
        _go_on_once(turn, at)
    return turn.job, tuple(turn.effects)


def _rebuilt(record: JobRecord) -> Job:
    attempts = tuple(
        Attempt(
            kept.n,
            kept.stage,
            handle=kept.handle,
            accepted_at=kept.accepted_at,
            resumed=True,
            sends=0 if kept.stage is Stage.RESERVED else 1,
            trouble=kept.trouble,
            cost=kept.cost,
        )
        for kept in record.attempts
    )
    job = Job(
        record.job_id,
        record.options,
        record.rules,
        record.limit,
        attempts,
        consents=frozenset(a.n for a in attempts),
        cancel=record.cancel,
        winner=next((a.n for a in attempts if a.stage is Stage.DONE), None),
        outcome=record.outcome,
    )
    # After all but the last another was begun: the user had agreed to that.
    return replace(job, forgiven=rules.unknown(replace(job, attempts=attempts[:-1])))


def _take_up(turn: Turn, attempt: Attempt, at: float, jitter: float) -> None:
    """Go on with an attempt where the former process left it."""
    if attempt.stage is Stage.SENDING:
        sending.find_out(turn, attempt, _CRASHED, at, jitter)
    elif attempt.stage in {Stage.ACCEPTED, Stage.STOPPING}:
        if rules.unwanted(turn.job) and attempt.stage is Stage.ACCEPTED:
            following.stop(turn, attempt, at)
        else:
            following.follow(turn, attempt, at)
    elif rules.unwanted(turn.job):
        turn.settle(attempt, Stage.REFUSED, 0)
    else:
        sending.send(turn, attempt)


def _go_on_once(turn: Turn, at: float) -> None:
    """Go on, unless taking up the attempts has led there already."""
    if any(a.awaits for a in turn.job.attempts):
        return
    if _failed_for_good(turn.job):
        end(turn, Outcome.FAILED)  # as the former process was about to do
    else:
        go_on(turn, at)


def _failed_for_good(job: Job) -> bool:
    last = job.attempts[-1] if job.attempts else None
    if last is None or last.stage is not Stage.FAILED or rules.unwanted(job):
        return False
    return not rules.moves_on(job, last, last.trouble or _CRASHED)
