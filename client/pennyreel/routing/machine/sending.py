"""An attempt until it is accepted: money, intent, the one call, and its possible answers."""

from __future__ import annotations

from dataclasses import replace

from pennyreel.errors import Code
from pennyreel.routing.machine import following, rules
from pennyreel.routing.machine.effects import LookUp, Submit, Write
from pennyreel.routing.machine.events import (
    Accepted,
    Blocked,
    InLine,
    Lost,
    NotAccepted,
    OverBudget,
    Reserved,
)
from pennyreel.routing.machine.moves import go_on
from pennyreel.routing.machine.states import Attempt, Stage, Trouble
from pennyreel.routing.machine.turn import Turn


def reserved(turn: Turn, event: Reserved) -> None:
    """Its money is held: send it, unless nobody wants it any more."""
    attempt = turn.answered(event.n, event.call, "reserve")
    if attempt is None:
        return
    held = turn.put(attempt, stage=Stage.RESERVED, awaits="")
    if rules.unwanted(turn.job):
        turn.settle(held, Stage.REFUSED, 0)
        go_on(turn, event.at)
    else:
        send(turn, held)


def over_budget(turn: Turn, event: OverBudget) -> None:
    """Pass it over."""
    attempt = turn.answered(event.n, event.call, "reserve")
    if attempt is not None:
        turn.put(attempt, stage=Stage.SKIPPED, awaits="", trouble=event.trouble)
        go_on(turn, event.at)


def blocked(turn: Turn, event: Blocked) -> None:
    """Pass it over for now."""
    attempt = turn.answered(event.n, event.call, "reserve")
    if attempt is None:
        return
    why = event.trouble or Trouble(
        Code.BACKEND_UNAVAILABLE.value,
        f"it failed before and is left alone for {max(0.0, event.until - event.at):.0f} s",
        "Try again later.",
        retryable=True,
    )
    turn.put(attempt, stage=Stage.SKIPPED, awaits="", trouble=why, until=event.until)
    go_on(turn, event.at)


def in_line(turn: Turn, event: InLine) -> None:
    """Wait for its turn: what is next in the order may be dearer, and no other begins meanwhile."""
    attempt = turn.answered(event.n, event.call, "reserve")
    if attempt is None:
        return
    if rules.unwanted(turn.job):
        turn.put(attempt, stage=Stage.SKIPPED, awaits="")
        go_on(turn, event.at)
        return
    wait = max(0.0, event.until - event.at)
    turn.tell(f"{turn.option(event.n).key}: many jobs move there; asking again in {wait:.0f} s")
    turn.wait(attempt, "line", event.until)


def send(turn: Turn, attempt: Attempt) -> None:
    """Write down that the call may leave, then let it."""
    sent = turn.call(attempt, "submit", stage=Stage.SENDING, sends=attempt.sends + 1)
    turn.do(Write(sent.n, Stage.SENDING))
    turn.do(Submit(sent.n, sent.call))


def accepted(turn: Turn, event: Accepted) -> None:
    """The backend has it. A truth, whichever call it answers."""
    attempt = turn.job.find(event.n)
    if attempt is None or attempt.stage not in {Stage.RESERVED, Stage.SENDING}:
        return
    has = turn.put(
        attempt,
        stage=Stage.ACCEPTED,
        handle=event.handle,
        accepted_at=event.at,
        awaits="",
        looks=0,
        unsure=False,
        trouble=None,
    )
    turn.do(Write(has.n, Stage.ACCEPTED, has.handle, has.accepted_at))
    if rules.unwanted(turn.job):
        following.stop(turn, has, event.at)
    else:
        following.follow(turn, has, event.at)


def not_accepted(turn: Turn, event: NotAccepted) -> None:
    """Surely nothing runs: send it again a few times, or pass on."""
    attempt = turn.answered(event.n, event.call, "submit", "look_up")
    if attempt is None:
        return
    if rules.proves_nothing(attempt):
        find_out(turn, attempt, event.trouble, event.at, event.jitter)
        return
    if rules.unwanted(turn.job) or not rules.sends_again(turn.job, attempt, event.trouble):
        turn.settle(attempt, Stage.REFUSED, 0, event.trouble)
        go_on(turn, event.at)
        return
    if rules.sets_aside(turn.job, attempt, event.trouble):
        _set_aside(turn, attempt, event)
        return
    asked = event.trouble.retry_after_s
    pause = rules.pause_s(turn.job.rules, attempt.sends, event.jitter, asked)
    turn.tell(
        f"{turn.option(attempt.n).key}: {event.trouble.text}; trying it again in {pause:.0f} s",
        event.trouble.code,
        attempt.n,
    )
    turn.do(Write(attempt.n, Stage.RESERVED))
    turn.wait(attempt, "pause_send", event.at + pause, stage=Stage.RESERVED, unsure=False)


def lost(turn: Turn, event: Lost) -> None:
    """It may have been accepted: find out, without sending anything that could be paid twice."""
    attempt = turn.answered(event.n, event.call, "submit", "look_up")
    if attempt is not None:
        find_out(turn, attempt, event.trouble, event.at, event.jitter)


def find_out(turn: Turn, attempt: Attempt, trouble: Trouble, at: float, jitter: float) -> None:
    """Look it up, or have its stored result sent, or count it as spent."""
    key = turn.option(attempt.n).key
    attempt = turn.put(attempt, unsure=True)
    if rules.looks_it_up(turn.job, attempt):
        looks = attempt.looks + 1
        pause = rules.pause_s(turn.job.rules, looks, jitter, trouble.retry_after_s)
        turn.tell(f"{key}: {trouble.text}; looking it up", trouble.code, attempt.n)
        turn.wait(attempt, "pause_look", at + pause, looks=looks)
    elif rules.sends_for_its_result(turn.job, attempt):
        pause = rules.pause_s(turn.job.rules, attempt.sends, jitter, trouble.retry_after_s)
        turn.tell(f"{key}: {trouble.text}; the same again runs once", trouble.code, attempt.n)
        turn.wait(attempt, "pause_send", at + pause)
    else:
        following.give_up(turn, attempt, _unknown(trouble), at)


def look_up(turn: Turn, attempt: Attempt) -> None:
    """Ask for it by its id."""
    asked = turn.call(attempt, "look_up")
    turn.do(LookUp(asked.n, asked.call))


def _set_aside(turn: Turn, attempt: Attempt, event: NotAccepted) -> None:
    """Give its money back and let another try, until it may be asked again."""
    asked = event.trouble.retry_after_s
    pause = rules.pause_s(turn.job.rules, attempt.sends, event.jitter, asked)
    turn.settle(attempt, Stage.REFUSED, 0, event.trouble)
    until = event.at + pause
    turn.put(attempt, stage=Stage.SKIPPED, awaits="", trouble=event.trouble, until=until)
    go_on(turn, event.at)


def _unknown(trouble: Trouble) -> Trouble:
    hint = "Look at the vendor's own list of jobs before you send it again."
    return replace(trouble, code=Code.UNKNOWN_OUTCOME.value, hint=trouble.hint or hint)
