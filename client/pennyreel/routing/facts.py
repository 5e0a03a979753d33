"""What is known of each way to run a job, and what the user allows. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from pennyreel.money.amounts import USD
from pennyreel.money.estimates import Seconds
from pennyreel.money.pricing import Meter, Price
from pennyreel.need import Abilities, Need

JOB_LIMIT = USD // 20
DAY_LIMIT = 2 * USD
SLOW_S = 15 * 60.0
"""Above it a weak device needs a yes."""

USUAL_S = 300.0
"""A run's time where nothing is known of it."""

LEAST_S = 60.0
"""No server-side deadline is shorter."""


class Place(str, Enum):
    """Whose machine it runs on."""

    LOCAL = "local"
    """This one."""
    OWN = "own"
    """Another one of the user's."""
    RENTED = "rented"
    """By the second, with the user's image on it."""
    HOSTED = "hosted"
    """Somebody's API."""
    SIMULATED = "simulated"
    """None: nothing is really made."""


class Fit(str, Enum):
    """How well a device suits a workflow."""

    GOOD = "good"
    TIGHT = "tight"
    """Above its minimum, below what is comfortable."""
    BELOW = "below"
    """A GPU below its minimum."""
    CPU = "cpu"
    """No GPU, though the workflow wants one."""
    UNKNOWN = "unknown"

    @property
    def weak(self) -> bool:
        """Whether it wins only if forced, local-only, or alone."""
        return self in {Fit.BELOW, Fit.CPU}


class Policy(str, Enum):
    """What counts most."""

    CHEAPEST = "cheapest"
    FASTEST = "fastest"
    BEST = "best"
    LOCAL_ONLY = "local-only"
    ORDER = "order"
    """The user's own: `Rules.order`."""


@dataclass(frozen=True)
class Left:
    """What a budget has left."""

    scope: str
    """all, backend:runpod, project:NAME, …"""
    period: str
    microusd: int
    resets: str = ""
    fix: str = ""
    """What raises it."""


@dataclass(frozen=True)
class Facts:
    """One candidate."""

    backend: str
    abilities: Abilities
    price: Price
    meter: Meter | None = None
    """Set where a limit on its time is one on its bill."""
    target: str = ""
    place: Place = Place.HOSTED
    available: bool = True
    lacks: bool = False
    """It is well, and not available because it lacks nodes or models of this job's."""
    why: str = ""
    """Why it is available or not, in a line."""
    fix: str = ""
    """What would make it available."""
    seconds: Seconds | None = None
    """To the result, queue and cold start included."""
    fit: Fit = Fit.GOOD
    device: str = ""
    gpu: str = ""
    """By which name its seconds are learned."""
    breaker_until: float | None = None
    """Its breaker is open until then (epoch seconds)."""
    breaker_code: str = ""
    """By which failure."""
    budgets: tuple[Left, ...] = ()
    success: float | None = None
    """The share of its last attempts that were done, 0 to 1; None: there are too few."""
    checked: float | None = None
    """When its health was asked (epoch seconds)."""

    @property
    def key(self) -> str:
        """Names it in a decision."""
        return f"{self.backend}:{self.target}" if self.target else self.backend


@dataclass(frozen=True)
class Rules:
    """What the user wants and allows. Amounts in micro-dollars."""

    policy: Policy = Policy.CHEAPEST
    order: tuple[str, ...] = ()
    """Backends by name, for the policy `order`; the others do not compete."""
    max_cost: int | None = None
    """Consent: the job may cost so much, a move to a dearer backend included."""
    job_limit: int | None = JOB_LIMIT
    """What a job may cost without it; None = no limit."""
    day_limit: int | None = DAY_LIMIT
    """What a day may cost, without a budget of the user's own; None = no limit."""
    deadline_s: float | None = None
    """The result has to be there so soon."""
    kinds: frozenset[Place] | None = None
    """Only on such machines; None = all but simulated ones."""
    forbidden: frozenset[str] = frozenset()
    forced: str | None = None
    """This backend or none, by name or by `Facts.key`."""
    private: bool = False
    """Nothing may leave the user's own machines and accounts."""
    allow_unknown_price: bool = False
    allow_slow: bool = False

    @property
    def cost_limit(self) -> int | None:
        """What the job may cost."""
        return self.job_limit if self.max_cost is None else self.max_cost


@dataclass(frozen=True)
class Spent:
    """What counts already, reservations included, in micro-dollars."""

    job: int = 0
    day: int = 0


NOTHING = Spent()


@dataclass(frozen=True)
class Case:
    """All that a decision is made from."""

    need: Need
    rules: Rules
    now: float
    spent: Spent = NOTHING
    tried: frozenset[str] = field(default_factory=frozenset)
    """Keys of the candidates that this job was on."""


def names(what: str, facts: Facts) -> bool:
    """Whether a user's word for a backend means this candidate."""
    return what in {facts.backend, facts.key}


def fit_of(need: Need, *, gpu: bool | None, vram_bytes: int | None) -> Fit:
    """Return how a device suits a job.

    Args:
        need: the job's; a workflow with a minimum of 0 bytes runs on a CPU as well.
        gpu: whether there is one; None = not known.
        vram_bytes: its memory, shared memory included where the workflow may use it.

    """
    least, good = need.vram_min_bytes, need.vram_good_bytes
    if least == 0:
        return Fit.GOOD
    if gpu is False:
        return Fit.CPU
    if gpu is None or vram_bytes is None or least is None:
        return Fit.UNKNOWN
    if vram_bytes < least:
        return Fit.BELOW
    return Fit.TIGHT if good is not None and vram_bytes < good else Fit.GOOD
