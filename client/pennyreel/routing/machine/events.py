"""What happened. `n` names the attempt, `call` the effect that is answered, `at` the time.

`jitter` is a fresh random number from 0 to 1 for the pause that may follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pennyreel.routing.machine.states import Trouble


@dataclass(frozen=True)
class Reserved:
    """The money is held and the intent is written."""

    n: int
    call: int
    at: float


@dataclass(frozen=True)
class OverBudget:
    """The budget does not allow it; nothing is held."""

    n: int
    call: int
    trouble: Trouble
    at: float


@dataclass(frozen=True)
class Blocked:
    """Its circuit breaker is open until then; nothing is held."""

    n: int
    call: int
    until: float
    at: float
    trouble: Trouble | None = None


@dataclass(frozen=True)
class InLine:
    """Many jobs move there, and it may ask again then; nothing is held."""

    n: int
    call: int
    until: float
    at: float


@dataclass(frozen=True)
class Accepted:
    """The backend has it: the answer to a submit, or to a look-up."""

    n: int
    call: int
    handle: str
    at: float


@dataclass(frozen=True)
class NotAccepted:
    """It is certain that nothing runs: refused, surely unsent, or not found by a look-up."""

    n: int
    call: int
    trouble: Trouble
    at: float
    jitter: float = 1.0


@dataclass(frozen=True)
class Lost:
    """Nobody knows whether it was accepted: the submit, or the look-up, had no answer."""

    n: int
    call: int
    trouble: Trouble
    at: float
    jitter: float = 1.0


@dataclass(frozen=True)
class Queued:
    """It waits for a worker."""

    n: int
    at: float


@dataclass(frozen=True)
class Started:
    """A worker has it."""

    n: int
    at: float


@dataclass(frozen=True)
class Succeeded:
    """It made its result. A truth whenever it comes, even after a cancel."""

    n: int
    call: int
    at: float
    billed_microusd: int | None = None
    """None = not known: the reservation counts."""


@dataclass(frozen=True)
class Failed:
    """It ran and failed, or its result is gone."""

    n: int
    call: int
    trouble: Trouble
    at: float
    billed_microusd: int | None = None


@dataclass(frozen=True)
class Stopped:
    """A cancel was tried: by us, at the deadline, or by somebody else."""

    n: int
    call: int
    confirmed: bool
    """The backend says that it does not run any more."""
    trouble: Trouble
    at: float
    jitter: float = 1.0
    billed_microusd: int | None = None


@dataclass(frozen=True)
class Gone:
    """The backend no longer answers; the job may go on there."""

    n: int
    call: int
    trouble: Trouble
    at: float
    jitter: float = 1.0


@dataclass(frozen=True)
class Fetched:
    """Its files are here."""

    n: int
    call: int
    at: float


@dataclass(frozen=True)
class FetchFailed:
    """Its files are not here. It is done and paid for all the same."""

    n: int
    call: int
    trouble: Trouble
    at: float
    jitter: float = 1.0


@dataclass(frozen=True)
class Woke:
    """A `Wait` is over."""

    n: int
    call: int
    at: float


@dataclass(frozen=True)
class Consented:
    """The user agrees to what was asked."""

    call: int
    at: float


@dataclass(frozen=True)
class Denied:
    """The user does not, or nobody is there to ask."""

    call: int
    at: float


@dataclass(frozen=True)
class CancelAsked:
    """The user does not want the job any more."""

    at: float


Event: TypeAlias = (
    Reserved
    | OverBudget
    | Blocked
    | InLine
    | Accepted
    | NotAccepted
    | Lost
    | Queued
    | Started
    | Succeeded
    | Failed
    | Stopped
    | Gone
    | Fetched
    | FetchFailed
    | Woke
    | Consented
    | Denied
    | CancelAsked
)
