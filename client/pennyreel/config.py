"""The only reader of the environment and of the config file.

An argument wins over the environment, that over the file, that over the default. The file is
`config.toml` in the user's config folder, or what PENNYREEL_CONFIG names; `FIELDS` is the table
of everything that can be set. In the place of a secret the file may say that it is in the system's
keyring, `{ keyring = "pennyreel" }`: so the keyring ranks where the file does, and is asked only
for what it has, when that is used.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import platformdirs

from pennyreel import keys
from pennyreel_contract import Code, error

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_ENV = "PENNYREEL_CONFIG"
RUNPOD_URL = "https://api.runpod.ai/v2"
RUNPOD_API_URL = "https://api.runpod.io/v2"
REPLICATE_URL = "https://api.replicate.com/v1"
COMFYUI_URL = "http://127.0.0.1:8188"
GEMINI_URL = "https://generativelanguage.googleapis.com"
HF_URL = "https://huggingface.co"
HF_ROUTER_URL = "https://router.huggingface.co"
HF_VIDEO_MODEL = "Wan-AI/Wan2.2-TI2V-5B"
HF_IMAGE_MODEL = "black-forest-labs/FLUX.1-dev"


class Secret:
    """A text that does not print itself; `reveal` is the only way to it.

    It may be given as a function that gets it, called when it is first revealed.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str | Callable[[], str]) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text. Hand it to its own server and to nothing else.

        Raises:
            SetupNeeded: it is to come from the keyring, and does not.

        """
        if not isinstance(self._text, str):
            self._text = self._text()
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.reveal() == self.reveal()

    def __hash__(self) -> int:
        return hash(self.reveal())

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not to be pickled")


@dataclass(frozen=True)
class Settings:
    """Everything that can be set. Immutable; build it with `load`."""

    home: Path
    backend: str | None = None
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


@dataclass(frozen=True)
class DevStack:
    """What `pennyreel dev` wrote into dev.json: an emulated RunPod on this machine."""

    base_url: str
    endpoint: str
    api_key: Secret
    pid: int
    s3: S3 | None = None


class Field(NamedTuple):
    """One setting: its place in the environment and in the file."""

    env: str
    toml: str
    kind: str
    help: str


class Origin(NamedTuple):
    """A setting's value, and who says so."""

    value: Any
    origin: str
    """argument, environment, file, keyring or default."""


