"""A RunPod serverless endpoint that runs our worker image, or the stock one for plain graphs.

One POST submits; after that only reads, which are safe to repeat, and the cancel. Polling
decides; what the worker reports as progress decorates.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import quote

import requests
from pydantic import ValidationError
from typing_extensions import Self

from pennyreel import _http, _s3
from pennyreel.backends import _runpod_money as money
from pennyreel.backends import _runpod_results as results
from pennyreel.backends import _runpod_stored as stored
from pennyreel.backends._runpod_api import MAX_REQUEST_BYTES, JobGone, Pause, RunPodApi
from pennyreel.backends.base import COMFY_KINDS, OnEvent, Work, pause
from pennyreel.backends.polling import DOWN_GRACE_S, Polled, poll
from pennyreel.config import RUNPOD_URL, S3, Secret, Settings, dev_stack, is_loopback
from pennyreel.errors import Code, JobFailed, PennyreelError, error
from pennyreel.need import Abilities, Need, Unit, Usage
from pennyreel.sources import Source
from pennyreel.types import Handle, Health, Progressed, Queued, Sink, Started, Warned
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, InputFile, Result, parse_progress

POLL_S = (0.25, 1.5)
"""The pause between two looks grows from the one to the other."""

QUEUE_WARN_S = (20.0, 120.0, 600.0)
CONFIRM_S = 20.0
FINAL = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
_RESULT_KEPT_S = 1800.0
_POLICY_MS = (5_000, 604_800_000)


class RunPodBackend:
    """One endpoint."""

    name = "runpod"

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
        return Abilities(
            kinds=COMFY_KINDS,
            workflows=True,
            image_input=True,
            lora=True,
            negative_prompt=True,
            seed=True,
            ends_late=True,
            cancels=True,
            looks_up=self._s3 is not None,
            private=True,
        )

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
        body = self._body(work)
        job_id = self._api.run(body, deadline or Deadline(None))
        return Handle(self.name, self.target, job_id, work.attempt_id)

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Poll until the job ends."""
        if handle.remote_id == stored.ID:
            return stored.result(self._s3, handle)
        return _Follower(self, handle, on_event, deadline, cancel).run()

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
        workers, jobs = _counts(body.get("workers")), _counts(body.get("jobs"))
        detail = f"endpoint {self.target}: {_summary(workers, jobs)}"
        return Health(self.name, True, detail, "", self.target, workers=workers, jobs=jobs)

    def close(self) -> None:
        """Close connections; jobs go on."""
        self._api.close()

    def stop(self, job_id: str) -> dict[str, Any] | None:
        """Cancel a job and return its final status ({} where RunPod has forgotten it).

        None means that RunPod did not confirm it in time.
        """
        limit, pause, told = Deadline(CONFIRM_S), POLL_S[0], False
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
            pause = min(POLL_S[1], pause * 1.3)
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

    def _body(self, work: Work) -> bytes:
        """Return the POST's body; no file is read before it is known to fit.

        Raises:
            BadRequest, SetupNeeded, Unavailable: nothing was sent to RunPod.

        """
        try:
            uploaded = self._upload_large(work)
        except OSError as problem:
            raise error(Code.BAD_INPUT, f"an input cannot be read: {problem.strerror}") from None
        except JobFailed as problem:  # "failed" means that a job ran, and none did
            raise error(
                Code.BACKEND_UNAVAILABLE,
                f"an input cannot be uploaded: {problem}; nothing was sent",
                hint=problem.hint,
            ) from problem
        inputs = tuple(_input(s, uploaded) for s in work.sources)
        body = _encode(work, inputs)
        if len(body) > self._max_request_bytes:  # never by more than a few bytes of headers
            raise self._too_large(work, len(body))
        return body

    def _upload_large(self, work: Work) -> dict[str, str]:
        """Move the largest inputs to the bucket until the rest fits; return name -> URL."""
        placeholders = tuple(
            InputFile(name=s.name, data="") if s.local else _remote(s) for s in work.sources
        )
        left = {s.name: s for s in work.sources if s.local}
        bare = len(_encode(work, placeholders))
        uploaded: dict[str, str] = {}
        while bare + sum(_base64_size(s) for s in left.values()) > self._max_request_bytes:
            largest = max(left.values(), key=_base64_size, default=None)
            if largest is None or self._s3 is None:
                total = bare + sum(_base64_size(s) for s in left.values())
                raise self._too_large(work, total)
            uploaded[largest.name] = _s3.upload(self._s3, largest, work.attempt_id)
            del left[largest.name]
            bare += len(uploaded[largest.name])
        return uploaded

    def _too_large(self, work: Work, size: int) -> PennyreelError:
        local = [s for s in work.sources if s.local]
        largest = max(local, key=_base64_size, default=None)
        what = (
            f"input {largest.name} is the largest ({_mb(_base64_size(largest))} encoded)"
            if largest
            else "its graph alone is that large"
        )
        return error(
            Code.REQUEST_TOO_LARGE,
            f"the request has {_mb(size)}; RunPod takes {_mb(self._max_request_bytes)}: {what}",
            hint="Pass large inputs by https URL or s3://, or let pennyreel upload them: "
            "pip install 'pennyreel[s3]' and set PENNYREEL_S3_BUCKET.",
            detail={"bytes": size, "input": largest.name if largest else None},
        )


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


