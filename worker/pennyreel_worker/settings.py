"""Everything that an operator can set: the only reader of the environment.

Names of the stock worker (BUCKET_*, COMFY_ORG_API_KEY, REFRESH_WORKER, COMFY_API_AVAILABLE_*,
WEBSOCKET_RECONNECT_*) mean what they mean there. README.md lists all of them.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pennyreel_contract import Code, error

DEFAULT_ROOT = Path("/comfyui")


@dataclass(frozen=True)
class Bucket:
    """Where results go in S3. `bucket` None: one a month, as the stock worker does."""

    endpoint_url: str | None
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    bucket: str | None = None
    region: str | None = None
    addressing: str = "auto"

    @property
    def presigns(self) -> bool:
        """RunPod's own volumes speak S3 but take no presigned URLs."""
        host = urlsplit(self.endpoint_url or "").hostname or ""
        return not (host.startswith("s3api-") and host.endswith(".runpod.io"))


@dataclass(frozen=True)
class Settings:
    """The worker's configuration. See `from_env` for names and defaults."""

    comfy_root: Path = DEFAULT_ROOT
    comfy_command: tuple[str, ...] | None = None
    work_dir: Path | None = None
    concurrency: int = 1
    bucket: Bucket | None = None
    key_template: str = "pennyreel/{attempt_id}/{name}"
    results_prefix: str = "results/"
    default_timeout_s: float = 3600.0
    max_timeout_s: float = 86_400.0
    start_s: float = 180.0
    down_grace_s: float = 15.0
    input_max_bytes: int = 5 * 1024**3
    input_timeout_s: float = 600.0
    allow_hosts: frozenset[str] = frozenset()
    inline_max_bytes: int | None = None
    refresh_worker: bool = False
    previews: bool = False
    comfy_org_api_key: str | None = field(default=None, repr=False)
    template_dirs: tuple[Path, ...] = ()
    worker_id: str = "local"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Settings:
        """Read the environment.

        Raises:
            SetupNeeded: a value cannot be read; names the variable.

        """
        read = _Reader(env)
        command = read.text("PENNYREEL_COMFYUI_COMMAND")
        work = read.text("PENNYREEL_WORK_DIR")
        return cls(
            comfy_root=Path(read.text("PENNYREEL_COMFYUI_ROOT") or DEFAULT_ROOT),
            comfy_command=_command(command) if command else None,
            work_dir=Path(work) if work else None,
            concurrency=read.integer("PENNYREEL_CONCURRENCY", 1, least=1),
            bucket=_bucket(read),
            key_template=_key_template(read.text("PENNYREEL_S3_KEY_TEMPLATE")),
            default_timeout_s=read.number("PENNYREEL_JOB_TIMEOUT_S", 3600.0),
            max_timeout_s=read.number("PENNYREEL_JOB_TIMEOUT_MAX_S", 86_400.0),
            start_s=_start_s(read),
            down_grace_s=_down_grace_s(read),
            input_max_bytes=read.integer("PENNYREEL_INPUT_MAX_BYTES", 5 * 1024**3),
            input_timeout_s=read.number("PENNYREEL_INPUT_TIMEOUT_S", 600.0),
            allow_hosts=frozenset(
                h.strip().lower()
                for h in read.text("PENNYREEL_ALLOW_HOSTS").split(",")
                if h.strip()
            ),
            inline_max_bytes=read.integer("PENNYREEL_INLINE_MAX_BYTES", 0) or None,
            refresh_worker=read.flag("REFRESH_WORKER"),
            previews=read.flag("PENNYREEL_PREVIEWS"),
            comfy_org_api_key=read.text("COMFY_ORG_API_KEY") or None,
            template_dirs=tuple(Path(p) for p in read.text("PENNYREEL_TEMPLATES").split(":") if p),
            worker_id=read.text("RUNPOD_POD_ID") or "local",
        )

    def make_work_dir(self) -> Path:
        """Return the folder for this process's inputs and outputs, creating it."""
        if self.work_dir is None:
            return Path(tempfile.mkdtemp(prefix="pennyreel-worker-"))
        self.work_dir.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="worker-", dir=self.work_dir))


class _Reader:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str) -> str:
        return self._env.get(name, "").strip()

    def flag(self, name: str) -> bool:
        return self.text(name).lower() in {"1", "true", "yes", "on"}

    def number(self, name: str, default: float) -> float:
        value = self.text(name)
        if not value:
            return default
        try:
            number = float(value)
        except ValueError:
            raise _bad(name, value, "a number") from None
        if number < 0:
            raise _bad(name, value, "zero or more")
        return number

    def integer(self, name: str, default: int, *, least: int = 0) -> int:
        value = self.text(name)
        if not value:
            return default
        try:
            number = int(value)
        except ValueError:
            raise _bad(name, value, "a whole number") from None
        if number < least:
            raise _bad(name, value, f"at least {least}")
        return number


