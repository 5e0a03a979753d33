"""What each exit code means: one table, shown by `pennyreel --help`."""

from __future__ import annotations

from typing import NamedTuple

OK, INTERNAL, BAD_REQUEST, FAILED, SETUP, UNAVAILABLE, TIMEOUT, UNKNOWN = range(8)
CANCELLED = 130


class Exit(NamedTuple):
    """One exit code."""

    code: int
    meaning: str


EXITS = (
    Exit(OK, "done"),
    Exit(INTERNAL, "a bug in pennyreel"),
    Exit(BAD_REQUEST, "usage, or a request to mend"),
    Exit(FAILED, "the job ran and failed"),
    Exit(SETUP, "something has to be set up first"),
    Exit(UNAVAILABLE, "nothing was accepted: try later or elsewhere"),
    Exit(TIMEOUT, "the deadline passed; the job was cancelled"),
    Exit(UNKNOWN, "sent, outcome unknown: look it up first"),
    Exit(CANCELLED, "cancelled, or Ctrl-C"),
)


def exit_code(problem: BaseException) -> int:
    """Return the exit code of an exception."""
    from pennyreel import errors

    if isinstance(problem, errors.PennyreelError) and problem.code == errors.Code.INTERNAL.value:
        return INTERNAL
    table: tuple[tuple[type[BaseException], int], ...] = (
        (KeyboardInterrupt, CANCELLED),
        (errors.JobCancelled, CANCELLED),
        (errors.BadRequest, BAD_REQUEST),
        (errors.SetupNeeded, SETUP),
        (errors.Unavailable, UNAVAILABLE),
        (errors.JobTimeout, TIMEOUT),
        (errors.OutcomeUnknown, UNKNOWN),
        (errors.JobFailed, FAILED),
    )
    return next((code for kind, code in table if isinstance(problem, kind)), INTERNAL)