FIELDS: dict[str, Field] = {
    "home": Field("PENNYREEL_HOME", "home", "path", "where pennyreel keeps its things"),
    "backend": Field("PENNYREEL_BACKEND", "backend", "text", "comfyui, runpod, dev; none = choose"),
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


def load(environ: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
    """Read the settings.

    Args:
        environ: instead of the process's own environment.
        overrides: fields of `Settings`; None means not given.

    Raises:
        SetupNeeded: the file cannot be read, or it or `overrides` name a setting we do not have.

    """
    found, file = _found(environ, overrides)
    values: dict[str, Any] = {name: one.value for name, one in found.items()}
    return Settings(**values, config_file=file if file.is_file() else None)


def origins(environ: Mapping[str, str] | None = None, **overrides: Any) -> dict[str, Origin]:
    """Return every setting of `FIELDS` with its value and origin; see `load`."""
    found, _ = _found(environ, overrides)
    usual = Settings(home=Path())
    return {name: found.get(name) or Origin(getattr(usual, name), "default") for name in FIELDS}


def file_path(environ: Mapping[str, str] | None = None) -> Path:
    """Return where the config file is, or would be."""
    return _config_file(os.environ if environ is None else environ)


def field_name(text: str) -> str:
    """Return a setting's name for its name, its variable or its place in the file.

    Raises:
        SetupNeeded: there is no such setting.

    """
    for name, field in FIELDS.items():
        if text in {name, field.env, field.toml}:
            return name
    raise _unknown(text, FIELDS, "pennyreel")


def checked(name: str, text: str) -> str | Secret:
    """Return a setting's value as the file would have it; raises SetupNeeded where it is wrong."""
    field = FIELDS[name]
    value = _convert(text, field.kind, name)
    return value if isinstance(value, (str, Secret)) else text


def _found(
    environ: Mapping[str, str] | None, overrides: Mapping[str, Any]
) -> tuple[dict[str, Origin], Path]:
    """Return what is said by whom, the nearest word of each, and the file's place."""
    env = os.environ if environ is None else environ
    file = _config_file(env)
    found = {
        name: Origin(value, "keyring" if isinstance(value, _Kept) else "file")
        for name, value in _from_file(file, named=bool(env.get(CONFIG_ENV))).items()
    }
    for name, field in FIELDS.items():
        if env.get(field.env):
            found[name] = Origin(_convert(env[field.env], field.kind, field.env), "environment")
    for name, value in overrides.items():
        if name not in FIELDS:
            raise _unknown(name, FIELDS, "pennyreel")
        if value is not None:
            found[name] = Origin(_convert(value, FIELDS[name].kind, name), "argument")
    usual = Path(platformdirs.user_data_dir("pennyreel", appauthor=False))
    home = found.get("home", Origin(usual, "default"))
    found["home"] = home._replace(value=home.value.expanduser().absolute())
    return found, file


class _Kept(Secret):
    """A secret that the file says is in the keyring."""

    __slots__ = ()


def dev_stack(home: Path) -> DevStack | None:
    """Return the emulated RunPod that `pennyreel dev` says it runs, or None."""
    try:
        data = json.loads((home / "dev.json").read_text(encoding="utf-8"))
        s3 = data.get("s3")
        return DevStack(
            base_url=str(data["base_url"]),
            endpoint=str(data["endpoint"]),
            api_key=Secret(str(data["api_key"])),
            pid=int(data["pid"]),
            s3=None if not s3 else _dev_s3(s3),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def key_may_travel(url: str) -> bool:
    """Whether a key may be sent to this address: https, or http that stays on this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(url))


def well_formed(url: str, schemes: Collection[str] = ("http", "https")) -> bool:
    """Whether a text is a URL that every library reads the same way."""
    try:
        parts = urlsplit(url)
        ported = parts.port is None or parts.port > 0
    except ValueError:
        return False
    spaceless = url.isprintable() and not any(c.isspace() for c in url)
    return ported and spaceless and parts.scheme in schemes and bool(parts.hostname)


def is_loopback(url: str) -> bool:
    """Whether a URL names this very machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _dev_s3(data: Mapping[str, Any]) -> S3:
    key, secret = data.get("key"), data.get("secret")
    return S3(
        endpoint=data.get("endpoint"),
        bucket=str(data["bucket"]),
        key=None if key is None else Secret(str(key)),
        secret=None if secret is None else Secret(str(secret)),
        region=data.get("region"),
    )


def _config_file(env: Mapping[str, str]) -> Path:
    if env.get(CONFIG_ENV):
        return Path(env[CONFIG_ENV]).expanduser()
    return Path(platformdirs.user_config_dir("pennyreel", appauthor=False)) / "config.toml"


def _from_file(file: Path, *, named: bool) -> dict[str, Any]:
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not named:
            return {}
        raise error(
            Code.NOT_CONFIGURED,
            f"{CONFIG_ENV} names {file}, and there is no such file",
            hint=f"Write it, or unset {CONFIG_ENV}.",
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        # A parser may quote the line it failed at, and that line may hold a key.
        where = getattr(problem, "lineno", None)
        raise error(
            Code.NOT_CONFIGURED,
            f"{file} cannot be read ({type(problem).__name__}{f', line {where}' if where else ''})",
            hint=f"Correct or remove {file}.",
        ) from None
    places = {field.toml: name for name, field in FIELDS.items()}
    prices = data.pop("prices", None)
    values = {} if prices is None else {"prices": prices}
    for place, value in _flatten(data):
        if place not in places:
            raise _unknown(place, places, str(file))
        name = places[place]
        kept = _in_keyring(name, value)
        values[name] = kept or _convert(value, FIELDS[name].kind, place)
    return values


def _in_keyring(name: str, value: Any) -> Secret | None:
    """Return the secret that `{ keyring = "SERVICE" }` stands for; it is read when it is used."""
    field = FIELDS[name]
    service = value.get("keyring") if isinstance(value, dict) and len(value) == 1 else None
    if field.kind != "secret" or not isinstance(service, str) or not service:
        return None
    return _Kept(lambda: _secret(keys.read(name, service, field.env), field.toml).reveal())


def _flatten(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in data.items():
        if isinstance(value, dict):
            found += [(f"{key}.{inner}", v) for inner, v in value.items()]
        else:
            found.append((key, value))
    return found


def _convert(value: Any, kind: str, place: str) -> Any:
    if kind == "path" and isinstance(value, (str, os.PathLike)):
        return Path(value).expanduser()
    if kind == "secret" and isinstance(value, (str, Secret)):
        return _secret(value, place)
    if kind == "url" and isinstance(value, str):
        return _url(value, place)
    if isinstance(value, str):
        return value
    raise error(
        Code.NOT_CONFIGURED,
        f"{place} must be a text, not {type(value).__name__}",
        hint=f"Write {place} as a text.",
    )


def _secret(value: str | Secret, place: str) -> Secret:
    """Drop the white space around a key; refuse what no header can carry, without quoting it."""
    text = (value.reveal() if isinstance(value, Secret) else value).strip()
    if not (text.isascii() and text.isprintable()):
        raise error(
            Code.NOT_CONFIGURED,
            f"{place} holds characters that no key has (control characters, or other than ASCII)",
            hint=f"Copy the key anew into {place}.",
        )
    return Secret(text)


def _url(value: str, place: str) -> str:
    text = value.strip()
    if not well_formed(text):  # not quoted: it may hold a password
        raise error(
            Code.NOT_CONFIGURED,
            f"{place} is no http(s) URL",
            hint=f"Write {place} like {COMFYUI_URL} or https://host.example/path",
        )
    return text


def _unknown(name: str, known: Mapping[str, Any], where: str) -> Exception:
    near = difflib.get_close_matches(name, known, 1)
    return error(
        Code.NOT_CONFIGURED,
        f"{where} has no setting {name!r}",
        hint=f"Did you mean {near[0]}?" if near else f"Known: {', '.join(sorted(known))}",
    )
