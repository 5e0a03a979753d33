"""What can be set on the emulated Google APIs, and what each submitted job is to do.

Shapes follow google-genai 3.6 and the public documentation of October 2026; where neither says,
the comment is UNVERIFIED.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

End = Literal["done", "filtered", "failed", "hangs", "forgotten", "cancelled", "incomplete"]


@dataclass(frozen=True)
class Plan:
    """The fate of one submit. The default is a job that is done at the second look."""

    refuse: int | None = None
    """Answer with this HTTP status; nothing is accepted."""
    message: str = "emulated refusal"
    retry_s: float | None = None
    """With a refusal: google.rpc.RetryInfo in its details."""
    refuse_status: str | None = None
    """The refusal's google.rpc.Code by name, where it is not the usual one."""
    reason: str | None = None
    """With a refusal: google.rpc.ErrorInfo in its details."""
    redirect: str | None = None
    """Answer with a redirect to this URL; nothing is accepted."""
    answer: Literal["given", "lost", "empty", "garbled", "never_came"] = "given"
    """All but never_came accept. lost, never_came: the connection is cut; empty: the answer is {};
    garbled: it is no JSON."""
    looks: int = 1
    """So many looks see it running before it has ended."""
    status: str | None = None
    """What these looks are told instead of in_progress (Interactions only)."""
    end: End = "done"
    error_code: int = 13
    """google.rpc.Code of a failed Vertex operation."""
    error: str = "Internal error encountered."
    cancel: Literal["obeyed", "late", "ignored"] = "obeyed"
    """late: it is already done when the cancel arrives (Interactions only)."""
    delivery: Literal["asked", "inline", "uri"] = "asked"
    file_url: str | None = None
    """Where the video is said to be, instead of here (Interactions only)."""
    cut_files: int = 0
    """So many transfers of its file break off in the middle."""
    broken_looks: tuple[int, ...] = ()
    """HTTP statuses that the first looks get; with 200, one of them is as usual."""


@dataclass(frozen=True)
class OmniModel:
    """What an Omni Flash makes. Lengths in seconds."""

    least_s: int = 3
    most_s: int = 15
    resolutions: tuple[str, ...] = ("360p", "720p", "1080p", "4k")


@dataclass(frozen=True)
class VeoModel:
    """What a Veo makes. Lengths in seconds."""

    lengths: tuple[int, ...] = (4, 6, 8)
    resolutions: tuple[str, ...] = ("720p", "1080p", "4k")
    full_length_only: tuple[str, ...] = ("1080p", "4k")


@dataclass(frozen=True)
class GoogleConfig:
    """Keys, models and habits."""

    api_key: str = "AIza-EMULATED"
    project: str = "emulated-project"
    location: str = "us-central1"
    access_tokens: tuple[str, ...] = ("ya29.EMULATED",)
    """Bearer tokens taken besides those that /token gave."""
    service_accounts: Mapping[str, str] = field(default_factory=dict)
    """E-mail to public key (PEM): whose signed grants /token takes."""
    refresh_tokens: tuple[str, ...] = ()
    token_life_s: int = 3600
    plan: Plan = field(default_factory=Plan)
    """Of every submit that has no plan of its own."""
    redirects: bool = False
    """Downloads answer with a redirect to signed storage, which refuses any key."""
    charge_filtered: bool = False
    """Google says that only success is billed (UNVERIFIED); True is the worst reading."""
    omni: Mapping[str, OmniModel] = field(
        default_factory=lambda: {
            "gemini-omni-1.2-flash": OmniModel(),
            "gemini-omni-1.1-flash": OmniModel(most_s=10),
        }
    )
    veo: Mapping[str, VeoModel] = field(
        default_factory=lambda: {
            "veo-3.1-generate-001": VeoModel(),
            "veo-3.1-fast-generate-001": VeoModel(),
        }
    )
    host: str = "127.0.0.1"
    port: int = 0
