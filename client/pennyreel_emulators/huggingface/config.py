"""What the emulated Hugging Face serves, and what it does to the jobs it is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

VIDEO = "text-to-video"
IMAGE = "text-to-image"


@dataclass(frozen=True)
class Served:
    """One provider's entry in a model's `inferenceProviderMapping`."""

    provider_id: str
    task: str = VIDEO
    status: Literal["live", "staging", "error"] = "live"
    adapter_weights_path: str | None = None


# Names as they stood in the Hub's documentation in August 2026 (inference-providers pages of
# huggingface/hub-docs); the providers' own ids are likenesses.
MODELS: dict[str, dict[str, Served]] = {
    "Wan-AI/Wan2.2-TI2V-5B": {
        "fal-ai": Served("fal-ai/wan/v2.2-5b/text-to-video"),
        "replicate": Served("wan-video/wan-2.2-5b-fast"),
    },
    "larryvrh/MiniMax-H3-Turbo-Lora": {
        "wavespeed": Served("wavespeed-ai/minimax-h3/turbo", adapter_weights_path="h3.safetensors"),
    },
    "tencent/HunyuanVideo": {
        "novita": Served("hunyuan-video-fast"),
        "together": Served("tencent/HunyuanVideo"),
    },
    "black-forest-labs/FLUX.1-dev": {
        "fal-ai": Served("fal-ai/flux/dev", IMAGE),
        "replicate": Served("black-forest-labs/flux-dev", IMAGE),
        "together": Served("black-forest-labs/FLUX.1-dev", IMAGE),
        "wavespeed": Served("wavespeed-ai/flux-dev", IMAGE),
    },
    "stabilityai/stable-diffusion-3-medium-diffusers": {
        "hf-inference": Served("stabilityai/stable-diffusion-3-medium-diffusers", IMAGE),
    },
}


@dataclass(frozen=True)
class Plan:
    """What happens to a job.

    `refuse` is an HTTP status that is answered instead of accepting it (`location`: with a redirect
    to there); `status` is told while it runs in place of the provider's own word.
    """

    looks: int = 1
    """So many looks still find it queued (the first) or running."""
    end: Literal["done", "failed", "never"] = "done"
    error: str = "the model failed"
    """What is said of one that failed."""
    status: str | None = None
    refuse: int | None = None
    retry_after: str | None = None
    location: str | None = None
    answer: Literal["given", "lost", "garbled", "never"] = "given"
    """`lost` and `garbled` have accepted the job; `never` cuts the connection and has not."""
    cancel: Literal["obeyed", "ignored", "unsupported"] = "obeyed"
    """`ignored` says that it will, and does not."""
    outputs: int = 1
    file: Literal["whole", "cut", "short", "gone"] = "whole"
    """`cut` breaks the first transfer off; `short` is complete and too short."""
    file_url: str | None = None
    """In place of the file's own."""


@dataclass(frozen=True)
class HubConfig:
    """The account, its money, and the models."""

    token: str = "hf_EMULATED"  # noqa: S105 - it opens nothing
    user: str = "tester"
    pro: bool = False
    role: str = "write"
    """Of the token: read, write or fineGrained."""
    permissions: tuple[str, ...] = ("inference.serverless.write",)
    """Of a fineGrained token."""
    credits: int | None = None
    """So many jobs are paid for; None = any number."""
    models: Mapping[str, Mapping[str, Served]] = field(default_factory=lambda: MODELS)
    host: str = "127.0.0.1"
    port: int = 0
