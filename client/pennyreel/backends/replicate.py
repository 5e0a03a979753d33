"""Hotshot-XL at Replicate: one second of video, eight frames, from a prompt.

One POST submits; after that only reads, which are safe to repeat, and the cancel.

**What it costs.** Replicate bills a public model by `metrics.predict_time` times the price of its
hardware's second; queue and cold start are free. So the unit is the GPU second, and not a run: the
model's page shows no price a run, and the figures that circulate ($0.018) are this product for
somebody's times. The catalogue's row `replicate/hotshot-xl` has the price of an L40S, by what is
known of the model (2023: an A40, which Replicate replaced by the L40S in 2024), and the seconds
that it usually runs. The API does not tell its hardware: who knows better sets it, and the row
`replicate/HARDWARE` counts.

**Why it looks nothing up.** There is no idempotency key, and an attempt's id finds no place in a
request: unknown keys of the body are refused, inputs that the model does not know may be
(UNVERIFIED), and a webhook would send the result elsewhere. GET /predictions lists inputs, but two
jobs with one input look alike there, and how soon it shows a new one is not documented. So an
unanswered submit stays unknown. Where the user gave no seed, one is made from the attempt's id: a
person can find the prediction by it.
"""

from __future__ import annotations

import base64
import binascii
import math
import time
from typing import Any

from typing_extensions import Self

from pennyreel import _http
from pennyreel.backends import _replicate_results as results
from pennyreel.backends._replicate_api import TOKENS, Pause, ReplicateApi
from pennyreel.backends._replicate_follow import CONFIRM_S, Account, Follower
from pennyreel.backends._replicate_input import FRAMES, SECONDS, SIDES, inputs, minted_seed
from pennyreel.backends.base import OnEvent, Work, pause
from pennyreel.backends.polling import DOWN_GRACE_S
from pennyreel.config import REPLICATE_URL, Secret, Settings, is_loopback
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Abilities, Need, Span, Unit, Usage
from pennyreel.types import Handle, Health, Sink
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Result

MODEL = "lucataco/hotshot-xl"
VERSION = "78b3a6257e16e4b241245d65c8b2b81ea2e1ff7ed4c55306b511509ddbfd327a"
SKU = "hotshot-xl"

LONGEST_S = 300.0
"""Cancel-After at most: three times a cold start of a minute and a run of forty seconds.

It counts from the creation. A job that hangs costs no more than so many seconds of the GPU.
"""

_LEAST_S = 5.0


