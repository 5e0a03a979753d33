"""The router's rules, each wrong by one line: histories must show every one of them.

A key says what the rule becomes; its value puts that into the machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pennyreel.routing.machine import following, moves, rules, sending, turn
from pennyreel.routing.machine.states import Stage

Mutation = Callable[[pytest.MonkeyPatch], None]

# `pennyreel.routing.machine` exports functions by the names of these modules.
_STEP: Any = sys.modules["pennyreel.routing.machine.step"]
_RESUME: Any = sys.modules["pennyreel.routing.machine.resume"]


def _rule(name: str, stand_in: Callable[..., Any]) -> Mutation:
    return lambda patch: patch.setattr(rules, name, stand_in)


def _always(*_: Any, **__: Any) -> bool:
    return True


def _never(*_: Any, **__: Any) -> bool:
    return False


def _every_option_again(job: Any) -> int | None:
    tried = {a.n for a in job.attempts}
    return next((n for n in range(len(job.options)) if n not in tried), None)


def _runs_are_left(job: Any, attempt: Any, _at: float) -> bool:
    return bool(rules.next_option(job) is not None and job.options[attempt.n].cancels)


def _free_in_the_queue(_: Any, attempt: Any, billed: int | None) -> int | None:
    return 0 if billed is None and not attempt.started and not attempt.resumed else billed


def _unrecorded(patch: pytest.MonkeyPatch) -> None:
    def send(t: Any, attempt: Any) -> None:
        sent = t.call(attempt, "submit", stage=Stage.SENDING, sends=attempt.sends + 1)
        t.do(sending.Submit(sent.n, sent.call))

    patch.setattr(sending, "send", send)


def _sent_before_written(patch: pytest.MonkeyPatch) -> None:
    def send(t: Any, attempt: Any) -> None:
        sent = t.call(attempt, "submit", stage=Stage.SENDING, sends=attempt.sends + 1)
        t.do(sending.Submit(sent.n, sent.call))
        t.do(sending.Write(sent.n, Stage.SENDING))

    patch.setattr(sending, "send", send)


def _settled(change: Callable[[Stage, int | None], int | None]) -> Mutation:
    original = turn.Turn.settle

    def settle(self: Any, attempt: Any, stage: Stage, cost: int | None, why: Any = None) -> None:
        original(self, attempt, stage, change(stage, cost), why)

    return lambda patch: patch.setattr(turn.Turn, "settle", settle)


def _made_again(patch: pytest.MonkeyPatch) -> None:
    def fetch_later(t: Any, won: Any, trouble: Any, at: float, _jitter: float) -> None:
        t.put(won, awaits="", trouble=trouble)
        t.change(winner=None)
        moves.go_on(t, at)

    patch.setattr(moves, "fetch_later", fetch_later)


def _resent_after_a_crash(patch: pytest.MonkeyPatch) -> None:
    def find_out(t: Any, attempt: Any, *_: Any) -> None:
        sending.send(t, replace(attempt, sends=0))

    patch.setattr(sending, "find_out", find_out)


def _aside(*, back: bool) -> Mutation:
    def set_aside(t: Any, attempt: Any, event: Any) -> None:
        t.settle(attempt, Stage.REFUSED, 0, event.trouble)
        until = event.at if back else None
        t.put(attempt, stage=Stage.SKIPPED, awaits="", trouble=event.trouble, until=until)
        moves.go_on(t, event.at)

    return lambda patch: patch.setattr(sending, "_set_aside", set_aside)


def _who_waits_in_line_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    def in_line(t: Any, event: Any) -> None:
        attempt = t.answered(event.n, event.call, "reserve")
        if attempt is not None:
            t.put(attempt, stage=Stage.SKIPPED, awaits="", until=event.until)
            moves.go_on(t, event.at)

    patch.setitem(_STEP._HANDLERS, step_events("InLine"), in_line)


def _turns_are_not_waited_for(patch: pytest.MonkeyPatch) -> None:
    def in_line(t: Any, event: Any) -> None:
        attempt = t.answered(event.n, event.call, "reserve")
        if attempt is not None:
            t.wait(attempt, "line", event.at)

    patch.setitem(_STEP._HANDLERS, step_events("InLine"), in_line)


def _late_success_ignored(patch: pytest.MonkeyPatch) -> None:
    original = following.succeeded

    def succeeded(t: Any, event: Any) -> None:
        if t.answered(event.n, event.call, "follow"):
            original(t, event)

    patch.setitem(_STEP._HANDLERS, step_events("Succeeded"), succeeded)


def _any_answer_counts(patch: pytest.MonkeyPatch) -> None:
    def answered(self: Any, n: int, _call: int, *awaited: str) -> Any:
        attempt = self.job.find(n)
        return attempt if attempt is not None and attempt.alive else None

    patch.setattr(turn.Turn, "answered", answered)


def _moves_while_asked_to_stop(patch: pytest.MonkeyPatch) -> None:
    def stop(t: Any, attempt: Any, at: float) -> None:
        t.settle(attempt, Stage.STOPPED, 0)
        moves.go_on(t, at)

    patch.setattr(following, "stop", stop)


def _consent_forgives_all(patch: pytest.MonkeyPatch) -> None:
    def consented(t: Any, event: Any) -> None:
        t.change(asking=None, consents=t.job.consents | {t.job.asked}, forgiven=99)
        moves.go_on(t, event.at)

    patch.setitem(_STEP._HANDLERS, step_events("Consented"), consented)


def _cancel_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_RESUME, "_rebuilt", _without_cancel(_RESUME._rebuilt))


def _without_cancel(rebuilt: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda record: rebuilt(replace(record, cancel=False))


def step_events(name: str) -> Any:
    """The event's class, as the dispatch table has it."""
    return next(kind for kind in _STEP._HANDLERS if kind.__name__ == name)


