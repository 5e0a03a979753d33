"""An accepted attempt: queued, running, silent, stopped, done."""

from __future__ import annotations

from dataclasses import replace

from pennyreel.errors import Code
from pennyreel.routing.machine import rules
from pennyreel.routing.machine.effects import Follow, MarkCancelled, Stop, Wait, Write
from pennyreel.routing.machine.events import Failed, Gone, Queued, Started, Stopped, Succeeded
from pennyreel.routing.machine.moves import end, fetch, fetch_later, go_on
from pennyreel.routing.machine.states import Attempt, Outcome, Stage, Trouble
from pennyreel.routing.machine.turn import Turn


def follow(turn: Turn, attempt: Attempt, at: float) -> None:
    """Wait for its end; one that is to stop is stopped at once, and looked at."""
    option = turn.option(attempt.n)
    begun = attempt.accepted_at if attempt.accepted_at is not None else at
    longest = begun + option.deadline_s + (option.patience_s if option.cancels else option.queue_s)
    until = at if attempt.stage is Stage.STOPPING else longest
    # Whether it waits still is not known before this very look: it may run since long.
    asked = turn.call(attempt, "follow", accepted_at=begun, queued=False)
    turn.do(Follow(asked.n, asked.call, asked.handle or "", until))
    if attempt.stage is not Stage.ACCEPTED:
        return
    if option.cancels and not attempt.started:
        turn.do(Wait(asked.n, asked.call, max(at, begun + option.queue_s)))
    turn.do(Wait(asked.n, asked.call, max(at, rules.runs_until(turn.job, asked))))


def stop(turn: Turn, attempt: Attempt, at: float) -> None:
    """Cancel it, or give up on what cannot be cancelled."""
    if not turn.option(attempt.n).cancels:
        cannot = Trouble(
            Code.CANCELLED.value,
            "it has no cancel: what it accepted is spent",
            "Its result can be fetched when it is done: pennyreel jobs fetch",
        )
        give_up(turn, attempt, cannot, at)
        return
    told = turn.put(attempt, stage=Stage.STOPPING)
    turn.do(Write(told.n, Stage.STOPPING, told.handle, told.accepted_at))
    if told.awaits == "follow":
        turn.do(Stop(told.n, told.call))
    else:
        follow(turn, told, at)


def give_up(turn: Turn, attempt: Attempt, trouble: Trouble, at: float) -> None:
    """Nobody knows how it ended: it counts as spent."""
    turn.tell(
        f"{turn.option(attempt.n).key}: {trouble.text}; it counts as spent",
        trouble.code,
        attempt.n,
    )
    turn.settle(attempt, Stage.UNKNOWN, None, trouble)
    go_on(turn, at)


def look_at_the_time(turn: Turn, attempt: Attempt, at: float) -> None:
    """Cancel what is queued or runs for too long; only once that is confirmed another begins."""
    option = turn.option(attempt.n)
    if rules.leaves_queue(turn.job, attempt, at):
        turn.tell(f"{option.key}: queued for {option.queue_s:.0f} s; cancelling", n=attempt.n)
        stop(turn, attempt, at)
    elif rules.runs_too_long(turn.job, attempt, at):
        turn.tell(f"{option.key}: it runs for {option.deadline_s:.0f} s; stopping", n=attempt.n)
        stop(turn, attempt, at)


def queued(turn: Turn, event: Queued) -> None:
    """It waits: for too long already, perhaps."""
    attempt = turn.job.find(event.n)
    if attempt is not None and attempt.awaits == "follow":
        look_at_the_time(turn, turn.put(attempt, queued=True), event.at)


def started(turn: Turn, event: Started) -> None:
    """From now on it is waited for."""
    attempt = turn.job.find(event.n)
    if attempt is None or not attempt.alive or attempt.started:
        return
    now = turn.put(attempt, started=True, started_at=event.at)
    if now.awaits == "follow":
        turn.do(Wait(now.n, now.call, rules.runs_until(turn.job, now)))


def succeeded(turn: Turn, event: Succeeded) -> None:
    """Take its result, however late it comes: it is paid for."""
    attempt = turn.job.find(event.n)
    if attempt is None or attempt.stage in {Stage.PLANNED, Stage.RESERVED, Stage.SKIPPED}:
        return
    if attempt.stage is Stage.DONE:
        if turn.answered(event.n, event.call, "follow") and event.n == turn.job.winner:
            turn.change(at_hand=True)
            turn.put(attempt, awaits="")
            fetch(turn, event.at)
        return
    turn.settle(attempt, Stage.DONE, event.billed_microusd)
    if turn.job.winner is None:
        turn.change(winner=event.n, at_hand=True, asking=None)
        drop_all(turn, event.at)
    else:
        turn.tell(f"{turn.option(event.n).key} made the job too, after all", n=event.n)
    go_on(turn, event.at)


