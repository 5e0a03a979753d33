"""A circuit breaker for one backend and target. Pure: whoever calls it brings time and chance.

    CLOSED --enough failures in a row--> OPEN --its time is over--> HALF-OPEN --success--> CLOSED
                                          ^                             |
                                          +---------- failure ----------+

While it is open nothing is sent there, but a job of a user who names that backend: it is the probe
before the time is over. Half-open, exactly one job is sent: the probe, whose lease is named by a
token and runs out, so that a probe that died blocks nobody for ever. All times are
epoch seconds, absolute, so that the state outlives a process and is shared by all of them as JSON
in the database.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pennyreel.errors import Code


@dataclass(frozen=True)
class Limits:
    """When it opens and for how long."""

    failures: float = 3.0
    """So many in a row open it, by the weight of each."""
    base_s: float = 15.0
    """The first time it is open for between half of this and all of it."""
    most_s: float = 600.0
    lease_s: float = 900.0
    """After which a probe that told nothing is taken for dead."""
    forget_s: float = 600.0
    """Failures older than this count no more."""


@dataclass(frozen=True)
class Breaker:
    """Its state. `opened` counts how often it opened without a success in between."""

    failures: float = 0.0
    failed_at: float = 0.0
    open_until: float | None = None
    opened: int = 0
    probe: str | None = None
    probe_until: float = 0.0
    code: str = ""
    """Of the last failure."""

    @property
    def state(self) -> str:
        """closed, open or half-open; the last two may be told apart only by the time."""
        if self.open_until is None:
            return "closed"
        return "open" if self.probe is None else "half-open"


@dataclass(frozen=True)
class Admission:
    """Whether a job may go there."""

    allowed: bool
    probe: bool = False
    """It is the one that tries whether the backend is well again."""
    until: float = 0.0
    """Where it is not allowed: when to ask again."""
    code: str = ""
    """By which failure it is not."""


DEFAULT = Limits()

_WEIGHTS = {
    Code.BACKEND_UNAVAILABLE.value: 1.0,
    Code.COMFY_UNAVAILABLE.value: 1.0,
    Code.COMFY_CRASHED.value: 1.0,
    Code.COMFY_START_FAILED.value: 1.0,
    Code.RATE_LIMITED.value: 1.0,
    Code.TIMEOUT.value: 1.0,
    Code.STALLED.value: 1.0,
    Code.UNKNOWN_OUTCOME.value: 1.0,
    Code.WORKER_STOPPING.value: 0.5,
    Code.DISK_FULL.value: 1.0,
    Code.INTERNAL.value: 1.0,
    # Nothing gets better by itself before somebody sets it up.
    Code.UNAUTHORIZED.value: 3.0,
}
"""What a failure says of the backend. A code that is not here is the job's or the user's own."""


def counts(code: str) -> bool:
    """Whether an error with this code speaks against the backend."""
    return code in _WEIGHTS


def admit(
    breaker: Breaker, token: str, at: float, limits: Limits = DEFAULT, *, named: bool = False
) -> tuple[Breaker, Admission]:
    """Ask to send a job there.

    Args:
        breaker: as it stands.
        token: names who asks, should it become the probe.
        at: the time.
        limits: how long a probe may take.
        named: the user wants this backend and no other: it is tried before its time, unless it
            asked itself to be left alone.

    """
    if breaker.open_until is None:
        return breaker, Admission(True)
    if at < breaker.open_until and not (named and breaker.code != Code.RATE_LIMITED.value):
        return breaker, Admission(False, until=breaker.open_until, code=breaker.code)
    if breaker.probe not in {None, token} and at < breaker.probe_until:
        soon = min(breaker.probe_until, at + limits.base_s)
        return breaker, Admission(False, until=soon, code=breaker.code)
    leased = replace(breaker, probe=token, probe_until=at + limits.lease_s)
    return leased, Admission(True, probe=True)


def succeeded(breaker: Breaker, token: str, at: float) -> Breaker:  # noqa: ARG001 - as `failed`
    """Close it. While it is open a job that began before may still succeed: no proof of health."""
    if breaker.open_until is not None and breaker.probe != token:
        return breaker
    return Breaker()


def failed(
    breaker: Breaker,
    token: str,
    code: str,
    at: float,
    *,
    jitter: float = 1.0,
    retry_after_s: float | None = None,
    limits: Limits = DEFAULT,
) -> Breaker:
    """Count a failure; `jitter` is a fresh random number from 0 to 1."""
    if not counts(code):
        return released(breaker, token)  # the job's own fault: it says nothing of the backend
    if breaker.open_until is not None:
        if breaker.probe != token:  # a straggler: known already
            return breaker
        return _open(breaker, code, at, jitter, retry_after_s, limits)
    old = 0.0 if at - breaker.failed_at > limits.forget_s else breaker.failures
    worse = replace(breaker, failures=old + _WEIGHTS[code], failed_at=at, code=code)
    if worse.failures >= limits.failures or retry_after_s:
        return _open(worse, code, at, jitter, retry_after_s, limits)
    return worse


def released(breaker: Breaker, token: str) -> Breaker:
    """Give the probe back unused: nothing was learned."""
    return replace(breaker, probe=None, probe_until=0.0) if breaker.probe == token else breaker


def to_json(breaker: Breaker) -> dict[str, Any]:
    """Return plain data."""
    return asdict(breaker)


def from_json(body: Mapping[str, Any] | None) -> Breaker:
    """Read what `to_json` gave; what a newer version added is passed over."""
    given = body or {}
    return Breaker(**{k: given[k] for k in Breaker.__dataclass_fields__ if k in given})


def _open(
    breaker: Breaker,
    code: str,
    at: float,
    jitter: float,
    retry_after_s: float | None,
    limits: Limits,
) -> Breaker:
    """Open it: twice as long as the last time, at random within that, and never before asked."""
    longest = min(limits.most_s, limits.base_s * 2.0**breaker.opened)
    pause = max(retry_after_s or 0.0, 0.5 * longest) + jitter * 0.5 * longest
    return Breaker(
        failures=breaker.failures,
        failed_at=at,
        open_until=at + pause,
        opened=breaker.opened + 1,
        code=code,
    )
