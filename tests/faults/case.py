"""One fault: what is really done to what, what has to come of it, and how that is checked."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from faults.site import Site

AFTER_S = 60.0
"""How long the job afterwards may take; a worker that was replaced starts within it."""


@dataclass(frozen=True)
class Case:
    """A row of the matrix.

    Attributes:
        name: a sentence's beginning; unique.
        process: the process, connection or disk that is really hurt.
        fault: what is done to it, and when.
        expect: how the job ends.
        deadline_s: within which it does.
        handling: the function that the case fails without; a key of `handlings.HANDLINGS`.
        story: does it, and asserts the end.

    """

    name: str
    process: str
    fault: str
    expect: str
    deadline_s: float
    handling: str
    story: Callable[[Site], None]
    fresh: bool = False
    """Whether the handling is only looked at by a worker that starts."""
    long: bool = False
    """Whether the fault itself lasts so long that it is played among the long tests only."""


def prove(case: Case, at: Site) -> float:
    """Play one case; returns the seconds that it took.

    Raises:
        AssertionError: it ended otherwise than it has to, or too late, or left something behind.

    """
    at.begin(case.deadline_s)
    began = time.monotonic()
    try:
        case.story(at)
    finally:
        at.mend()
    took = time.monotonic() - began
    assert took <= case.deadline_s, f"it took {took:.1f} s of {case.deadline_s:g}"
    at.begin(AFTER_S, keep=True)
    at.good()
    at.check()
    return took
