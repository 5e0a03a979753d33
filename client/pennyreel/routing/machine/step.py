"""From one state to the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pennyreel.routing.machine import events, following, moves, rules, sending
from pennyreel.routing.machine.effects import Effect, MarkCancelled
from pennyreel.routing.machine.events import Event
from pennyreel.routing.machine.states import Attempt, Job, Outcome
from pennyreel.routing.machine.turn import Turn


def step(job: Job, event: Event) -> tuple[Job, tuple[Effect, ...]]:
    """Return the job after an event, and what is to be done then, in this order.

    Late, doubled and disordered events are safe; after the end nothing follows.
    """
    if job.outcome is not None:
        return job, ()
    turn = Turn(job)
    _HANDLERS[type(event)](turn, event)
    return turn.job, tuple(turn.effects)


def _woke(turn: Turn, event: events.Woke) -> None:
    attempt = turn.job.find(event.n)
    if attempt is None or attempt.call != event.call:
        return
    then = _THEN.get(attempt.awaits)
    if then is not None:
        then(turn, attempt, event.at)


def _fetched(turn: Turn, event: events.Fetched) -> None:
    if turn.answered(event.n, event.call, "fetch"):
        moves.end(turn, Outcome.DONE)


def _fetch_failed(turn: Turn, event: events.FetchFailed) -> None:
    won = turn.answered(event.n, event.call, "fetch")
    if won is not None:
        moves.fetch_later(turn, won, event.trouble, event.at, event.jitter)


def _consented(turn: Turn, event: events.Consented) -> None:
    job = turn.job
    if job.asking != event.call or job.asked is None:
        return
    turn.change(asking=None, consents=job.consents | {job.asked}, forgiven=rules.unknown(turn.job))
    moves.go_on(turn, event.at)


def _denied(turn: Turn, event: events.Denied) -> None:
    if turn.job.asking != event.call:
        return
    turn.change(asking=None)
    if rules.unforgiven(turn.job):
        moves.end(turn, Outcome.UNKNOWN)
    else:
        moves.refuse(turn, event.at)


def _cancel_asked(turn: Turn, event: events.CancelAsked) -> None:
    if turn.job.cancel:
        return
    turn.change(cancel=True, asking=None)
    turn.do(MarkCancelled())
    following.drop_all(turn, event.at)
    if turn.job.winner is None and turn.job.outcome is None:
        moves.go_on(turn, event.at)


def _send_again(turn: Turn, attempt: Attempt, _at: float) -> None:
    sending.send(turn, attempt)


def _look_up(turn: Turn, attempt: Attempt, _at: float) -> None:
    sending.look_up(turn, attempt)


def _fetch_again(turn: Turn, attempt: Attempt, at: float) -> None:
    turn.put(attempt, awaits="")
    moves.fetch(turn, at)


def _plan_again(turn: Turn, attempt: Attempt, _at: float) -> None:
    moves.plan(turn, attempt)


_THEN: dict[str, Callable[[Turn, Attempt, float], None]] = {
    "pause_send": _send_again,
    "pause_look": _look_up,
    "pause_follow": following.follow,
    "pause_fetch": _fetch_again,
    "block": _plan_again,
    "line": _plan_again,
    "follow": following.look_at_the_time,
}

_HANDLERS: dict[type, Callable[[Turn, Any], None]] = {
    events.Reserved: sending.reserved,
    events.OverBudget: sending.over_budget,
    events.Blocked: sending.blocked,
    events.InLine: sending.in_line,
    events.Accepted: sending.accepted,
    events.NotAccepted: sending.not_accepted,
    events.Lost: sending.lost,
    events.Queued: following.queued,
    events.Started: following.started,
    events.Succeeded: following.succeeded,
    events.Failed: following.failed,
    events.Stopped: following.stopped,
    events.Gone: following.gone,
    events.Fetched: _fetched,
    events.FetchFailed: _fetch_failed,
    events.Woke: _woke,
    events.Consented: _consented,
    events.Denied: _denied,
    events.CancelAsked: _cancel_asked,
}