class _Follower:
    """Follows one job to its end."""

    def __init__(
        self,
        backend: RunPodBackend,
        handle: Handle,
        on_event: OnEvent,
        deadline: Deadline,
        cancel: CancelToken,
    ) -> None:
        self._backend = backend
        self._handle = handle
        self._tell = on_event
        self._deadline = deadline
        self._cancel = cancel
        self._began = time.monotonic()
        self._shown: dict[str, Any] = {}
        self._stage = ""
        self._warnings_due = list(backend.queue_warn_s)

    def run(self) -> Result:
        """Look, tell, wait, again."""
        by: Polled[dict[str, Any]] = Polled(
            look=lambda: self._backend.look(self._handle.remote_id),
            ended=lambda seen: seen.get("status") in FINAL,
            report=self._report,
            stop=self._stop,
            lost=self._forgotten,
            silent=self._silent,
            gone=JobGone,
            poll_s=POLL_S,
            down_grace_s=self._backend.down_grace_s,
        )
        ended = poll(by, self._deadline, self._cancel)
        return results.outcome(ended, self._handle.attempt_id)

    def _stop(self) -> dict[str, Any]:
        """Stop the job, and say whether that is certain.

        One that was faster than its deadline's cancel is done, and paid for: it counts.
        """
        ended = self._backend.stop(self._handle.remote_id)
        detail = {"confirmed_stopped": ended is not None, "handle": str(self._handle)}
        note = "" if ended is not None else "; RunPod did not confirm that it stopped"
        if self._cancel.cancelled:
            raise error(Code.CANCELLED, f"the job was cancelled{note}", detail=detail)
        if ended and ended.get("status") == "COMPLETED":
            return ended
        problem = self._deadline.error("the job")
        raise error(Code.TIMEOUT, f"{problem}{note}", detail=detail)

    def _silent(self, problem: Exception) -> PennyreelError:
        return error(
            Code.UNKNOWN_OUTCOME,
            f"RunPod has not answered for {self._backend.down_grace_s:g} s "
            f"({type(problem).__name__}); the job may go on",
            hint=f"Look again later: pennyreel result '{self._handle}'",
            detail={"handle": str(self._handle)},
        )

    def _forgotten(self) -> PennyreelError:
        if not self._backend.endpoint_exists():
            return error(
                Code.NOT_CONFIGURED,
                f"RunPod knows no endpoint {self._handle.target!r} for this key",
                hint="Use the API key of the account that has the endpoint.",
            )
        return error(
            Code.RESULT_EXPIRED,
            "RunPod no longer knows this job: results are kept for 30 minutes, and jobs until "
            "their ttl",
            detail={"handle": str(self._handle)},
        )

    def _report(self, seen: dict[str, Any]) -> None:
        """Tell what is new. A status that we do not know means that the job still runs."""
        stage = "queued" if seen.get("status") == "IN_QUEUE" else "running"
        if stage != self._stage:
            self._stage = stage
            self._tell(Queued() if stage == "queued" else Started())
        if stage == "queued":
            self._warn_of_queue()
            return
        progress = parse_progress(seen.get("output"))
        if progress is None:
            return
        shown = {f.name: getattr(progress, f.name) for f in fields(Progressed)}
        if shown != self._shown:
            self._shown = shown
            self._tell(Progressed(**shown))

    def _warn_of_queue(self) -> None:
        waited = time.monotonic() - self._began
        if not self._warnings_due or waited < self._warnings_due[0]:
            return
        self._warnings_due.pop(0)
        health = self._backend.health()
        told = f"the job has been in the queue for {waited:.0f} s; {health.detail}"
        if health.reachable and not _able(health.workers):
            told += (
                " - no worker is ready: is the endpoint's max workers 0, or its GPU type sold out?"
            )
        self._tell(Warned(told))


def _encode(work: Work, inputs: tuple[InputFile, ...]) -> bytes:
    body: dict[str, Any] = {"input": work.request(inputs).wire()}
    if work.timeout_s is not None:
        # ttl counts from submission and also ends how long a result is kept.
        body["policy"] = {
            "executionTimeout": _policy_ms(work.timeout_s),
            "ttl": _policy_ms(work.timeout_s + _RESULT_KEPT_S),
        }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def _policy_ms(seconds: float) -> int:
    low, high = _POLICY_MS
    return max(low, min(high, round(seconds * 1000)))


def _input(source: Source, uploaded: Mapping[str, str]) -> InputFile:
    if source.name in uploaded:
        return InputFile(name=source.name, url=uploaded[source.name])
    if not source.local:
        return _remote(source)
    with source.open() as content:
        return InputFile(name=source.name, data=base64.b64encode(content.read()).decode())


def _remote(source: Source) -> InputFile:
    try:
        return InputFile(name=source.name, url=source.url, s3=source.s3)
    except ValidationError as problem:  # its words may quote a signed URL
        told = problem.errors(include_input=False, include_context=False)[0]
        why = told["msg"].removeprefix("Value error, ") if source.s3 else "its URL is not accepted"
        raise error(Code.BAD_INPUT, f"input {source.name}: {why}") from None


def _base64_size(source: Source) -> int:
    return -(-(source.size or 0) // 3) * 4


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


def _counts(raw: object) -> dict[str, int]:
    if not isinstance(raw, dict):
        return {}
    return {str(k): v for k, v in raw.items() if isinstance(v, int)}


def _able(workers: Mapping[str, int]) -> bool:
    return any(workers.get(k, 0) for k in ("ready", "idle", "running", "initializing"))


def _summary(workers: Mapping[str, int], jobs: Mapping[str, int]) -> str:
    states = [f"{n} {state}" for state, n in workers.items() if n and state != "ready"]
    told = f"workers: {', '.join(states)}" if states else "no worker yet (one starts with a job)"
    return f"{told}; {jobs.get('inQueue', 0)} queued, {jobs.get('inProgress', 0)} running"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
