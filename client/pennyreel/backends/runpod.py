"""A RunPod serverless endpoint that runs our worker image, or the stock one for plain graphs.

One POST submits; after that only reads, which are safe to repeat, and the cancel. Polling
decides; what the worker reports as progress decorates.
"""

from __future__ import annotations

import base64
import binascii
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import requests
from typing_extensions import Self

from pennyreel import _http, _s3
from pennyreel.backends import _runpod_follow as following
from pennyreel.backends import _runpod_money as money
from pennyreel.backends import _runpod_request as request
from pennyreel.backends import _runpod_stored as stored
from pennyreel.backends._runpod_api import MAX_REQUEST_BYTES, JobGone, Pause, RunPodApi
from pennyreel.backends._runpod_follow import FINAL, Follower, counts, summary
from pennyreel.backends.base import COMFY, OnEvent, Work, pause
from pennyreel.backends.polling import DOWN_GRACE_S
from pennyreel.config import RUNPOD_URL, S3, Secret, Settings, dev_stack, is_loopback
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Need, Unit, Usage
from pennyreel.types import Handle, Health, Sink
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Result

QUEUE_WARN_S = (20.0, 120.0, 600.0)
CONFIRM_S = 20.0
_FORGOTTEN = frozenset({Code.RESULT_EXPIRED.value, Code.JOB_GONE.value})


