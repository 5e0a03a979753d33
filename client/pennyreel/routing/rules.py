"""The user's words into rules: what the command line, the config file and callers say."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Iterable
from decimal import Decimal
from typing import TypeAlias

from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.amounts import microusd
from pennyreel.routing.facts import Place, Policy, Rules

Amount: TypeAlias = str | int | float | Decimal
"""Dollars, as people write them; the word `none` = no limit, where one is the default."""


def read_rules(
    policy: str | None = None,
    *,
    max_cost: Amount | None = None,
    job_limit: Amount | None = None,
    day_limit: Amount | None = None,
    deadline_s: float | None = None,
    on: Iterable[str] = (),
    forbid: Iterable[str] = (),
    backend: str | None = None,
    private: bool = False,
    allow_unknown_price: bool = False,
    allow_slow: bool = False,
    known: Collection[str] = (),
) -> Rules:
    """Return the rules that these words mean. None or () = the default.

    Args:
        policy: cheapest, fastest, best, local-only, or backends in order: `comfyui,runpod`.
        max_cost: of this job, in dollars.
        job_limit: of a job without `max_cost`, in dollars, or `none`.
        day_limit: of a day, in dollars, or `none`.
        deadline_s: seconds until the result has to be there.
        on: kinds of machine: local, own, rented, hosted.
        forbid: backends.
        backend: this one or none.
        private: nothing may leave the user's own machines and accounts.
        allow_unknown_price: a yes to a price that nobody knows.
        allow_slow: a yes to a weak device above 15 minutes.
        known: the backends' names, to tell a misspelt one; () = any.

    Raises:
        BadRequest: a word is none of those, or an amount is none.

    """
    usual = Rules()
    chosen, order = _policy(policy, known)
    forbidden = frozenset(_name(name, known) for name in forbid)
    if deadline_s is not None and not (math.isfinite(deadline_s) and deadline_s > 0):
        raise _wrong("the deadline", f"{deadline_s:g}", "Write seconds, above 0.")
    return Rules(
        policy=chosen,
        order=order,
        max_cost=None if max_cost is None else microusd(max_cost, "max cost"),
        job_limit=_limit(job_limit, usual.job_limit, "the job limit"),
        day_limit=_limit(day_limit, usual.day_limit, "the day limit"),
        deadline_s=deadline_s,
        kinds=frozenset(_place(word) for word in on) or None,
        forbidden=forbidden,
        forced=None if backend is None else _name(backend, known),
        private=private,
        allow_unknown_price=allow_unknown_price,
        allow_slow=allow_slow,
    )


def _policy(text: str | None, known: Collection[str]) -> tuple[Policy, tuple[str, ...]]:
    words = [p.value for p in Policy if p is not Policy.ORDER]
    if text is None:
        return Policy.CHEAPEST, ()
    if text.strip() in words:
        return Policy(text.strip()), ()
    order = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not order or (len(order) == 1 and known and order[0].partition(":")[0] not in known):
        raise _wrong("the policy", text, _near(text, [*words, *known]))
    return Policy.ORDER, tuple(_name(name, known) for name in order)


def _name(text: str, known: Collection[str]) -> str:
    if known and text.partition(":")[0] not in known:
        raise _wrong("the backend", text, _near(text, known))
    return text


def _place(text: str) -> Place:
    try:
        return Place(text)
    except ValueError:
        raise _wrong("the kind", text, _near(text, [p.value for p in Place])) from None


def _limit(given: Amount | None, usual: int | None, place: str) -> int | None:
    if given is None:
        return usual
    if isinstance(given, str) and given.strip().lower() == "none":
        return None
    return microusd(given, place)


def _near(text: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(text, known, 1)
    return f"Did you mean {near[0]}?" if near else f"There are: {', '.join(sorted(known))}"


def _wrong(what: str, text: str, hint: str) -> PennyreelError:
    return error(Code.BAD_REQUEST, f"{what} {text[:60]!r} is not one that there is", hint=hint)
