"""Replicate's HTTP API: four calls, and the one table that turns its answers into errors.

Source: replicate.com/docs (reference/http; topics/predictions; 2025-10). Bodies of errors are
{"title", "detail", "status"}, as public repositories quote them; plain text is read too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import requests

from pennyreel import _http
from pennyreel._http import Api
from pennyreel.backends.base import told_id, unsent
from pennyreel.config import Secret
from pennyreel.errors import Code, PennyreelError, error
from pennyreel_comfy.waiting import Deadline

SUBMIT_TRIES = 3
BILLING = "https://replicate.com/account/billing"
TOKENS = "https://replicate.com/account/api-tokens"
PREDICTIONS = "https://replicate.com/predictions"

MIN_ANSWER_S = 10.0
"""A submit's answer is waited for so long at least: giving up on it makes an unknown outcome."""

_RESETS = re.compile(r"resets in ~?(\d+(?:\.\d+)?) ?s")

Pause = Callable[[float], None]


class Unknown(Exception):
    """404 for a prediction: another account's, or none."""


class ReplicateApi:
    """The calls of one account."""

    def __init__(self, base_url: str, key: Secret | None, *, pause: Pause) -> None:
        """Keep the address; nothing is sent.

        SDK 1.x takes REPLICATE_BASE_URL without the path /v1, 2.x with it: both will do.
        """
        plain = base_url.rstrip("/")
        self._api = Api(plain if plain.endswith("/v1") else f"{plain}/v1", key)
        self.base_url = self._api.base_url
        self._pause = pause

    def create(
        self, path: str, body: dict[str, Any], cancel_after_s: int, deadline: Deadline
    ) -> str:
        """POST a prediction and return its id.

        Sent again only where no connection could be made. Replicate has no idempotency key, so a
        lost answer stays unknown.

        Raises:
            BadRequest, SetupNeeded, Unavailable, JobTimeout: it was not accepted.
            OutcomeUnknown: it may have been.

        """
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        for attempt in range(1, SUBMIT_TRIES + 1):
            unsent(deadline)
            try:
                reply = self._api.call(
                    "POST",
                    path,
                    body=content,
                    timeout=max(MIN_ANSWER_S, deadline.left(60.0)),
                    headers={"Cancel-After": f"{cancel_after_s}s"},
                )
            except requests.RequestException as problem:
                if not _http.never_sent(problem):
                    raise _unknown(f"no answer came ({type(problem).__name__})", body) from None
                if attempt == SUBMIT_TRIES:
                    raise self._down(problem) from None
                self._pause(deadline.left(_http.backoff(attempt)))
                continue
            return self._accepted(reply, body)
        raise AssertionError("the last try returns or raises")

    def prediction(self, identity: str) -> dict[str, Any]:
        """GET a prediction.

        Raises:
            Unknown: 404.
            requests.RequestException, Unavailable: try again; a 429's pause is in its detail.
            SetupNeeded: the token is refused.

        """
        return self._one("GET", f"/predictions/{identity}")

    def cancel(self, identity: str) -> dict[str, Any]:
        """POST its cancel; raises as `prediction`. Only a later GET says that it has stopped."""
        return self._one("POST", f"/predictions/{identity}/cancel")

    def exists(self, model: str, version: str | None, *, timeout: float = 5.0) -> None:
        """GET the model's version, or the model: free, and shows that the token is good.

        Raises:
            SetupNeeded, Unavailable: as they say.

        """
        path = f"/models/{model}" + (f"/versions/{version}" if version else "")
        try:
            reply = self._api.call("GET", path, timeout=timeout)
        except requests.RequestException as problem:
            raise self._down(problem) from None
        if reply.status_code == 404:
            raise no_version(f"{model}:{version[:12]}" if version else model)
        if reply.status_code != 200:
            refuse(reply)

    def close(self) -> None:
        """Close connections."""
        self._api.close()

    def _one(self, method: str, path: str) -> dict[str, Any]:
        reply = self._api.call(method, path, timeout=30.0, whole=_http.WHOLE_S)
        if reply.status_code == 404:
            raise Unknown
        if not reply.ok:
            refuse(reply)
        body = _object(reply)
        if body is None or not isinstance(body.get("status"), str):
            raise error(Code.BACKEND_UNAVAILABLE, "Replicate gave an unreadable answer")
        return body

    def _accepted(self, reply: requests.Response, body: dict[str, Any]) -> str:
        if reply.status_code >= 500:
            raise _unknown(f"Replicate answered {reply.status_code}", body)
        if not reply.ok:
            refuse(reply)
        identity = told_id((_object(reply) or {}).get("id"))
        if identity is None:
            raise _unknown("Replicate's answer names no prediction", body)
        return identity

    def _down(self, problem: Exception) -> PennyreelError:
        return error(
            Code.BACKEND_UNAVAILABLE,
            f"{self.base_url} cannot be reached ({type(problem).__name__}); nothing was sent",
            hint="Check the network and REPLICATE_BASE_URL, then try again.",
        )


def refuse(reply: requests.Response) -> NoReturn:
    """Raise what an HTTP status means. Nothing was accepted."""
    status, says = reply.status_code, _says(reply)
    told = f": {says}" if says else ""
    if status in {401, 403}:
        raise error(
            Code.UNAUTHORIZED,
            f"Replicate refuses the API token ({status})",
            hint=f"Set REPLICATE_API_TOKEN to a token of {TOKENS}",
        )
    if status == 402:
        raise error(
            Code.NOT_CONFIGURED,
            "the Replicate account has no credit; nothing was run",
            hint=f"Add credit at {BILLING} and wait a few minutes, or use another backend.",
        )
    if status == 429:
        raise error(
            Code.RATE_LIMITED,
            f"Replicate's rate limit is reached{told}",
            hint="Wait, or add a payment method: accounts without one make 6 predictions a minute.",
            detail={"retry_after_s": _wait(reply, says)},
        )
    if status == 404 or (status == 422 and "version" in says.lower() and "exist" in says.lower()):
        raise no_version("this model's version")
    if 400 <= status < 500:
        raise error(Code.BAD_REQUEST, f"Replicate refuses the request ({status}){told}")
    raise error(Code.BACKEND_UNAVAILABLE, f"Replicate answers {status}{told}")


def no_version(name: str) -> PennyreelError:
    """Return the error for a model or version that is not there (any more)."""
    return error(
        Code.NOT_CONFIGURED,
        f"Replicate does not have {name}, or not for this token",
        hint="Set PENNYREEL_REPLICATE_MODEL and PENNYREEL_REPLICATE_VERSION to those that the "
        "model's page shows under Versions.",
    )


def _unknown(why: str, body: dict[str, Any]) -> PennyreelError:
    seed = body["input"].get("seed")
    return error(
        Code.UNKNOWN_OUTCOME,
        f"the job was sent to Replicate and {why}: it may run and be billed",
        hint=f"Look for one with seed {seed} in {PREDICTIONS} before you run it again.",
        detail={"seed": seed},
    )


def _says(reply: requests.Response) -> str:
    body = _object(reply)
    if body is None:
        return _http.answer_text(reply)
    return str(body.get("detail") or body.get("title") or "").strip()[:300]


def _wait(reply: requests.Response, says: str) -> float | None:
    """Seconds that a 429 asks for: its header (not documented), else its words (documented)."""
    asked = _http.retry_after(reply)
    found = _RESETS.search(says)
    return min(86_400.0, float(found[1])) if asked is None and found else asked


def _object(reply: requests.Response) -> dict[str, Any] | None:
    try:
        body = reply.json()
    except ValueError:
        return None
    return body if isinstance(body, dict) else None
