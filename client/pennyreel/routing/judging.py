"""What an event says of the backend it came from, for its breaker; and what its breaker says."""

from __future__ import annotations

from pennyreel.errors import Code
from pennyreel.routing import cooling
from pennyreel.routing.breaker import Admission
from pennyreel.routing.breakers import Breakers
from pennyreel.routing.machine import (
    Event,
    Failed,
    Gone,
    Lost,
    NotAccepted,
    Option,
    Stopped,
    Succeeded,
    Trouble,
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


def blocked(option: Option, told: Admission, at: float) -> Trouble:
    """Return why an option's breaker does not let the job through."""
    left = max(0.0, told.until - at)
    text = f"{cooling.why(told.code)} and is left alone for {left:.0f} s"
    hint = cooling.advice(told.code, option.backend)
    return Trouble(Code.BACKEND_UNAVAILABLE.value, text, hint, retryable=True)
