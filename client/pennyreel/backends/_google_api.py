"""Google's HTTP APIs: one call that submits, others that read, one table of their refusals.

Source: google-genai 3.6 (paths, bodies, error types); cloud.google.com/apis/design/errors; the
details of a 429 are UNVERIFIED, so a `Retry-After` header is read as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import urlsplit

import requests

from pennyreel import _http
from pennyreel._http import Api, Key
from pennyreel.backends.base import unsent
from pennyreel.config import Secret
from pennyreel.errors import Code, PennyreelError, error
from pennyreel_comfy.waiting import Deadline

MIN_ANSWER_S = 5.0
"""A submit's answer is waited for so long at least: giving up on it makes an unknown outcome."""

ANSWER_S = 120.0


class Gone(Exception):
    """404 for a job: it expired, was deleted, or never was."""


@dataclass(frozen=True)
class Service:
    """How a person knows this API."""

    name: str
    key_hint: str
    """What to do when the key is refused."""
    model_hint: str
    """What to do when the model is not known."""
    url_setting: str
    pay_hint: str
    look_hint: str
    """Where a person can see what was billed."""


class GoogleApi:
    """One API, spoken to with one kind of key."""

    def __init__(
        self,
        base_url: str,
        key: Key,
        *,
        header: str,
        service: Service,
        held: Callable[[], Iterable[Secret]],
        renew: Callable[[], bool] = lambda: False,
    ) -> None:
        """Keep the address; nothing is sent.

        Args:
            base_url: with the API's version.
            key: what `header` carries.
            header: the header's name.
            service: for messages.
            held: secrets that no message may show: Google's own quote keys now and then.
            renew: drops an expired token; says whether another one can be had.

        """
        self._api = Api(base_url, key, header=header)
        self.base_url = self._api.base_url
        self._service = service
        self._held = held
        self._renew = renew

    def submit(self, path: str, body: Mapping[str, Any], deadline: Deadline) -> dict[str, Any]:
        """POST a job, once, and return what Google answers.

        A 401 is a refusal, so that it may follow with a fresh token.

        Raises:
            BadRequest, SetupNeeded, Unavailable, JobTimeout: it was not accepted.
            OutcomeUnknown: it may have been.

        """
        content = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        unsent(deadline)
        try:
            reply = self._call(
                "POST", path, content, max(MIN_ANSWER_S, deadline.left(ANSWER_S)), deadline
            )
        except requests.RequestException as problem:
            if _http.never_sent(problem):
                raise self._down(problem) from None
            raise self.unknown(f"no answer came ({type(problem).__name__})") from None
        # A 5xx of Google's front may hide a job that was begun: no document calls it a refusal.
        if reply.status_code >= 500 or reply.status_code == 408:
            raise self.unknown(f"{self._service.name} answered {reply.status_code}")
        if not reply.ok:
            self._refuse(reply)
        answer = _object(reply)
        if answer is None:
            raise self.unknown(f"{self._service.name}'s answer is not to be read")
        return answer

    def read(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Look at a job, or cancel it: what is safe to repeat.

        Raises:
            Gone: 404.
            requests.RequestException, Unavailable: try again; a 429's pause is in its detail.
            SetupNeeded: the key is refused.

        """
        content = None if body is None else json.dumps(body).encode()
        reply = self._call(method, path, content, _http.READ_S, clip=True)
        if reply.status_code == 404:
            raise Gone
        if reply.status_code != 200:
            self._refuse(reply)
        answer = _object(reply)
        if answer is None:
            raise error(Code.BACKEND_UNAVAILABLE, f"{self._service.name} gave an unreadable answer")
        return answer

    def check(self, path: str) -> dict[str, Any]:
        """GET what costs nothing.

        Raises:
            SetupNeeded, Unavailable, BadRequest: as it answers.

        """
        try:
            reply = self._call("GET", path, None, 5.0)
        except requests.RequestException as problem:
            raise self._down(problem) from None
        if reply.status_code != 200:
            self._refuse(reply)
        return _object(reply) or {}

    def unknown(self, why: str) -> PennyreelError:
        """Return the error for a job that may run."""
        return error(
            Code.UNKNOWN_OUTCOME,
            f"the job was sent to {self._service.name} and {why}: it may run and be billed",
            hint=f"{self._service.name} has no list of jobs to look it up in: "
            f"{self._service.look_hint}",
        )

    def close(self) -> None:
        """Close connections."""
        self._api.close()

    def _call(
        self,
        method: str,
        path: str,
        body: bytes | None,
        timeout: float,
        deadline: Deadline | None = None,
        *,
        clip: bool = False,
    ) -> requests.Response:
        """Send it once, or twice with a fresh token. `clip`: the answer may be one, in base64."""
        whole, most = (_http.CLIP_S, _http.MAX_CLIP) if clip else (None, _http.MAX_JSON)
        reply = self._api.call(method, path, body=body, timeout=timeout, whole=whole, most=most)
        if reply.status_code == 401 and self._renew():
            if deadline is not None:
                unsent(deadline)
            reply = self._api.call(method, path, body=body, timeout=timeout, whole=whole, most=most)
        return reply

    def _refuse(self, reply: requests.Response) -> NoReturn:
        """Raise what an HTTP status means. Nothing was accepted."""
        status, told = reply.status_code, _Told.read(reply)
        name, says = self._service.name, self._hide(f": {told.message}" if told.message else "")
        if told.key_refused or status in {401, 403}:
            if told.reason == "BILLING_DISABLED":
                self._unpaid(says)
            raise error(
                Code.UNAUTHORIZED,
                f"{name} refuses the key ({status}){says}",
                hint=self._service.key_hint,
            )
        if status == 402 or told.status == "FAILED_PRECONDITION":
            self._unpaid(says)
        if status == 404:
            raise error(
                Code.NOT_CONFIGURED,
                f"{name} knows no such model{says}",
                hint=self._service.model_hint,
            )
        if status == 413:
            raise error(Code.REQUEST_TOO_LARGE, f"{name} finds the request too large{says}")
        if status == 429:
            raise error(
                Code.RATE_LIMITED,
                f"{name}'s quota is used up for now{says}",
                detail={"retry_after_s": told.retry_s},
            )
        if 400 <= status < 500:
            raise error(Code.BAD_REQUEST, f"{name} refuses the request ({status}){says}")
        raise error(Code.BACKEND_UNAVAILABLE, f"{name} answers {status}{says}")

    def _unpaid(self, says: str) -> NoReturn:
        raise error(
            Code.NOT_CONFIGURED,
            f"{self._service.name} asks for payment{says}",
            hint=self._service.pay_hint,
        )

    def _hide(self, text: str) -> str:
        for secret in self._held():
            text = text.replace(secret.reveal(), "***")
        return text

    def _down(self, problem: Exception) -> PennyreelError:
        host = urlsplit(self.base_url).netloc
        return error(
            Code.BACKEND_UNAVAILABLE,
            f"{host} cannot be reached ({type(problem).__name__}); nothing was sent",
            hint=f"Check the network and {self._service.url_setting}, then try again.",
        )


@dataclass(frozen=True)
class _Told:
    """What an error answer says: google.rpc.Status, or the Interactions' own shorter form."""

    message: str
    status: str = ""
    reason: str = ""
    retry_s: float | None = None

    @classmethod
    def read(cls, reply: requests.Response) -> _Told:
        """Read it, whatever it is."""
        asked = _http.retry_after(reply)
        body = _object(reply) or {}
        told = body.get("error")
        if not isinstance(told, dict):
            return cls(_http.answer_text(reply), retry_s=asked)
        given = told.get("details")
        details = [d for d in given if isinstance(d, dict)] if isinstance(given, list) else []
        reasons = [str(d["reason"]) for d in details if "reason" in d]
        delays = [_seconds(d["retryDelay"]) for d in details if "retryDelay" in d]
        return cls(
            message=str(told.get("message") or "")[:300],
            status=str(told.get("status") or ""),
            reason=reasons[0] if reasons else "",
            retry_s=next((d for d in delays if d is not None), asked),
        )

    @property
    def key_refused(self) -> bool:
        """A wrong API key is a 400 here."""
        return self.reason.startswith("API_KEY_") or "API key not valid" in self.message


def _seconds(text: object) -> float | None:
    """Read a duration like 32s or 0.5s; a day's quota may ask for hours."""
    found = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)s", str(text), re.ASCII)
    return None if found is None else float(found[1])


def _object(reply: requests.Response) -> dict[str, Any] | None:
    try:
        body = reply.json()
    except ValueError:
        return None
    if isinstance(body, list) and len(body) == 1:  # Vertex wraps some errors so
        body = body[0]
    return body if isinstance(body, dict) else None
