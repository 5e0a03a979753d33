"""A whole backend in one file, as another package would bring it: one small HTTP API.

POST /jobs {"prompt"} -> {"id"};  GET /jobs/ID -> {"status", "url"};  DELETE /jobs/ID -> 204.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import requests

from pennyreel import _http
from pennyreel.backends.base import OnEvent, Work, pause, unsent, untold
from pennyreel.config import Secret, Settings, is_loopback
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Need, Unit, Usage
from pennyreel.types import Handle, Health, Queued, Sink, Started
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Result

POLL_S = 0.01


class TinyBackend:
    """Images from prompts, by the piece."""

    name = "tiny"

    def __init__(self, url: str, key: Secret) -> None:
        self.target = url
        self._api = _http.Api(url, key)

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> TinyBackend:  # noqa: ARG003
        key = os.environ.get("TINY_KEY")
        if not key:
            raise error(Code.NOT_CONFIGURED, "no key for tiny is set", hint="Set TINY_KEY.")
        return cls(target or os.environ["TINY_URL"], Secret(key))

    def abilities(self) -> Abilities:
        return Abilities(kinds=frozenset({"image"}), prompts=True, formats=frozenset({"png"}))

    def usage(self, need: Need) -> Usage:
        return Usage("tiny/image", Unit.IMAGE, 1.0)

    def billed(self, need: Need, result: Result) -> Usage:
        return self.usage(need)

    def lookup(self, attempt_id: str) -> Handle | None:
        raise untold("tiny", attempt_id, "it has no lookup", "See your account's list of jobs.")

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        if work.prompt is None:
            raise error(Code.BAD_REQUEST, "tiny takes prompts, not graphs")
        unsent(deadline or Deadline(None))
        body = json.dumps({"prompt": work.prompt.text}).encode()
        try:
            reply = self._api.call("POST", "/jobs", body=body)
        except requests.RequestException as problem:
            if _http.never_sent(problem):
                raise self._down(problem) from None
            raise self._unknown(type(problem).__name__) from None
        if reply.status_code >= 500 and reply.status_code != 503:
            raise self._unknown(f"it answered {reply.status_code}")
        if reply.status_code != 201:
            raise self._refusal(reply)
        try:
            return Handle(self.name, self.target, str(reply.json()["id"]), work.attempt_id)
        except (ValueError, LookupError, TypeError):
            raise self._unknown("its answer names no job") from None

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        told, woken = "", threading.Event()
        cancel.on_cancel(woken.set)
        while True:
            if cancel.cancelled or deadline.expired:
                raise self._stopped(handle, deadline, cancel)
            seen = self._look(handle)
            if seen["status"] == "done":
                return _result(handle, seen)
            if seen["status"] == "failed":
                raise error(Code.EXECUTION_FAILED, f"tiny says: {seen.get('why')}")
            stage = "queued" if seen["status"] == "queued" else "running"
            if stage != told:
                told = stage
                on_event(Queued() if stage == "queued" else Started())
            woken.wait(deadline.left(POLL_S))

    def fetch(
        self,
        handle: Handle,
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        _http.download(
            artifact.url or "",
            sink,
            sha256=artifact.sha256,
            local=is_loopback(self.target),
            pause=lambda seconds: pause(cancel, seconds),
            deadline=deadline,
            cancel=cancel,
        )

    def cancel(self, handle: Handle) -> bool:
        """Ask; tiny does not say whether it stopped, so this is never certain."""
        with suppress(requests.RequestException, PennyreelError):
            self._api.call("DELETE", f"/jobs/{quote(handle.remote_id, safe='')}")
        return False

    def health(self) -> Health:
        try:
            reply = self._api.call("GET", "/", timeout=3.0)
        except (requests.RequestException, PennyreelError) as problem:
            return Health(self.name, False, type(problem).__name__, "Check TINY_URL.", self.target)
        up = reply.status_code == 200
        hint = "" if up else "Check TINY_KEY."
        return Health(self.name, up, f"answers {reply.status_code}", hint, self.target)

    def close(self) -> None:
        self._api.close()

    def _look(self, handle: Handle) -> dict[str, Any]:
        try:
            reply = self._api.call("GET", f"/jobs/{quote(handle.remote_id, safe='')}")
        except requests.RequestException as problem:
            raise self._down(problem) from None
        if reply.status_code == 404:
            raise error(Code.RESULT_EXPIRED, "tiny no longer knows this job")
        if reply.status_code != 200:
            raise self._refusal(reply)
        body: dict[str, Any] = reply.json()
        return body

    def _stopped(self, handle: Handle, deadline: Deadline, cancel: CancelToken) -> PennyreelError:
        detail = {"confirmed_stopped": self.cancel(handle)}
        if cancel.cancelled:
            return error(Code.CANCELLED, "the job was cancelled", detail=detail)
        return error(Code.TIMEOUT, str(deadline.error("the job")), detail=detail)

    def _refusal(self, reply: requests.Response) -> PennyreelError:
        status = reply.status_code
        code = {401: Code.UNAUTHORIZED, 402: Code.NOT_CONFIGURED, 429: Code.RATE_LIMITED}.get(
            status, Code.BAD_REQUEST if status < 500 else Code.BACKEND_UNAVAILABLE
        )
        hint = {401: "Set TINY_KEY to a key that is valid.", 402: "Add credit at tiny."}.get(status)
        detail = {"retry_after_s": _http.retry_after(reply)} if status == 429 else {}
        return error(code, f"tiny answers {status}", hint=hint, detail=detail)

    def _down(self, problem: Exception) -> PennyreelError:
        return error(Code.BACKEND_UNAVAILABLE, f"tiny cannot be reached ({type(problem).__name__})")

    def _unknown(self, why: str) -> PennyreelError:
        return error(Code.UNKNOWN_OUTCOME, f"tiny was sent the job; {why}: it may run")


def _result(handle: Handle, seen: dict[str, Any]) -> Result:
    made = Artifact(
        name="tiny.png", kind="image", mime="image/png", bytes=0, sha256=seen["sha256"],
        url=seen["url"],
    )  # fmt: skip
    return Result(attempt_id=handle.attempt_id, artifacts=(made,))