MUTATIONS: dict[str, Mutation] = {
    "another begins while one is alive": _rule("busy", _never),
    "an unknown attempt is forgotten": _rule("unforgiven", _never),
    "an unconfirmed cancel counts": _rule("ended_there", _always),
    "what was refused for good is sent again": _rule("sends_again", _always),
    "a refusal is never tried again": _rule("sends_again", _never),
    "an unanswered submit is not looked up": _rule("looks_it_up", _never),
    "a refused repeat clears what was sent before": _rule("proves_nothing", _never),
    "an unanswered submit is repeated anywhere": _rule("sends_for_its_result", _always),
    "every failure moves on": _rule("moves_on", _always),
    "no failure moves on": _rule("moves_on", _never),
    "a cancelled job goes on": _rule("unwanted", _never),
    "nobody is asked": _rule("agreed", _always),
    "a backend listed twice is tried twice": _rule("next_option", _every_option_again),
    "one cancel is enough": _rule("asks_again_to_stop", _never),
    "a running job is left like a queued one": _rule("leaves_queue", _runs_are_left),
    "a job that hangs runs on": _rule("runs_too_long", _never),
    "a stopped attempt costs nothing": _rule("owed", lambda *_: 0),
    "a worker that was woken for nothing costs nothing": _rule("owed", _free_in_the_queue),
    "Retry-After is not heard": _rule("pause_s", lambda _r, _t, jitter, _a=None: jitter),
    "what was set aside is not come back to": _aside(back=False),
    "what was set aside is asked again at once": _aside(back=True),
    "what failed does not count towards the job's limit": _rule("affordable", _always),
    "who moves is let in at once": _rule("moved", _never),
    "who waits in line is passed over": _who_waits_in_line_is_passed_over,
    "turns are not waited for": _turns_are_not_waited_for,
    "a submit is not written down": _unrecorded,
    "a submit is written down afterwards": _sent_before_written,
    "an unknown attempt costs nothing": _settled(
        lambda stage, cost: 0 if stage is Stage.UNKNOWN else cost
    ),
    "an unknown bill is nothing": _settled(lambda _stage, cost: cost or 0),
    "what cannot be fetched is made again": _made_again,
    "a crash while sending sends again": _resent_after_a_crash,
    "a late success is ignored": _late_success_ignored,
    "any answer counts, however old": _any_answer_counts,
    "a cancel is taken for done": _moves_while_asked_to_stop,
    "one consent forgives all that follow": _consent_forgives_all,
    "a cancel does not survive a crash": _cancel_forgotten,
}
