"""Hugging Face's Hub and its router: free questions, the one billable POST, and looks at jobs.

Sources: huggingface_hub 2.4.0 (`inference/_providers`); the inference-providers pages of
huggingface/hub-docs, August 2026. The bodies of errors are the providers' own: {"error"},
{"detail"}, {"message"}, plain text and nothing are all read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import quote

import requests

from pennyreel import _http
from pennyreel._http import Api
from pennyreel.backends import _hf_offers
from pennyreel.backends._hf_offers import Offer
from pennyreel.backends.base import unsent
from pennyreel.config import Secret
from pennyreel.errors import Code, PennyreelError, Unavailable, error
from pennyreel_comfy.waiting import Deadline

ANSWER_S = 180.0
"""Providers that answer with the result are waited for so long."""

MIN_ANSWER_S = 5.0
"""A submit's answer is waited for so long at least: giving up on it makes an unknown outcome."""

FREE_S = 5.0
_BILLING = "https://huggingface.co/settings/billing"
_TOKENS = "https://huggingface.co/settings/tokens"


class JobGone(Exception):
    """404 for a job: it expired, was removed, or cannot be looked at through the router."""


class NotAllowed(Exception):
    """The router or the provider does not take this call: 405, 501."""


class Hub:
    """What costs nothing."""

    def __init__(self, base_url: str, token: Secret) -> None:
        """Keep the address; nothing is sent."""
        self._api = Api(base_url, token)
        self.base_url = self._api.base_url

    def whoami(self) -> dict[str, Any]:
        """Return the token's account."""
        body = self._get("/api/whoami-v2", "the account")
        return body if isinstance(body, dict) else {}

    def offers(self, model: str, timeout: float = FREE_S) -> tuple[Offer, ...]:
        """Return who serves a model, in the user's order."""
        path = f"/api/models/{quote(model)}?expand=inferenceProviderMapping"
        return _hf_offers.read(model, self._get(path, model, timeout))

    def close(self) -> None:
        """Close connections."""
        self._api.close()

    def _get(self, path: str, what: str, timeout: float = FREE_S) -> object:
        try:
            reply = self._api.call("GET", path, timeout=max(0.05, timeout))
        except requests.RequestException as problem:
            raise _down(self.base_url, problem, "HF_ENDPOINT") from None
        except Unavailable:  # a redirect, to which the token does not go
            raise error(
                Code.NOT_CONFIGURED,
                f"{what} has another name at Hugging Face now, or {self.base_url} another address",
                hint="Look the model up at huggingface.co and set its new name: "
                "PENNYREEL_HF_VIDEO_MODEL or PENNYREEL_HF_IMAGE_MODEL.",
            ) from None
        if reply.status_code == 404:
            raise error(
                Code.NOT_CONFIGURED,
                f"Hugging Face has no model {what}, or the token may not see it",
                hint="Correct PENNYREEL_HF_VIDEO_MODEL or PENNYREEL_HF_IMAGE_MODEL.",
            )
        if reply.status_code != 200:
            refuse(reply, "the Hub")
        return json_of(reply)


class Router:
    """The providers, behind /{provider}/…"""

    def __init__(self, base_url: str, token: Secret, bill_to: str | None) -> None:
        """Keep the address; nothing is sent."""
        self._api = Api(base_url, token)
        self.base_url = self._api.base_url
        self._headers = {"X-HF-Bill-To": bill_to} if bill_to else {}

    def submit(
        self,
        provider: str,
        path: str,
        body: bytes,
        headers: Mapping[str, str],
        deadline: Deadline,
    ) -> requests.Response:
        """POST once. It is sent a second time only where the connection could not be made.

        Raises:
            BadRequest, SetupNeeded, Unavailable, JobTimeout: it was not accepted.
            OutcomeUnknown: it may have been.

        """
        for last in (False, True):
            unsent(deadline)
            try:
                reply = self._api.call(
                    "POST",
                    f"/{provider}{path}",
                    body=body,
                    timeout=max(MIN_ANSWER_S, deadline.left(ANSWER_S)),
                    most=_http.MAX_CLIP,
                    headers={**self._headers, **headers},
                )
            except requests.RequestException as problem:
                if not _http.never_sent(problem):
                    raise unknown(provider, f"no answer came ({type(problem).__name__})") from None
                if last:
                    raise _down(self.base_url, problem, "PENNYREEL_HF_ROUTER_URL") from None
                continue
            if reply.ok:
                return reply
            _refuse_job(reply, provider)
        raise AssertionError("the last try returns or raises")

    def look(
        self, provider: str, path: str, method: str = "GET", *, refusal_ok: bool = False
    ) -> requests.Response:
        """Ask about a job. `refusal_ok`: a 400 or 422 is an answer too (of a job that failed).

        Raises:
            JobGone, NotAllowed: 404 and 410; 405 and 501.
            requests.RequestException, PennyreelError: no answer about the job.

        """
        reply = self._api.call(
            method,
            f"/{provider}{path}",
            timeout=30.0,
            whole=_http.CLIP_S,
            most=_http.MAX_CLIP,
            headers=self._headers,
        )
        if reply.status_code in {404, 410}:
            raise JobGone
        if reply.status_code in {405, 501}:
            raise NotAllowed
        if reply.status_code >= 400 and not (refusal_ok and reply.status_code in {400, 422}):
            refuse(reply, provider)
        return reply

    def close(self) -> None:
        """Close connections."""
        self._api.close()


