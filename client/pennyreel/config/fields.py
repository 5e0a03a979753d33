"""The table of everything that can be set."""

from __future__ import annotations

from typing import NamedTuple


class Field(NamedTuple):
    """One setting: its place in the environment and in the file."""

    env: str
    toml: str
    kind: str
    """path, text, secret, url; flag (yes or no), amount (dollars), count, names (by commas)."""
    help: str
    choices: tuple[str, ...] = ()
    """The only values that `pennyreel config set` takes; () = any."""


FIELDS: dict[str, Field] = {
    "home": Field("PENNYREEL_HOME", "home", "path", "where pennyreel keeps its things"),
    "backend": Field(
        "PENNYREEL_BACKEND",
        "backend",
        "text",
        "comfyui, dev, gemini, huggingface, replicate, runpod, simulated, veo, veo-fast, or "
        "another package's; none = choose",
    ),
    "policy": Field(
        "PENNYREEL_POLICY",
        "policy.name",
        "text",
        "cheapest, fastest, best, local-only, or your own order: comfyui,runpod",
    ),
    "max_cost": Field(
        "PENNYREEL_MAX_COST", "policy.max_cost", "amount", "dollars that a job may cost at most"
    ),
    "day_limit": Field(
        "PENNYREEL_DAY_LIMIT", "policy.day_limit", "amount", "dollars that a day may cost, or none"
    ),
    "private": Field(
        "PENNYREEL_PRIVATE", "policy.private", "flag", "yes: only your own machines and accounts"
    ),
    "places": Field(
        "PENNYREEL_ON", "policy.on", "names", "only on machines that are local,own,rented,hosted"
    ),
    "forbid": Field("PENNYREEL_FORBID", "policy.forbid", "names", "backends that get no job"),
    "moves_per_minute": Field(
        "PENNYREEL_MOVES_PER_MINUTE",
        "policy.moves_per_minute",
        "count",
        "jobs that may move to one paid backend in a minute; 0 = no limit",
    ),
    "project": Field(
        "PENNYREEL_PROJECT", "labels.project", "text", "costs are added up under this name"
    ),
    "user": Field("PENNYREEL_USER", "labels.user", "text", "the same, by user"),
    "out_dir": Field("PENNYREEL_OUT", "out_dir", "path", "where outputs are saved"),
    "comfyui_url": Field("PENNYREEL_COMFYUI_URL", "comfyui.url", "url", "a ComfyUI server"),
    "comfyui_auth": Field(
        "PENNYREEL_COMFYUI_AUTH", "comfyui.auth", "secret", "its Authorization header"
    ),
    "runpod_api_key": Field("RUNPOD_API_KEY", "runpod.api_key", "secret", "RunPod's API key"),
    "runpod_endpoint": Field(
        "RUNPOD_ENDPOINT_ID", "runpod.endpoint", "text", "the serverless endpoint's id"
    ),
    "runpod_base_url": Field(
        "RUNPOD_ENDPOINT_BASE_URL", "runpod.base_url", "url", "RunPod's job API"
    ),
    "runpod_gpu": Field(
        "PENNYREEL_RUNPOD_GPU", "runpod.gpu", "text", "its GPU, for the price, such as AMPERE_24"
    ),
    "simulated": Field(
        "PENNYREEL_SIMULATED",
        "simulated",
        "text",
        "how backend simulated behaves: run_s=2,fail=0.1",
    ),
    "runpod_api_url": Field(
        "PENNYREEL_RUNPOD_API_URL", "runpod.api_url", "url", "RunPod's management API"
    ),
    "replicate_api_token": Field(
        "REPLICATE_API_TOKEN", "replicate.api_token", "secret", "Replicate's API token"
    ),
    "replicate_base_url": Field(
        "REPLICATE_BASE_URL", "replicate.base_url", "url", "Replicate's API"
    ),
    "replicate_model": Field(
        "PENNYREEL_REPLICATE_MODEL", "replicate.model", "text", "owner/name of a Hotshot-XL"
    ),
    "replicate_version": Field(
        "PENNYREEL_REPLICATE_VERSION", "replicate.version", "text", "the model's version"
    ),
    "replicate_hardware": Field(
        "PENNYREEL_REPLICATE_HARDWARE", "replicate.hardware", "text", "whose price counts: l40s"
    ),
    "s3_endpoint": Field("PENNYREEL_S3_ENDPOINT", "s3.endpoint", "url", "URL; none = AWS"),
    "s3_bucket": Field("PENNYREEL_S3_BUCKET", "s3.bucket", "text", "bucket for large inputs"),
    "s3_key": Field("PENNYREEL_S3_KEY", "s3.key", "secret", "access key id"),
    "s3_secret": Field("PENNYREEL_S3_SECRET", "s3.secret", "secret", "secret access key"),
    "s3_region": Field("PENNYREEL_S3_REGION", "s3.region", "text", "region"),
    "hf_token": Field("HF_TOKEN", "models.hf_token", "secret", "Hugging Face's token"),
    "hf_endpoint": Field("HF_ENDPOINT", "huggingface.endpoint", "url", "the Hugging Face Hub"),
    "hf_router_url": Field(
        "PENNYREEL_HF_ROUTER_URL", "huggingface.router_url", "url", "its router to providers"
    ),
    "hf_provider": Field(
        "PENNYREEL_HF_PROVIDER",
        "huggingface.provider",
        "text",
        "auto, or the providers allowed, in order: fal-ai,wavespeed",
    ),
    "hf_video_model": Field(
        "PENNYREEL_HF_VIDEO_MODEL", "huggingface.video_model", "text", "model for videos"
    ),
    "hf_image_model": Field(
        "PENNYREEL_HF_IMAGE_MODEL", "huggingface.image_model", "text", "model for images"
    ),
    "hf_bill_to": Field(
        "PENNYREEL_HF_BILL_TO", "huggingface.bill_to", "text", "organisation that pays"
    ),
    "civitai_token": Field("CIVITAI_API_KEY", "models.civitai_token", "secret", "Civitai's key"),
    "devices": Field(
        "PENNYREEL_DEVICES", "devices", "text", "this machine's GPUs: RTX 3090:24GB, or none"
    ),
    "ledger_url": Field(
        "PENNYREEL_LEDGER_URL",
        "ledger.url",
        "secret",
        "postgresql://… of a shared ledger; none = ledger.db in the home folder",
    ),
    "alert_webhook": Field(
        "PENNYREEL_ALERT_WEBHOOK",
        "alerts.webhook",
        "secret",
        "https URL that is told when half, 80 % or all of a budget is spent",
    ),
    "alert_hosts": Field(
        "PENNYREEL_ALERT_HOSTS",
        "alerts.hosts",
        "text",
        "HOST:PORT,… that it may be though they are private",
    ),
    "gemini_api_key": Field("GEMINI_API_KEY", "gemini.api_key", "secret", "the Gemini API's key"),
    "gemini_base_url": Field(
        "GOOGLE_GEMINI_BASE_URL", "gemini.base_url", "url", "the Gemini API; /v1 is added"
    ),
    "gemini_model": Field("PENNYREEL_GEMINI_MODEL", "gemini.model", "text", "an Omni model's id"),
    "gemini_resolution": Field(
        "PENNYREEL_GEMINI_RESOLUTION",
        "gemini.resolution",
        "text",
        "of jobs that name no size: 360p, 720p, 1080p, 4k",
        choices=("360p", "720p", "1080p", "4k"),
    ),
    "vertex_project": Field(
        "GOOGLE_CLOUD_PROJECT", "vertex.project", "text", "the Google Cloud project that pays"
    ),
    "vertex_location": Field("GOOGLE_CLOUD_LOCATION", "vertex.location", "text", "its region"),
    "vertex_credentials": Field(
        "GOOGLE_APPLICATION_CREDENTIALS",
        "vertex.credentials",
        "path",
        "JSON file of a service account, or of gcloud's application-default login",
    ),
    "vertex_token": Field(
        "PENNYREEL_VERTEX_TOKEN", "vertex.token", "secret", "an access token, instead of the file"
    ),
    "vertex_gcloud": Field(
        "PENNYREEL_GCLOUD", "vertex.gcloud", "path", "gcloud's full path, to ask it for tokens"
    ),
    "vertex_base_url": Field(
        "GOOGLE_VERTEX_BASE_URL", "vertex.base_url", "url", "Vertex; none = by the region"
    ),
    "vertex_storage_uri": Field(
        "PENNYREEL_VERTEX_STORAGE", "vertex.storage_uri", "text", "gs://… that Veo writes to"
    ),
    "vertex_storage_url": Field(
        "PENNYREEL_VERTEX_STORAGE_URL", "vertex.storage_url", "url", "Cloud Storage's JSON API"
    ),
    "veo_model": Field("PENNYREEL_VEO_MODEL", "veo.model", "text", "the model of backend veo"),
    "veo_fast_model": Field(
        "PENNYREEL_VEO_FAST_MODEL", "veo.fast_model", "text", "the model of backend veo-fast"
    ),
}