def _bad(name: str, value: str, wanted: str) -> Exception:
    return error(
        Code.NOT_CONFIGURED,
        f"{name}={value!r} must be {wanted}",
        hint=f"Set {name} in the endpoint's environment, or remove it.",
    )


def _command(value: str) -> tuple[str, ...]:
    try:
        parts = json.loads(value)
    except ValueError:
        parts = None
    if not isinstance(parts, list) or not all(isinstance(p, str) for p in parts) or not parts:
        raise _bad("PENNYREEL_COMFYUI_COMMAND", value, 'a JSON list such as ["python", "main.py"]')
    return tuple(parts)


def _key_template(value: str) -> str:
    if not value:
        return Settings.key_template
    try:
        example = value.format(attempt_id="a", name="n", job_id="j", date="d", kind="k")
    except (KeyError, IndexError, ValueError):
        raise _bad(
            "PENNYREEL_S3_KEY_TEMPLATE", value, "made of {attempt_id} {job_id} {name} {kind} {date}"
        ) from None
    if "{name}" not in value or ("{attempt_id}" not in value and "{job_id}" not in value):
        # Otherwise two jobs, or two files of one, would overwrite each other.
        raise _bad("PENNYREEL_S3_KEY_TEMPLATE", value, "with {name} and {attempt_id} or {job_id}")
    if example.startswith("/") or ".." in example.split("/"):
        raise _bad("PENNYREEL_S3_KEY_TEMPLATE", value, "a relative key")
    return value


def _start_s(read: _Reader) -> float:
    """PENNYREEL_COMFYUI_START_S, else the stock worker's retries x interval where both are set."""
    retries = read.integer("COMFY_API_AVAILABLE_MAX_RETRIES", 0)
    interval = read.integer("COMFY_API_AVAILABLE_INTERVAL_MS", 50)
    stock = retries * interval / 1000 if retries else 180.0
    return read.number("PENNYREEL_COMFYUI_START_S", stock)


def _down_grace_s(read: _Reader) -> float:
    """As long as the stock worker's reconnect attempts would take (5 x 3 s)."""
    attempts = read.integer("WEBSOCKET_RECONNECT_ATTEMPTS", 5)
    return attempts * read.number("WEBSOCKET_RECONNECT_DELAY_S", 3.0)


def _bucket(read: _Reader) -> Bucket | None:
    endpoint = read.text("BUCKET_ENDPOINT_URL")
    if not endpoint:
        return None
    key, secret = read.text("BUCKET_ACCESS_KEY_ID"), read.text("BUCKET_SECRET_ACCESS_KEY")
    missing = [
        name
        for name, value in (("BUCKET_ACCESS_KEY_ID", key), ("BUCKET_SECRET_ACCESS_KEY", secret))
        if not value
    ]
    if missing:
        raise error(
            Code.NOT_CONFIGURED,
            f"BUCKET_ENDPOINT_URL is set, but not {' and '.join(missing)}",
            hint="Set all three, or none to return results inline.",
        )
    return make_bucket(
        endpoint,
        key,
        secret,
        bucket=read.text("BUCKET_NAME") or None,
        region=read.text("BUCKET_REGION") or None,
        addressing=read.text("BUCKET_ADDRESSING") or "auto",
    )


def make_bucket(
    endpoint: str,
    key: str,
    secret: str,
    *,
    bucket: str | None = None,
    region: str | None = None,
    addressing: str = "auto",
) -> Bucket:
    """Read an endpoint as people write it: plain, with the bucket as host, or with it as path.

    `https://shots.s3.eu-west-1.amazonaws.com` names bucket and region, as the stock worker's
    documentation asks for; `https://host/shots` names the bucket.
    """
    parts = urlsplit(endpoint)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise error(Code.NOT_CONFIGURED, "BUCKET_ENDPOINT_URL is not an http(s) URL")
    host, path = parts.hostname, parts.path.strip("/")
    labels = host.split(".")
    if host.endswith(".amazonaws.com") and "s3" in labels:
        at = labels.index("s3")
        bucket = bucket or (".".join(labels[:at]) or None)
        region = region or (labels[at + 1] if labels[at + 1] != "amazonaws" else None)
        return Bucket(None, key, secret, bucket, region, addressing)
    if path and bucket is None:
        bucket = path.split("/")[0]
    origin = f"{parts.scheme}://{parts.netloc}"
    if host.endswith(".r2.cloudflarestorage.com"):
        region = region or "auto"
    elif host.startswith("s3api-") and host.endswith(".runpod.io"):
        region = region or host[len("s3api-") :].split(".")[0].upper()
        addressing = "path"
    elif ".s3." in host:  # DigitalOcean-like: bucket.s3.region.host
        region = region or host.split(".s3.")[1].split(".")[0]
    return Bucket(origin, key, secret, bucket, region or "us-east-1", addressing)
