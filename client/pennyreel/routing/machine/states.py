"""What is known of a job and of each of its attempts. Plain data; times are epoch seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum


@dataclass(frozen=True)
class Option:
    """One backend that may run the job. The policy gives them in the order to try them in."""

    backend: str
    target: str = ""
    reserve_microusd: int = 0
    """The worst case: held before anything is sent, and counted where nobody tells the bill."""
    start_microusd: int = 0
    """What is billed for a job that waited for a worker and was stopped: its start and idling."""
    expect_s: float = 60.0
    """From its start to the result."""
    deadline_s: float = 180.0
    """Of running, after which it is stopped, by the server too: about three times `expect_s`."""
    queue_s: float = 120.0
    """How long it may wait for a worker before the next option is better."""
    retry_s: float = 60.0
    """How long it may ask to be left alone (Retry-After) before the next option is better."""
    patience_s: float = 3600.0
    """How long it may wait where there is no other."""
    cancels: bool = False
    """A cancel is confirmed, and ends the bill. Without it what is accepted is spent."""
    looks_up: bool = False
    """An attempt whose submit had no answer can be found by its id."""
    replays: bool = False
    """The same attempt sent again is not run, nor billed, again."""
    consented: bool = True
    """It may be tried without asking: within the limits that the user set."""
    stands_in: bool = False
    """One that costs no more could do it and is down: the jobs of others come here, too."""
    engine: str = ""
    """What runs the job there: a failure that is the job's own repeats on the same engine."""

    @property
    def key(self) -> str:
        """Name it: each is tried at most once in a job."""
        return f"{self.backend}:{self.target}" if self.target else self.backend


@dataclass(frozen=True)
class Rules:
    """How often and how long. The defaults suit jobs of minutes."""

    sends: int = 3
    """Times that one attempt is sent, all but the last of them surely not accepted."""
    looks: int = 6
    """Look-ups of a submit without an answer, and of a job whose backend fell silent."""
    stops: int = 5
    """Cancels until one counts as unconfirmed for good."""
    fetches: int = 4
    blocks: int = 2
    """Waits for a backend that is cooling down, when nothing else is left."""
    base_s: float = 2.0
    """The first pause is between 0 and this, each further one up to twice as long."""
    most_s: float = 60.0
    """The longest pause; a backend that asks for a longer one is left."""


class Stage(str, Enum):
    """How far an attempt is. The books store RESERVED and all that follow, but SKIPPED."""

    PLANNED = "planned"
    """Its money is being asked for."""
    RESERVED = "reserved"
    """Its money is held; it is certain that no backend has it."""
    SENDING = "sending"
    """The call may have left. No backend has confirmed it."""
    ACCEPTED = "accepted"
    STOPPING = "stopping"
    """A cancel was asked for; nobody confirmed it."""
    SKIPPED = "skipped"
    """No money for it, or it is cooling down: nothing runs, or is held."""
    REFUSED = "refused"
    """The backend did not accept it."""
    FAILED = "failed"
    STOPPED = "stopped"
    """The backend confirmed that it does not run any more."""
    DONE = "done"
    UNKNOWN = "unknown"
    """It may have run, or run still. It counts as spent."""


ALIVE = frozenset({Stage.PLANNED, Stage.RESERVED, Stage.SENDING, Stage.ACCEPTED, Stage.STOPPING})


class Outcome(str, Enum):
    """How a job ended."""

    DONE = "done"
    UNFETCHED = "unfetched"
    """It was made and paid for, and its files are not here: fetch again, never run again."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"
    """An attempt's end is unknown, and nobody consented to pay for another."""
    REFUSED = "refused"
    """Nothing was sent: no money or no consent for any option."""


@dataclass(frozen=True)
class Trouble:
    """What went wrong, as an error says it: the code, a sentence, what the user can do."""

    code: str
    text: str = ""
    hint: str = ""
    retryable: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Attempt:
    """One option's one chance. `n` is the option's place in the job's list."""

    n: int
    stage: Stage = Stage.PLANNED
    awaits: str = ""
    """The call that has no answer yet: reserve, submit, look_up, follow, fetch, or a pause."""
    call: int = 0
    """Its number: an answer to an older call is ignored."""
    handle: str | None = None
    accepted_at: float | None = None
    started: bool = False
    """A worker was seen to have it."""
    started_at: float | None = None
    queued: bool = False
    """It was seen to wait for one, since it is followed."""
    resumed: bool = False
    """Another process submitted it: nobody here saw all that happened to it."""
    unsure: bool = False
    """A submit had no answer: the refusal of its repeat proves nothing about it."""
    sends: int = 0
    looks: int = 0
    stops: int = 0
    blocks: int = 0
    until: float | None = None
    """SKIPPED: when it may be tried."""
    trouble: Trouble | None = None
    cost: int = 0
    """What it counts as, once it has ended."""

    @property
    def alive(self) -> bool:
        """Whether it may still cost something that nobody has told."""
        return self.stage in ALIVE


@dataclass(frozen=True)
class Job:
    """One job and all that was tried for it."""

    job_id: str
    options: tuple[Option, ...]
    rules: Rules = Rules()
    limit: int | None = None
    """What all its attempts may cost together, but for those that the user agreed to."""
    attempts: tuple[Attempt, ...] = ()
    """In the order of trying."""
    calls: int = 0
    """Numbers given to calls."""
    asking: int | None = None
    """The number of the question that the user has not answered."""
    asked: int | None = None
    """The option that it is about."""
    consents: frozenset[int] = frozenset()
    """Options that the user agreed to."""
    forgiven: int = 0
    """Unknown attempts after which the user agreed to pay for another."""
    cancel: bool = False
    winner: int | None = None
    """The attempt whose result counts."""
    at_hand: bool = False
    """This process has been told that result; else it is asked for again."""
    fetches: int = 0
    outcome: Outcome | None = None

    def find(self, n: int) -> Attempt | None:
        """Return the attempt of an option, if it was tried."""
        return next((a for a in self.attempts if a.n == n), None)

    def alive(self) -> Iterator[Attempt]:
        """Yield the attempts that may still cost something."""
        return (a for a in self.attempts if a.alive)

    def put(self, attempt: Attempt) -> Job:
        """Return the job with this attempt in place of its former state."""
        if self.find(attempt.n) is None:
            return replace(self, attempts=(*self.attempts, attempt))
        kept = tuple(attempt if a.n == attempt.n else a for a in self.attempts)
        return replace(self, attempts=kept)


@dataclass(frozen=True)
class AttemptRecord:
    """What the books keep of an attempt."""

    n: int
    stage: Stage
    handle: str | None = None
    accepted_at: float | None = None
    trouble: Trouble | None = None
    cost: int = 0


@dataclass(frozen=True)
class JobRecord:
    """What the books keep of a job: enough to go on after a crash. Attempts in their order."""

    job_id: str
    options: tuple[Option, ...]
    attempts: tuple[AttemptRecord, ...] = ()
    cancel: bool = False
    outcome: Outcome | None = None
    rules: Rules = Rules()
    limit: int | None = None
