"""What a job may cost and where it may go, as a caller says it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from typing_extensions import TypedDict

from pennyreel.config import Settings


class Terms(TypedDict, total=False):
    """What a job may cost and where it may go. All may be left out."""

    policy: str | None
    """cheapest (the default), fastest, best, local-only, or your own order: "comfyui,runpod"."""
    backend: str | None
    """This one or none."""
    max_cost: str | float | None
    """Dollars that the job may cost at most, moves to dearer backends included."""
    day_limit: str | float | None
    """Dollars that a day may cost, or "none"; 2, unless you have set a day's budget."""
    deadline_s: float | None
    """The result has to be there so soon: slower backends do not compete."""
    places: Collection[str] | None
    """Only on machines that are local, own, rented or hosted."""
    forbid: Collection[str]
    private: bool
    """Nothing may leave your own machines and accounts."""
    allow_slow: bool
    """Weak devices may take more than 15 minutes."""
    allow_unknown_price: bool
    project: str | None
    user: str | None


USUAL = ("policy", "max_cost", "day_limit", "places", "forbid", "private", "project", "user")
"""Terms that the settings may have, for callers who say nothing of them; `backend` is one of its
own: a policy's rules know it as the default."""


def usual(settings: Settings, given: Mapping[str, Any]) -> Terms:
    """Return what the settings say of terms that a caller has not given."""
    found: Any = {
        name: getattr(settings, name)
        for name in USUAL
        if given.get(name) is None and getattr(settings, name) is not None
    }
    terms: Terms = found
    return terms
