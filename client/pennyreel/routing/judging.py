"""What an event says of the backend it came from, for its breaker."""

from __future__ import annotations

from pennyreel.errors import Code
from pennyreel.routing.breakers import Breakers
from pennyreel.routing.machine import (
    Event,
    Failed,
    Gone,
    Lost,
    NotAccepted,
    Stopped,
    Succeeded,
)


def judge(breakers: Breakers, key: str, token: str, event: Event, jitter: float) -> None:
    """Tell the breaker of `key`; `token` names the attempt, which may be its probe."""
    if isinstance(event, Succeeded):
        breakers.succeeded(key, token, event.at)
    elif isinstance(event, (NotAccepted, Failed, Lost, Gone)):
        told = event.trouble
        breakers.failed(key, token, told.code, event.at, jitter, told.retry_after_s)
    elif isinstance(event, Stopped) and event.trouble.code == Code.TIMEOUT.value:
        breakers.failed(key, token, Code.TIMEOUT.value, event.at, jitter, None)
    elif isinstance(event, Stopped):
        breakers.released(key, token)  # it was cancelled: nothing was learned