class ReplicateBackend:
    """One model of one account."""

    name = "replicate"
    could = Abilities(
        kinds=frozenset({"video"}),
        prompts=True,
        sizes=tuple((w, h) for w in SIDES for h in SIDES),
        seconds=Span(these=(SECONDS,)),
        frames=Span(these=(float(FRAMES),)),
        formats=frozenset({"mp4", "gif"}),
        negative_prompt=True,
        seed=True,
        cancels=True,
        quality=1,
    )

    def __init__(
        self,
        key: Secret | None,
        *,
        model: str = MODEL,
        version: str | None = VERSION,
        hardware: str | None = None,
        base_url: str = REPLICATE_URL,
        pause: Pause = time.sleep,
        longest_s: float = LONGEST_S,
        down_grace_s: float = DOWN_GRACE_S,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        """Keep the address; nothing is sent. No `version`: an official model, run by its name."""
        self.target = model
        self._version, self._hardware = version, hardware
        self._api = ReplicateApi(base_url, key, pause=pause)
        self._local = is_loopback(base_url)
        self._account = Account(self._api, down_grace_s, confirm_s)
        self._longest_s = longest_s

    @classmethod
    def open(cls, settings: Settings, target: str | None = None) -> Self:
        """Build for the configured model, or for another one (`owner/name` or with `:version`)."""
        if not settings.replicate_api_token:
            raise error(
                Code.NOT_CONFIGURED,
                "no Replicate API token is set",
                hint=f"Set REPLICATE_API_TOKEN to a token of {TOKENS}, or use another backend: "
                "pennyreel doctor",
            )
        configured, _, pinned = (settings.replicate_model or MODEL).partition(":")
        model, _, version = (target or settings.replicate_model or MODEL).partition(":")
        if not version and model == configured:
            version = settings.replicate_version or pinned
        return cls(
            settings.replicate_api_token,
            model=model,
            version=version or (VERSION if model == MODEL else None),
            hardware=settings.replicate_hardware,
            base_url=settings.replicate_base_url,
        )

    def abilities(self) -> Abilities:
        """Always one second of eight frames; frames a second are not to be chosen."""
        return self.could

    def usage(self, need: Need) -> Usage:  # noqa: ARG002 - any such job is billed this way
        """Seconds of its GPU, so many as it will take; queue and cold start are free."""
        return Usage(self._sku, Unit.GPU_SECOND, None)

    def billed(self, need: Need, result: Result) -> Usage:  # noqa: ARG002
        """`metrics.predict_time`, where Replicate told it."""
        seconds = None if result.gpu is None else result.gpu.seconds
        return Usage(self._sku, Unit.GPU_SECOND, seconds)

    def lookup(self, attempt_id: str) -> Handle | None:
        """Replicate cannot tell; see above."""
        raise error(
            Code.UNKNOWN_OUTCOME,
            f"Replicate cannot be asked for attempt {attempt_id}",
            hint=f"Look for one with seed {minted_seed(attempt_id)} among its predictions.",
        )

    def submit(self, work: Work, deadline: Deadline | None = None) -> Handle:
        """Check the prompt, and POST it once."""
        limit = deadline or Deadline(None)
        body: dict[str, Any] = {"input": inputs(work)}
        path = f"/models/{self.target}/predictions"
        if self._version:
            body, path = {"version": self._version, **body}, "/predictions"
        given = self._longest_s if work.timeout_s is None else min(self._longest_s, work.timeout_s)
        after = math.ceil(max(_LEAST_S, limit.left(given)))
        identity = self._api.create(path, body, after, limit)
        return Handle(self.name, self.target, identity, work.attempt_id)

    def follow(
        self, handle: Handle, *, on_event: OnEvent, deadline: Deadline, cancel: CancelToken
    ) -> Result:
        """Poll until the prediction ends."""
        seen = Follower(self._account, handle, on_event, deadline, cancel).run()
        return results.outcome(seen, handle.attempt_id, self._hardware or "unknown")

    def fetch(
        self,
        handle: Handle,
        artifact: Artifact,
        sink: Sink,
        cancel: CancelToken,
        deadline: Deadline | None = None,
    ) -> None:
        """GET the file without the token: it is on replicate.delivery, which needs none."""
        if artifact.data is not None:
            sink.restart()
            _decode(artifact, sink)
            return
        if artifact.url is None:
            raise error(Code.OUTPUT_MISSING, f"Replicate tells of {artifact.name} but not where")
        try:
            _http.download(
                artifact.url,
                sink,
                local=self._local,
                pause=lambda seconds: pause(cancel, seconds),
                deadline=deadline,
                cancel=cancel,
            )
        except PennyreelError as problem:
            if problem.code != Code.RESULT_EXPIRED.value:
                raise
            raise results.expired({**problem.info.detail, "handle": str(handle)}) from None

    def cancel(self, handle: Handle) -> bool:
        """POST its cancel, then look until it has ended."""
        return self._account.stop(handle.remote_id) is not None

    def health(self) -> Health:
        """GET the model's version: it costs nothing, and needs a good token."""
        try:
            self._api.exists(self.target, self._version)
        except PennyreelError as problem:
            return Health(self.name, False, str(problem), problem.hint, self.target)
        return Health(self.name, True, f"model {self.target} is there", "", self.target)

    def close(self) -> None:
        """Close connections; jobs go on."""
        self._api.close()

    @property
    def _sku(self) -> str:
        return f"replicate/{self._hardware or SKU}"


def _decode(artifact: Artifact, sink: Sink) -> None:
    try:
        sink.write(base64.b64decode(artifact.data or "", validate=True))
    except (binascii.Error, ValueError):
        raise error(Code.STORAGE_FAILED, f"{artifact.name} arrived as unreadable base64") from None