class RunPodBackend:
    """One endpoint."""

    name = "runpod"
    could = replace(COMFY, ends_late=True, looks_up=True, private=True)

    def __init__(
        self,
        endpoint: str,
        key: Secret | None,
        *,
        base_url: str = RUNPOD_URL,
        s3: S3 | None = None,
        gpu: str | None = None,
        pause: Pause = time.sleep,
        max_request_bytes: int = MAX_REQUEST_BYTES,
        queue_warn_s: tuple[float, ...] = QUEUE_WARN_S,
        down_grace_s: float = DOWN_GRACE_S,
    ) -> None:
        """Keep the address; nothing is sent.

        `gpu` names the price: RunPod's pool of the endpoint's GPU, such as AMPERE_24. `pause` waits
        between the tries of a submit.
        """
        self.target = endpoint
        self._api = RunPodApi(base_url, quote(endpoint, safe=""), key, pause=pause)
        self._s3 = s3
        self._sku = f"runpod/{gpu or endpoint}"
        self._max_request_bytes = max_request_bytes
        self._queue_warn_s = queue_warn_s
        self._down_grace_s = down_grace_s
        self._local = is_loopback(base_url)

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        """Build for the configured endpoint, or for another of the same account."""
        endpoint = target or settings.runpod_endpoint
        if not settings.runpod_api_key:
            raise error(
                Code.NOT_CONFIGURED,
                "no RunPod API key is set",
                hint="Set RUNPOD_API_KEY, or use another backend: pennyreel doctor",
            )
        if not endpoint:
            raise error(
                Code.NOT_CONFIGURED,
                "no RunPod endpoint is set",
                hint="Set RUNPOD_ENDPOINT_ID, or use another backend: pennyreel doctor",
            )
        return cls(
            endpoint,
            settings.runpod_api_key,
            base_url=settings.runpod_base_url,
            s3=settings.s3,
            # What is configured is of the configured endpoint.
            gpu=settings.runpod_gpu if endpoint == settings.runpod_endpoint else None,
        )

    def abilities(self) -> Abilities:
        """Return what our worker can do.

        Found by its id, an attempt is only where this client has the worker's bucket (S3): see
        `lookup`. It does not replay, because that would be true only sometimes: our worker answers
        the same attempt from the bucket once the first copy has ended well, and joins it while it
        runs on the same worker. But a copy that still runs, or waits, is unknown to another worker,
        which would run it again; without a bucket nothing is stored at all; the stock worker knows
        no attempts; and even a replay is billed for the seconds it takes.
        """
        return replace(self.could, looks_up=self._s3 is not None)

    def usage(self, need: Need) -> Usage:  # noqa: ARG002 - seconds are known afterwards only
        """GPU seconds, beside a cold start and an idle tail at most."""
        return money.usage(self._sku)

    def billed(self, need: Need, result: Result) -> Usage:
        """The seconds by RunPod's clock, else by the worker's."""
        return money.billed(self.usage(need), result)

    def lookup(self, attempt_id: str) -> Handle | None:
        """Look into the bucket, where our worker stores each result under its attempt's id.

        RunPod itself has no lookup. Only an attempt that ended well is found; of any other (it
        waits, runs, failed, was never accepted, or its worker has another bucket) nothing is
        known, so this never returns None.
        """
        return stored.lookup(self._s3, Handle(self.name, self.target, stored.ID, attempt_id))

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """Measure the request, upload what is too large for it, and POST it once."""
        body = request.body(work, self._s3, self._max_request_bytes)
        job_id = self._api.run(body, deadline or Deadline(None))
        return Handle(self.name, self.target, job_id, work.attempt_id)

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Poll until the job ends; what RunPod has forgotten by then the bucket may have."""
        if handle.remote_id == stored.ID:
            return stored.result(self._s3, handle)
        try:
            return Follower(self, handle, on_event, deadline, cancel).run()
        except PennyreelError as problem:
            if self._s3 is None or problem.code not in _FORGOTTEN:
                raise
            with suppress(PennyreelError):
                return stored.result(self._s3, handle)
            raise

    def fetch(
        self,
        handle: Handle,  # noqa: ARG002 - the artifact says it all
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        """Decode what came with the result, or GET its URL without any credential."""
        if artifact.data is not None:
            sink.restart()
            _decode(artifact, sink)
            return
        url, own = artifact.url, False
        if url is None and artifact.s3 is not None:
            own = True
            url = _s3.presign(_s3.require(self._s3, artifact.name), artifact.s3)
        if url is None:
            raise error(Code.OUTPUT_MISSING, f"the worker tells of {artifact.name} but not where")
        _http.download(
            url,
            sink,
            sha256=artifact.sha256,
            size=artifact.bytes or None,
            local=self._local,
            plain=own,
            pause=lambda seconds: pause(cancel, seconds),
            deadline=deadline,
            cancel=cancel,
        )

    def cancel(self, handle: Handle) -> bool:
        """POST /cancel, then look until the job has ended."""
        if handle.remote_id == stored.ID:
            return True
        return self.stop(handle.remote_id) is not None

    def health(self) -> Health:
        """GET /health."""
        try:
            body = self._api.health()
        except PennyreelError as problem:
            return Health(self.name, False, str(problem), problem.hint, self.target)
        workers, jobs = counts(body.get("workers")), counts(body.get("jobs"))
        detail = f"endpoint {self.target}: {summary(workers, jobs)}"
        return Health(self.name, True, detail, "", self.target, workers=workers, jobs=jobs)

    def close(self) -> None:
        """Close connections; jobs go on."""
        self._api.close()

    def stop(self, job_id: str) -> dict[str, Any] | None:
        """Cancel a job and return its final status ({} where RunPod has forgotten it).

        None means that RunPod did not confirm it in time.
        """
        limit, pause, told = Deadline(CONFIRM_S), following.POLL_S[0], False
        while not limit.expired:
            try:
                seen = self._api.status(job_id) if told else self._api.cancel(job_id)
                if told and seen.get("status") in FINAL:
                    return seen
                if not told:
                    told = True
                    continue
            except JobGone:
                return {}
            except (requests.RequestException, PennyreelError):
                told = False
            time.sleep(min(pause, limit.left()))
            pause = min(following.POLL_S[1], pause * 1.3)
        return None

    def look(self, job_id: str) -> dict[str, Any]:
        """One look at the job; see `RunPodApi.status`."""
        return self._api.status(job_id)

    def endpoint_exists(self) -> bool:
        """Whether the endpoint answers: tells a forgotten job from a wrong endpoint."""
        try:
            self._api.health()
        except PennyreelError as problem:
            return problem.code != Code.NOT_CONFIGURED.value
        return True

    @property
    def queue_warn_s(self) -> tuple[float, ...]:
        """After how many seconds in the queue a person is told."""
        return self._queue_warn_s

    @property
    def down_grace_s(self) -> float:
        """How long the API may be unreachable."""
        return self._down_grace_s


class DevBackend(RunPodBackend):
    """The emulated RunPod that `pennyreel dev` runs on this machine."""

    name = "dev"

    def usage(self, need: Need) -> Usage:  # noqa: ARG002 - as above
        """Seconds of this machine."""
        return Usage("local", Unit.GPU_SECOND, None)

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        """Read dev.json."""
        stack = dev_stack(settings.home)
        if stack is None:
            raise error(Code.NOT_CONFIGURED, "no dev stack runs here", hint="Run: pennyreel dev")
        return cls(
            target or stack.endpoint,
            stack.api_key,
            base_url=stack.base_url,
            s3=stack.s3 or settings.s3,
        )


def _decode(artifact: Artifact, sink: Sink) -> None:
    """Write base64 out in pieces; a data: URI's head is cut off."""
    text = artifact.data or ""
    if text.startswith("data:"):
        text = text.partition(",")[2]
    step = 4 << 18  # whole groups of four characters
    try:
        for start in range(0, len(text), step):
            sink.write(base64.b64decode(text[start : start + step], validate=True))
    except (binascii.Error, ValueError):
        raise error(Code.STORAGE_FAILED, f"{artifact.name} arrived as unreadable base64") from None
