"""What was heard of a job: kept for whoever reads it, in order, and with an end."""

from __future__ import annotations

from dataclasses import replace

from pennyreel.types import JobEvent, Progressed, Queued, Started, Submitted, Warned

MAX_EVENTS = 10_000
"""Of a job; beyond them progress is kept by whole percents, and what only decorates is dropped."""


def keep(events: list[JobEvent], event: JobEvent) -> bool:
    """Append an event as it is to be told; return whether it was kept.

    Percent never falls on one backend, whatever that says, and only the newest picture is kept: a
    long job would fill the memory.
    """
    full = len(events) >= MAX_EVENTS
    if isinstance(event, Progressed):
        number, last = _last(events)
        if last is not None:
            event = replace(event, percent=max(last.percent, event.percent))
            if full and event.percent < last.percent + 1:
                return False
            if event.preview is not None and last.preview is not None:
                events[number] = replace(last, preview=None)
    elif full and isinstance(event, (Queued, Started, Warned)):
        return False
    events.append(event)
    return True


def _last(events: list[JobEvent]) -> tuple[int, Progressed | None]:
    for number in range(len(events) - 1, -1, -1):
        one = events[number]
        if isinstance(one, Submitted):  # another attempt begins at nothing
            break
        if isinstance(one, Progressed):
            return number, one
    return -1, None
