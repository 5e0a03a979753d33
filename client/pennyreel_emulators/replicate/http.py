"""What both origins share: errors in Replicate's shape, what was asked, faults, rate limits."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from pennyreel_emulators.replicate.config import Fault, RateLimit


@dataclass(frozen=True)
class Recorded:
    """One request. Header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str] = field(repr=False)
    json: Any = None


class Refused(Exception):
    """An error answer: RFC 7807's members without `type`."""

    def __init__(self, status: int, title: str, detail: str, **more: Any) -> None:
        super().__init__(title)
        self.response = web.json_response(
            {"title": title, "detail": detail, "status": status, **more}, status=status
        )


def unauthenticated() -> Refused:
    """The token is not the account's."""
    return Refused(401, "Unauthenticated", "You did not pass a valid authentication token")


def no_credit() -> Refused:
    """As public repositories quote it, 2025 and 2026."""
    return Refused(
        402,
        "Insufficient credit",
        "You have insufficient credit to run this model. Go to "
        "https://replicate.com/account/billing#billing to purchase credit. Once you purchase "
        "credit, please wait a few minutes before trying again.",
    )


def bad_version() -> Refused:
    """No such version; as public repositories quote it."""
    return Refused(
        422,
        "Invalid version or not permitted",
        "The specified version does not exist (or perhaps you don't have permission to use it?)",
    )


def invalid(fields: list[dict[str, str]]) -> Refused:
    """The body or the model's input is not as it should be."""
    lines = "".join(
        f"- {f['field'] + ': ' if f['field'] else ''}{f['description']}\n" for f in fields
    )
    return Refused(422, "Input validation failed", lines, invalid_fields=fields)


def not_found() -> Refused:
    """No such thing, or another account's."""
    return Refused(404, "Not found", "The requested resource could not be found.")


class Limiter:
    """A sliding window of accepted requests."""

    def __init__(self, limit: RateLimit, clock: Callable[[], float]) -> None:
        self._limit, self._clock = limit, clock
        self._times: deque[float] = deque()

    def admit(self) -> web.Response | None:
        """Count a request, or return the 429 for it.

        The body is the documentation's. Retry-After and `retry_after` are what public
        repositories quote, and are UNVERIFIED.
        """
        now = self._clock()
        while self._times and now - self._times[0] >= self._limit.window_s:
            self._times.popleft()
        if len(self._times) < self._limit.requests:
            self._times.append(now)
            return None
        wait = max(1, round(self._times[0] + self._limit.window_s - now))
        detail = f"Request was throttled. Your rate limit resets in ~{wait}s."
        return web.json_response(
            {"detail": detail, "status": 429, "retry_after": wait},
            status=429,
            headers={"Retry-After": str(wait)},
        )


class Faults:
    """Answers in place of real ones, by operation."""

    def __init__(self) -> None:
        self._left: dict[str, list[Fault]] = {}

    def add(self, operation: str, fault: Fault) -> None:
        """Answer the operation's next requests so."""
        self._left.setdefault(operation, []).extend([fault] * fault.times)

    def take(self, operation: str) -> Fault | None:
        """The next one, if any."""
        waiting = self._left.get(operation)
        return waiting.pop(0) if waiting else None


def play(fault: Fault, request: web.Request) -> web.StreamResponse:
    """Answer as the fault says; a cut connection raises."""
    if fault.status == 0:
        cut(request)
    text = fault.body if isinstance(fault.body, str) else json.dumps(fault.body)
    return web.Response(
        status=fault.status,
        text="" if fault.body is None else text,
        content_type="text/html" if isinstance(fault.body, str) else "application/json",
        headers=fault.headers,
    )


def cut(request: web.Request) -> None:
    """End the connection without an answer."""
    if request.transport is not None:
        request.transport.abort()
    raise ConnectionResetError("cut by the script")


async def recorded(request: web.Request) -> Recorded:
    """The request, its body read where it is JSON."""
    body: Any = None
    if request.content_type == "application/json" and request.can_read_body:
        try:
            body = json.loads(await request.read())
        except ValueError:
            body = None
    headers = {name.lower(): value for name, value in request.headers.items()}
    return Recorded(request.method, request.path_qs, headers, body)