def failed(turn: Turn, event: Failed) -> None:
    """It ran and failed: another may try, where that may help."""
    attempt = turn.answered(event.n, event.call, "follow")
    if attempt is None:
        return
    if attempt.stage is Stage.DONE:  # made and paid for by a former process
        fetch_later(turn, attempt, event.trouble, event.at, 1.0)
        return
    turn.settle(attempt, Stage.FAILED, event.billed_microusd, event.trouble)
    if rules.unwanted(turn.job) or rules.moves_on(turn.job, attempt, event.trouble):
        go_on(turn, event.at)
    else:
        end(turn, Outcome.FAILED)


def stopped(turn: Turn, event: Stopped) -> None:
    """A cancel had an answer; only a confirmation is one."""
    attempt = turn.answered(event.n, event.call, "follow")
    if attempt is None:
        return
    if attempt.stage is Stage.DONE:
        fetch_later(turn, attempt, event.trouble, event.at, event.jitter)
    elif rules.ended_there(event.confirmed):
        _over(turn, attempt, event)
    elif rules.asks_again_to_stop(turn.job, attempt):
        _stop_again(turn, attempt, event.at, event.jitter)
    else:
        give_up(turn, attempt, event.trouble, event.at)


def gone(turn: Turn, event: Gone) -> None:
    """Its backend fell silent: look again for some time; it was accepted."""
    attempt = turn.answered(event.n, event.call, "follow")
    if attempt is None:
        return
    if attempt.stage is Stage.DONE:
        again = replace(event.trouble, retryable=True)
        fetch_later(turn, attempt, again, event.at, event.jitter)
    elif attempt.stage is Stage.STOPPING and rules.asks_again_to_stop(turn.job, attempt):
        _stop_again(turn, attempt, event.at, event.jitter)
    elif rules.looks_again(turn.job, attempt, event.trouble):
        looks = attempt.looks + 1
        pause = rules.pause_s(turn.job.rules, looks, event.jitter, event.trouble.retry_after_s)
        turn.tell(f"{turn.option(attempt.n).key}: {event.trouble.text}; looking again", n=event.n)
        turn.wait(attempt, "pause_follow", event.at + pause, looks=looks)
    else:
        give_up(turn, attempt, event.trouble, event.at)


def drop_all(turn: Turn, at: float) -> None:
    """Nothing more is wanted: release, stop, or wait for the answer that tells what to stop."""
    for attempt in tuple(turn.job.alive()):
        if attempt.stage is Stage.RESERVED:
            turn.settle(attempt, Stage.REFUSED, 0)
        elif attempt.awaits == "line":
            turn.put(attempt, stage=Stage.SKIPPED, awaits="")
        elif attempt.stage is Stage.ACCEPTED:
            stop(turn, attempt, at)
        elif attempt.stage is Stage.SENDING and attempt.awaits == "pause_send":
            lost = Trouble(Code.UNKNOWN_OUTCOME.value, "nobody knows whether it was accepted")
            give_up(turn, attempt, lost, at)


def _over(turn: Turn, attempt: Attempt, event: Stopped) -> None:
    by_others = event.trouble.code == Code.CANCELLED.value and attempt.stage is Stage.ACCEPTED
    if by_others and not rules.unwanted(turn.job):
        turn.tell(f"{turn.option(event.n).key}: somebody cancelled it there", n=event.n)
        turn.change(cancel=True)
        turn.do(MarkCancelled())  # first: after a crash the end alone would mean to move on
    cost = rules.owed(turn.job, attempt, event.billed_microusd)
    turn.settle(attempt, Stage.STOPPED, cost, _why(turn, event.trouble))
    go_on(turn, event.at)


def _why(turn: Turn, trouble: Trouble) -> Trouble:
    """Return why it was stopped: where the user did not want that, its time was over."""
    if trouble.code != Code.CANCELLED.value or rules.unwanted(turn.job):
        return trouble
    hint = "Allow more time with --timeout, or look at that backend's workers."
    return replace(
        trouble, code=Code.TIMEOUT.value, text="it took too long and was stopped", hint=hint
    )


def _stop_again(turn: Turn, attempt: Attempt, at: float, jitter: float) -> None:
    stops = attempt.stops + 1
    if attempt.stage is not Stage.STOPPING:
        turn.do(Write(attempt.n, Stage.STOPPING, attempt.handle, attempt.accepted_at))
    pause = rules.pause_s(turn.job.rules, stops, jitter)
    turn.tell(f"{turn.option(attempt.n).key}: its cancel is not confirmed yet", n=attempt.n)
    turn.wait(attempt, "pause_follow", at + pause, stops=stops, stage=Stage.STOPPING)
