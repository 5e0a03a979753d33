"""What is to be done, in this order. Those with a `call` are answered by an event with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from pennyreel.routing.machine.states import Option, Outcome, Stage, Trouble


@dataclass(frozen=True)
class Reserve:
    """Ask the breaker, then hold the money and write the intent in one transaction.

    Answered by Reserved, OverBudget, Blocked or InLine.
    """

    n: int
    call: int
    option: Option
    moved: bool = False
    """The job comes from elsewhere, and pays here: it waits for its turn among all that do."""


@dataclass(frozen=True)
class Write:
    """Have the books keep this before the next effect."""

    n: int
    stage: Stage
    handle: str | None = None
    at: float | None = None


@dataclass(frozen=True)
class Submit:
    """Send it, once. Answered by Accepted, NotAccepted or Lost."""

    n: int
    call: int


@dataclass(frozen=True)
class LookUp:
    """Find the attempt by its id. Answered by Accepted, NotAccepted or Lost."""

    n: int
    call: int


@dataclass(frozen=True)
class Follow:
    """Wait for its end until `deadline_at`, then stop it.

    Answered by Succeeded, Failed, Stopped or Gone; Queued and Started may come before.
    """

    n: int
    call: int
    handle: str
    deadline_at: float


@dataclass(frozen=True)
class Stop:
    """Have the following of this attempt cancel it now; its answer is that of `Follow`."""

    n: int
    call: int


@dataclass(frozen=True)
class Settle:
    """Write how it ended and what it cost; `None` = the reservation counts as spent.

    Where it was settled before, the difference is added: a late bill corrects the former one.
    """

    n: int
    stage: Stage
    microusd: int | None
    trouble: Trouble | None = None


@dataclass(frozen=True)
class Fetch:
    """Save the files of the result. Answered by Fetched or FetchFailed."""

    n: int
    call: int


@dataclass(frozen=True)
class Wait:
    """Answer with Woke, not before `until`. Others may happen in the meantime."""

    n: int
    call: int
    until: float


@dataclass(frozen=True)
class Ask:
    """Ask the user. Answered by Consented or Denied."""

    call: int
    n: int
    option: Option
    unknown: bool
    """Not about the price alone: an attempt that may have run counts as spent already."""


@dataclass(frozen=True)
class MarkCancelled:
    """Have the books keep that the user cancelled the job."""


@dataclass(frozen=True)
class Told:
    """A line for the user: what happened, and what is done next and why."""

    text: str
    code: str = ""
    n: int | None = None


@dataclass(frozen=True)
class End:
    """The job has ended; nothing follows."""

    outcome: Outcome
    winner: int | None = None
    troubles: tuple[tuple[int, Trouble], ...] = ()
    """Of each option that was tried or passed over, by its number."""


Effect: TypeAlias = (
    Reserve
    | Write
    | Submit
    | LookUp
    | Follow
    | Stop
    | Settle
    | Fetch
    | Wait
    | Ask
    | MarkCancelled
    | Told
    | End
)