def json_of(reply: requests.Response) -> Any:
    """Return an answer's JSON, or None."""
    try:
        return reply.json()
    except ValueError:
        return None


def says(reply: requests.Response) -> str:
    """Return what an error answer says, with a colon before it; fal calls it `detail`."""
    body = json_of(reply)
    detail = body.get("detail") if isinstance(body, dict) else None
    if isinstance(detail, list):
        detail = "; ".join(str(d.get("msg")) for d in detail if isinstance(d, dict))
    text = str(detail)[:300] if detail else _http.answer_text(reply)
    return f": {text}" if text else ""


def refuse(reply: requests.Response, who: str) -> NoReturn:
    """Raise what an HTTP status of 400 or more means where nothing was accepted."""
    status, told = reply.status_code, says(reply)
    if status in {401, 403}:
        raise error(
            Code.UNAUTHORIZED,
            f"Hugging Face refuses the token for {who} ({status}){told}",
            hint=f"Make a token at {_TOKENS} that may make calls to Inference Providers, and set "
            "HF_TOKEN.",
        )
    if status == 402:
        raise error(
            Code.NOT_CONFIGURED,
            f"the Hugging Face account has no credit left{told}",
            hint=f"Buy credits at {_BILLING}, set PENNYREEL_HF_BILL_TO, or use another backend.",
        )
    if status == 413:
        raise error(Code.REQUEST_TOO_LARGE, f"{who} finds the request too large{told}")
    if status == 429:
        raise error(
            Code.RATE_LIMITED,
            f"{who} has had too many requests{told}",
            detail={"retry_after_s": _http.retry_after(reply)},
        )
    if 400 <= status < 500 and status != 408:
        raise error(Code.BAD_REQUEST, f"{who} refuses the request ({status}){told}")
    raise error(Code.BACKEND_UNAVAILABLE, f"{who} answers {status}{told}")


def unknown(provider: str, why: str) -> PennyreelError:
    """Return the error of a job that may run."""
    return error(
        Code.UNKNOWN_OUTCOME,
        f"the job was sent to {provider} through Hugging Face and {why}: it may run and be billed",
        hint=f"Look at the usage on {_BILLING} before you run it again.",
    )


def _refuse_job(reply: requests.Response, provider: str) -> NoReturn:
    """Raise what the answer to a submit means. Only 4xx, and "loading", say that none runs."""
    body = json_of(reply)
    if reply.status_code == 404:
        raise error(
            Code.NOT_CONFIGURED,
            f"{provider} does not serve the model any more{says(reply)}",
            hint="Run it again: who serves it is asked anew. Or set PENNYREEL_HF_PROVIDER.",
            detail={"status": 404},
        )
    if reply.status_code == 503 and isinstance(body, dict) and "estimated_time" in body:
        wait = body["estimated_time"]  # Infinity is JSON to Python, and no time to wait
        sound = isinstance(wait, (int, float)) and 0 <= wait <= 86_400
        raise error(
            Code.BACKEND_UNAVAILABLE,
            f"{provider} is loading the model",
            hint="Try again in a minute, or use another backend.",
            detail={"retry_after_s": wait if sound else None},
        )
    # 408 is a server's "I waited for you" or a gateway's "it took too long": not a refusal.
    if reply.status_code >= 500 or reply.status_code == 408 or reply.status_code < 400:
        raise unknown(provider, f"the answer was {reply.status_code}{says(reply)}")
    refuse(reply, provider)


def _down(base_url: str, problem: Exception, setting: str) -> PennyreelError:
    return error(
        Code.BACKEND_UNAVAILABLE,
        f"{_http.shown(base_url)} cannot be reached ({type(problem).__name__}); nothing was sent",
        hint=f"Check the network and {setting}, then try again.",
    )
