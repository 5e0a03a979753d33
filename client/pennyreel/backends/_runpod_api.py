"""RunPod's serverless job API: five calls, and the one table that turns its answers into errors.

Source: docs.runpod.io, serverless/endpoints (July 2026). Bodies of error answers are not
documented: JSON {"error"}, plain text and nothing are all read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn
from urllib.parse import quote

import requests

from pennyreel import _http
from pennyreel._http import Api
from pennyreel.backends.base import told_id, unsent
from pennyreel.config import Secret
from pennyreel.errors import Code, PennyreelError, error
from pennyreel_comfy.waiting import Deadline

SUBMIT_TRIES = 5
MAX_REQUEST_BYTES = 10_000_000
"""Of POST /run. The documentation says 10 MB; this is the smaller reading of MB."""

_CONSOLE = "https://console.runpod.io/serverless"

MIN_ANSWER_S = 5.0
"""A submit's answer is waited for so long at least: giving up on it makes an unknown outcome."""

Pause = Callable[[float], None]


class JobGone(Exception):
    """404 for a job: it expired, was purged, or never was."""


class RunPodApi:
    """The calls of one endpoint."""

    def __init__(self, base_url: str, endpoint: str, key: Secret | None, *, pause: Pause) -> None:
        """Keep the address; nothing is sent."""
        self._api = Api(base_url, key)
        self.base_url = self._api.base_url
        self.endpoint = endpoint
        self._pause = pause

    def run(self, body: bytes, deadline: Deadline) -> str:
        """POST /run and return the job's id.

        It is sent again only where it is certain that it was not accepted: the connection could
        not be made, or the answer is 429.

        Raises:
            BadRequest, SetupNeeded, Unavailable, JobTimeout: it was not accepted.
            OutcomeUnknown: it may have been.

        """
        for attempt in range(1, SUBMIT_TRIES + 1):
            last = attempt == SUBMIT_TRIES
            unsent(deadline)
            try:
                reply = self._api.call(
                    "POST",
                    f"/{self.endpoint}/run",
                    body=body,
                    timeout=max(MIN_ANSWER_S, deadline.left(120.0)),
                )
            except requests.RequestException as problem:
                if not _http.never_sent(problem):
                    raise self._unknown(f"no answer came ({type(problem).__name__})") from None
                if last:
                    raise self._down(problem) from None
                self._pause(deadline.left(_http.backoff(attempt)))
                continue
            asked = _http.retry_after(reply)
            long = asked is not None and asked > _http.MAX_PAUSE_S
            if reply.status_code != 429 or last or long:
                return self._accepted(reply)
            pause = _http.backoff(attempt) if asked is None else asked + _http.backoff(0)
            self._pause(deadline.left(pause))
        raise AssertionError("the last try returns or raises")

    def status(self, job_id: str) -> dict[str, Any]:
        """GET /status/ID.

        Raises:
            JobGone: 404.
            requests.RequestException, Unavailable: try again; a 429's pause is in its detail.
            SetupNeeded: the key is refused.

        """
        return self._job("GET", "status", job_id)

    def cancel(self, job_id: str) -> dict[str, Any]:
        """POST /cancel/ID; raises as `status`."""
        return self._job("POST", "cancel", job_id)

    def health(self, *, timeout: float = 5.0) -> dict[str, Any]:
        """GET /health: jobs and workers by state."""
        try:
            reply = self._api.call("GET", f"/{self.endpoint}/health", timeout=timeout)
        except requests.RequestException as problem:
            raise self._down(problem) from None
        if reply.status_code != 200:
            self._refuse(reply)
        return _object(reply) or {}

    def close(self) -> None:
        """Close connections."""
        self._api.close()

    def _job(self, method: str, call: str, job_id: str) -> dict[str, Any]:
        reply = self._api.call(
            method,
            f"/{self.endpoint}/{call}/{quote(job_id, safe='')}",
            timeout=30.0,
            whole=_http.WHOLE_S,
        )
        if reply.status_code == 404:
            raise JobGone
        if reply.status_code != 200:
            self._refuse(reply)
        body = _object(reply)
        if body is None:
            raise error(Code.BACKEND_UNAVAILABLE, f"RunPod's /{call} gave an unreadable answer")
        return body

    def _accepted(self, reply: requests.Response) -> str:
        if reply.status_code >= 500:
            raise self._unknown(f"RunPod answered {reply.status_code}")
        if not reply.ok:
            self._refuse(reply)
        job_id = told_id((_object(reply) or {}).get("id"))
        if job_id is None:
            raise self._unknown("RunPod's answer names no job")
        return job_id

    def _refuse(self, reply: requests.Response) -> NoReturn:
        """Raise what an HTTP status means. Nothing was accepted."""
        status, says = reply.status_code, _http.answer_text(reply)
        told = f": {says}" if says else ""
        if status in {401, 403}:
            raise error(
                Code.UNAUTHORIZED,
                f"RunPod refuses the API key ({status})",
                hint="Set RUNPOD_API_KEY to a key of this account that may use the endpoint.",
            )
        if status == 402:
            raise error(
                Code.NOT_CONFIGURED,
                f"RunPod asks for payment{told}",
                hint="Add credit to the RunPod account.",
            )
        if status == 404:
            raise error(
                Code.NOT_CONFIGURED,
                f"RunPod knows no endpoint {self.endpoint!r} for this key",
                hint=f"Set RUNPOD_ENDPOINT_ID to the id that {_CONSOLE} shows.",
            )
        if status == 413:
            raise error(Code.REQUEST_TOO_LARGE, f"RunPod finds the request too large{told}")
        if status == 429:
            raise error(
                Code.RATE_LIMITED,
                f"RunPod's rate limit or queue is full for endpoint {self.endpoint}{told}",
                detail={"retry_after_s": _http.retry_after(reply)},
            )
        if 400 <= status < 500:
            raise error(Code.BAD_REQUEST, f"RunPod refuses the request ({status}){told}")
        raise error(Code.BACKEND_UNAVAILABLE, f"RunPod answers {status}{told}")

    def _unknown(self, why: str) -> PennyreelError:
        return error(
            Code.UNKNOWN_OUTCOME,
            f"the job was sent to endpoint {self.endpoint} and {why}: it may run and be billed",
            hint=f"Look at the endpoint's requests in {_CONSOLE} before you run it again.",
        )

    def _down(self, problem: Exception) -> PennyreelError:
        return error(
            Code.BACKEND_UNAVAILABLE,
            f"{self.base_url} cannot be reached ({type(problem).__name__}); nothing was sent",
            hint="Check the network and RUNPOD_ENDPOINT_BASE_URL, then try again.",
        )


def _object(reply: requests.Response) -> dict[str, Any] | None:
    try:
        body = reply.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
