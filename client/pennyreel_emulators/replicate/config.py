"""What can be set on the emulated Replicate. Times are seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# What `error` says of a prediction: replicate.com/docs/reference/error-codes, and what public
# repositories quote of the last two.
OUT_OF_MEMORY = "Model ran out of memory and was terminated (E1001)"
INTERRUPTED = "Prediction interrupted; please retry (code: PA)"
NSFW = "NSFW content detected. Try running it again, or try a different prompt."


@dataclass(frozen=True)
class Behaviour:
    """What becomes of one prediction. None = as the config says."""

    boot_s: float | None = None
    """In `starting`: queue and cold boot, neither of which is billed for a public model."""
    run_s: float | None = None
    """In `processing`: `metrics.predict_time`."""
    error: str | None = None
    """It fails with these words, instead of succeeding."""
    hangs: bool = False
    """It stays in `processing` until somebody or its Cancel-After ends it."""
    told_as: str | None = None
    """A status that is told in place of `starting` and `processing`."""
    ends_as: str | None = None
    """A status that is told in place of `succeeded`; its output is there."""
    answer: Literal["whole", "lost", "garbled"] = "whole"
    """Of the create: lost = the connection is cut after it was accepted."""
    cancel: Literal["stops", "ignored"] = "stops"
    """ignored = a cancel is answered as if it had been heard, and changes nothing."""
    output: Literal["file", "none", "list", "data"] = "file"
    """none = it succeeds with `output: null`; data = a data: URL in place of an address."""


@dataclass(frozen=True)
class Fault:
    """An answer in place of the real one. `status` 0 cuts the connection; nothing is done."""

    status: int = 0
    body: object = None
    """A text is sent as HTML, anything else as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    """Of a file: its real answer, broken off after so many bytes."""
    times: int = 1


@dataclass(frozen=True)
class RateLimit:
    """So many requests in `window_s`."""

    requests: int
    window_s: float = 60.0


@dataclass(frozen=True)
class Config:
    """The platform: its account, its times and its limits."""

    token: str = "r8_EMULATED"  # noqa: S105 - of an emulation
    username: str = "emulated"
    host: str = "127.0.0.1"
    port: int = 0
    boot_s: float = 0.0
    run_s: float = 0.02
    # replicate.com/docs/topics/predictions/data-retention: an hour, for predictions of the API.
    retention_s: float = 3600.0
    # replicate.com/docs/topics/predictions/rate-limits. For an account without a payment method:
    # RateLimit(6) and a burst of 1.
    creates: RateLimit = RateLimit(600)
    others: RateLimit = RateLimit(3000)
    # Of every prediction that `script` says nothing of.
    behaviour: Behaviour = Behaviour()
    # False: 402 for every create.
    credit: bool = True
    hardware: str = "gpu-l40s"
    # Cancel-After, by the API's reference: 5 seconds at least, counted from the creation.
    cancel_after_min_s: float = 5.0
    page: int = 100
    # How long a request is held at most, whatever `Prefer` asks for.
    hold_s: float = 60.0
    # The prefix of output URLs; "" = the emulated origin's own address. With Replicate's own one,
    # a test's transport has to lead there.
    delivery_url: str = ""
