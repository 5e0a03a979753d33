"""Everything that can be set, and what it is where nobody says anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyreel.config.secret import Secret

RUNPOD_URL = "https://api.runpod.ai/v2"
RUNPOD_API_URL = "https://api.runpod.io/v2"
REPLICATE_URL = "https://api.replicate.com/v1"
COMFYUI_URL = "http://127.0.0.1:8188"
GEMINI_URL = "https://generativelanguage.googleapis.com"
HF_URL = "https://huggingface.co"
HF_ROUTER_URL = "https://router.huggingface.co"
HF_VIDEO_MODEL = "Wan-AI/Wan2.2-TI2V-5B"
HF_IMAGE_MODEL = "black-forest-labs/FLUX.1-dev"


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Immutable; build it with `load`."""

    home: Path
    backend: str | None = None
    policy: str | None = None
    max_cost: str | None = None
    day_limit: str | None = None
    private: bool | None = None
    places: tuple[str, ...] | None = None
    forbid: tuple[str, ...] | None = None
    moves_per_minute: int = 30
    project: str | None = None
    user: str | None = None
    out_dir: Path = Path("pennyreel-output")
    comfyui_url: str = COMFYUI_URL
    comfyui_auth: Secret | None = None
    runpod_api_key: Secret | None = None
    runpod_endpoint: str | None = None
    runpod_base_url: str = RUNPOD_URL
    runpod_gpu: str | None = None
    simulated: str | None = None
    runpod_api_url: str = RUNPOD_API_URL
    replicate_api_token: Secret | None = None
    replicate_base_url: str = REPLICATE_URL
    replicate_model: str | None = None
    replicate_version: str | None = None
    replicate_hardware: str | None = None
    s3_endpoint: str | None = None
    s3_bucket: str | None = None
    s3_key: Secret | None = None
    s3_secret: Secret | None = None
    s3_region: str | None = None
    hf_token: Secret | None = None
    hf_endpoint: str = HF_URL
    hf_router_url: str = HF_ROUTER_URL
    hf_provider: str = "auto"
    hf_video_model: str = HF_VIDEO_MODEL
    hf_image_model: str = HF_IMAGE_MODEL
    hf_bill_to: str | None = None
    civitai_token: Secret | None = None
    devices: str | None = None
    prices: Mapping[str, Any] | None = None
    """The file's `[prices]`, as it stands there; `money.catalog` reads it."""
    ledger_url: Secret | None = None
    alert_webhook: Secret | None = None
    alert_hosts: str | None = None
    gemini_api_key: Secret | None = None
    gemini_base_url: str = GEMINI_URL
    gemini_model: str = "gemini-omni-1.2-flash"
    gemini_resolution: str = "720p"
    vertex_project: str | None = None
    vertex_location: str = "us-central1"
    vertex_credentials: Path | None = None
    vertex_token: Secret | None = None
    vertex_gcloud: Path | None = None
    vertex_base_url: str | None = None
    vertex_storage_uri: str | None = None
    vertex_storage_url: str = "https://storage.googleapis.com"
    veo_model: str = "veo-3.1-generate-001"
    veo_fast_model: str = "veo-3.1-fast-generate-001"
    config_file: Path | None = None
    said: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)
    """Where each setting that somebody has set was set: a variable, a place in the file."""

    @property
    def comfyui_home(self) -> Path:
        """Where `pennyreel comfyui install` puts ComfyUI."""
        return self.home / "comfyui"

    @property
    def s3(self) -> S3 | None:
        """The bucket for inputs that are too large for a request, where one is configured."""
        if self.s3_bucket is None:
            return None
        return S3(self.s3_endpoint, self.s3_bucket, self.s3_key, self.s3_secret, self.s3_region)


@dataclass(frozen=True)
class S3:
    """An S3-compatible bucket. Without key and secret, boto3 looks for them its own way."""

    endpoint: str | None
    bucket: str
    key: Secret | None = None
    secret: Secret | None = None
    region: str | None = None
