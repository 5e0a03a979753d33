"""Google's error shapes, and what both APIs need to answer."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from pennyreel_emulators.google.config import Plan

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_TYPES = "type.googleapis.com/google.rpc"


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        name: str | None = None,
        reason: str | None = None,
        retry_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.name = name or _STATUS.get(status, "UNKNOWN")
        self.reason, self.retry_s = reason, retry_s


class Cut(Exception):
    """The connection is closed without an answer."""


def turn_away(plan: Plan) -> None:
    """Raise what a plan has for a submit that is not accepted."""
    if plan.redirect is not None:
        raise web.HTTPTemporaryRedirect(plan.redirect)
    if plan.answer == "never_came":
        raise Cut
    if plan.refuse is not None:
        raise Refused(
            plan.refuse,
            plan.message,
            name=plan.refuse_status,
            reason=plan.reason,
            retry_s=plan.retry_s,
        )


def accepted(plan: Plan, answer: dict[str, Any]) -> web.Response:
    """Return the answer to a submit that was accepted, as far as it arrives."""
    if plan.answer == "lost":
        raise Cut
    if plan.answer == "garbled":
        return web.Response(text="<html>200 OK, or so</html>", content_type="text/html")
    return web.json_response({} if plan.answer == "empty" else answer)


async def deliver(request: web.Request, content: bytes, *, cut: bool) -> web.StreamResponse:
    """Send a video, or half of it."""
    if not cut:
        return web.Response(body=content, content_type="video/mp4")
    answer = web.StreamResponse(headers={"Content-Length": str(len(content))})
    await answer.prepare(request)
    await answer.write(content[: len(content) // 2])
    raise Cut


@web.middleware
async def translate_errors(request: web.Request, handler: Any) -> web.StreamResponse:
    """The one table from our exceptions to HTTP."""
    try:
        answer: web.StreamResponse = await handler(request)
        return answer
    except Refused as refused:
        return _error(request, refused)
    except Cut:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)
    except web.HTTPNotFound:
        return web.Response(status=404, text="<title>Error 404 (Not Found)!!1</title>")


async def body_of(request: web.Request, known: frozenset[str]) -> dict[str, Any]:
    """Return the request's JSON object; a field that the API does not have is refused."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "Invalid JSON payload received. Unexpected token.")
    check_fields(body, known)
    return body


def check_fields(body: dict[str, Any], known: frozenset[str], where: str = "") -> None:
    """Refuse a field that the API does not have, in Google's words."""
    for name in body:
        if name not in known:
            at = f" at '{where}'" if where else ""
            raise Refused(
                400, f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
            )


def _error(request: web.Request, refused: Refused) -> web.Response:
    """Interactions name errors by a text (as google-genai's own types have it), the rest by HTTP.

    Whether RetryInfo comes with it, and where, is UNVERIFIED.
    """
    status = refused.name
    details: list[dict[str, Any]] = []
    if refused.reason is not None:
        details.append({"@type": f"{_TYPES}.ErrorInfo", "reason": refused.reason})
    if refused.retry_s is not None:
        details.append({"@type": f"{_TYPES}.RetryInfo", "retryDelay": f"{refused.retry_s:g}s"})
    text = "/interactions" in request.path
    error: dict[str, Any] = {
        "code": status.lower() if text else refused.status,
        "message": refused.message,
        "status": status,
    }
    if details:
        error["details"] = details
    return web.json_response({"error": error}, status=refused.status)
