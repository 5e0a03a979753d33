"""What an answer says beside its body: when to come back, and why not now."""

from __future__ import annotations

import random
from typing import Any

import requests

from pennyreel_contract.steering import harmless_text

MAX_PAUSE_S = 30.0


def retry_after(reply: requests.Response) -> float | None:
    """Return the seconds that a 429 or 503 asks for, a day at most.

    Who waits here waits `MAX_PAUSE_S` at most; who can go elsewhere has to know how long it is.
    """
    text = reply.headers.get("Retry-After", "")
    try:
        return min(86_400.0, max(0.0, float(text)))
    except ValueError:
        return None


def backoff(attempt: int, *, base: float = 0.5) -> float:
    """Return a pause before try `attempt` (1, 2 …): full jitter, doubling, bounded."""
    return random.uniform(0, min(MAX_PAUSE_S, base * 2**attempt))  # noqa: S311 - not a secret


def answer_text(reply: requests.Response) -> str:
    """Return what an error answer says, short: JSON {"error"}, plain text, or nothing."""
    try:
        body: Any = reply.json()
    except ValueError:
        return harmless_text(reply.text[:1000].strip())[:300]
    if isinstance(body, dict):
        body = body.get("error") or body.get("message") or body
    return str(body)[:300]
