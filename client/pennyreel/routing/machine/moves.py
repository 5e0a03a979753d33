"""What is next when no call is open: another option, a question, the files, the end."""

from __future__ import annotations

from pennyreel.errors import Code
from pennyreel.money.amounts import dollars
from pennyreel.routing.machine import rules
from pennyreel.routing.machine.effects import Ask, End, Fetch, Follow, Reserve
from pennyreel.routing.machine.states import Attempt, Outcome, Stage, Trouble
from pennyreel.routing.machine.turn import Turn

_TRIED = frozenset({Stage.REFUSED, Stage.FAILED, Stage.STOPPED, Stage.UNKNOWN})
CONSENT = "consent_required"


def go_on(turn: Turn, at: float) -> None:
    """Take the next step, unless an attempt is still alive."""
    if rules.busy(turn.job):
        return
    if turn.job.winner is not None:
        fetch(turn, at)
    elif turn.job.cancel:
        end(turn, Outcome.CANCELLED)
    else:
        _try_next(turn, at)


def plan(turn: Turn, attempt: Attempt) -> None:
    """Ask for the option's money."""
    planned = turn.call(attempt, "reserve", stage=Stage.PLANNED, until=None, trouble=None)
    moved = rules.moved(turn.job, planned.n)
    turn.do(Reserve(planned.n, planned.call, turn.option(planned.n), moved))


def fetch(turn: Turn, at: float) -> None:
    """Have the winner's files saved; in another process, have its result told first."""
    won = turn.job.find(turn.job.winner if turn.job.winner is not None else -1)
    if won is None or won.awaits:
        return
    if turn.job.at_hand:
        asked = turn.call(won, "fetch")
        turn.do(Fetch(asked.n, asked.call))
    elif won.handle is not None:
        asked = turn.call(won, "follow")
        turn.do(Follow(asked.n, asked.call, won.handle, at + turn.job.rules.most_s))
    else:
        end(turn, Outcome.UNFETCHED)


def fetch_later(turn: Turn, won: Attempt, trouble: Trouble, at: float, jitter: float) -> None:
    """Try again to get what is made and paid for, or leave it; never make it again."""
    tries = turn.job.fetches + 1
    turn.change(fetches=tries)
    if not trouble.retryable or tries >= turn.job.rules.fetches or turn.job.cancel:
        turn.put(won, trouble=trouble, awaits="")
        end(turn, Outcome.UNFETCHED)
        return
    pause = rules.pause_s(turn.job.rules, tries, jitter, trouble.retry_after_s)
    turn.tell(f"the files cannot be fetched: {trouble.text}; trying again", trouble.code, won.n)
    turn.wait(won, "pause_fetch", at + pause)


def refuse(turn: Turn, at: float) -> None:
    """Go on without those options that the user was asked about and did not agree to."""
    price = Trouble(
        CONSENT,
        "it needs consent, and nobody gave it",
        "Allow it with --max-cost, or answer yes when asked.",
    )
    for n in range(len(turn.job.options)):
        known = turn.job.find(n)
        waits = known is None or (n == turn.job.asked and known.until is not None)
        if waits and not rules.agreed(turn.job, n):
            turn.put(known or Attempt(n), stage=Stage.SKIPPED, trouble=price, until=None)
    go_on(turn, at)


def end(turn: Turn, outcome: Outcome) -> None:
    """End the job, once."""
    troubles = tuple((a.n, a.trouble) for a in turn.job.attempts if a.trouble is not None)
    turn.change(outcome=outcome, asking=None)
    turn.do(End(outcome, turn.job.winner, troubles))


def _try_next(turn: Turn, at: float) -> None:
    job = turn.job
    n = rules.next_option(job)
    if rules.unforgiven(job):
        if n is None:
            end(turn, Outcome.UNKNOWN)
        else:
            _ask(turn, n, unknown=True)
    elif n is None:
        _wait_for_a_blocked_one(turn, at)
    elif not rules.agreed(job, n):
        _ask(turn, n, unknown=False)
    else:
        _tell_why(turn, n)
        plan(turn, Attempt(n))


def _ask(turn: Turn, n: int, *, unknown: bool) -> None:
    turn.change(calls=turn.job.calls + 1)
    turn.change(asking=turn.job.calls, asked=n)
    option, spent = turn.option(n), rules.counted(turn.job)
    why = "it needs your consent"
    if spent:
        why = f"what was tried before has cost {dollars(spent)}"
    if unknown:
        why = "an attempt may have run and counts as spent"
    turn.tell(
        f"{option.key} would cost up to {dollars(option.reserve_microusd)}: {why}", CONSENT, n
    )
    turn.do(Ask(turn.job.calls, n, option, unknown))


def _wait_for_a_blocked_one(turn: Turn, at: float) -> None:
    """Nothing else is left: wait for a backend that is cooling down, if that is soon."""
    most = turn.job.rules
    soon = [
        (a.until, a)
        for a in turn.job.attempts
        if a.until is not None and a.blocks < most.blocks and a.until - at <= most.most_s
    ]
    if not soon:
        end(turn, _exhausted(turn))
        return
    agreed = [pair for pair in soon if rules.agreed(turn.job, pair[1].n)]
    until, first = min(agreed or soon, key=lambda pair: pair[0])
    if not agreed:  # what failed since has used up the job's limit
        _ask(turn, first.n, unknown=False)
        return
    turn.tell(f"waiting {max(0.0, until - at):.0f} s for {turn.option(first.n).key}", n=first.n)
    turn.wait(first, "block", until, blocks=first.blocks + 1)


def _exhausted(turn: Turn) -> Outcome:
    """Tell a job that failed from one that nobody was allowed to try."""
    if any(a.stage is Stage.UNKNOWN for a in turn.job.attempts):
        return Outcome.UNKNOWN
    tried = any(a.stage in _TRIED or a.until is not None for a in turn.job.attempts)
    return Outcome.FAILED if tried or not turn.job.options else Outcome.REFUSED


def _tell_why(turn: Turn, n: int) -> None:
    """Say what is tried next and why, after something failed."""
    if not turn.job.attempts:
        return
    last = turn.job.attempts[-1]
    option = turn.option(n)
    cause = last.trouble.text if last.trouble else "it did not work"
    turn.tell(
        f"{turn.option(last.n).key}: {cause}; next: {option.key}, "
        f"at most {dollars(option.reserve_microusd)}",
        last.trouble.code if last.trouble else Code.BACKEND_UNAVAILABLE.value,
        n,
    )
