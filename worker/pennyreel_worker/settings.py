"""Everything that an operator can set: the only reader of the environment.

Names of the stock worker (BUCKET_*, COMFY_ORG_API_KEY, REFRESH_WORKER, COMFY_API_AVAILABLE_*,
WEBSOCKET_RECONNECT_*, COMFY_LOG_LEVEL, SERVE_API_LOCALLY) mean what they mean there.
docs/worker.md lists all of them.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pennyreel_contract import Code, error
from pennyreel_worker.buckets import ADDRESSING, Bucket, make_bucket

DEFAULT_ROOT = Path("/comfyui")
START_S = 180.0
MAX_HELD = 2
"""Jobs that a worker has at most: one on the GPU, one being prepared or delivered."""

MAX_USD_PER_S = 0.1
"""No machine costs as much; a price per hour, which is what most pages show, would be above it."""

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"", "0", "false", "no", "off"}
_PAIR = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]/@:*?]+):[1-9][0-9]{0,4}")
_LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


@dataclass(frozen=True)
class Settings:
    """The worker's configuration. See `from_env` for names and defaults."""

    comfy_root: Path = DEFAULT_ROOT
    comfy_command: tuple[str, ...] | None = None
    comfy_options: tuple[str, ...] = ()
    work_dir: Path | None = None
    hold: int = MAX_HELD
    lead_s: float | None = None
    stall_s: float = 900.0
    drain_s: float = 60.0
    least_free_bytes: int = 256 * 1024**2
    bucket: Bucket | None = None
    key_template: str = "pennyreel/{attempt_id}/{name}"
    results_prefix: str = "results/"
    default_timeout_s: float = 3600.0
    max_timeout_s: float = 86_400.0
    start_s: float = START_S
    down_grace_s: float = 15.0
    input_max_bytes: int = 5 * 1024**3
    input_timeout_s: float = 600.0
    allow_hosts: frozenset[str] = frozenset()
    allow_nodes: frozenset[str] = frozenset()
    model_roots: tuple[Path, ...] = ()
    model_lists: tuple[Path, ...] = ()
    model_dir: Path | None = None
    model_hosts: frozenset[str] = frozenset()
    model_max_bytes: int = 50 * 1024**3
    model_disk_bytes: int = 100 * 1024**3
    hf_token: str | None = field(default=None, repr=False)
    civitai_token: str | None = field(default=None, repr=False)
    warmup: str | None = None
    prefetch: tuple[str, ...] = ()
    gpu_usd_per_s: float | None = None
    cuda_devices: str | None = None
    log_format: str = "text"
    inline_max_bytes: int | None = None
    refresh_worker: bool = False
    previews: bool = False
    serve_api: bool = False
    comfy_log_level: str | None = None
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
        options = read.text("PENNYREEL_COMFYUI_OPTIONS")
        work = read.text("PENNYREEL_WORK_DIR")
        refresh = read.flag("REFRESH_WORKER")
        return cls(
            comfy_root=Path(read.text("PENNYREEL_COMFYUI_ROOT") or DEFAULT_ROOT),
            comfy_command=_command("PENNYREEL_COMFYUI_COMMAND", command) if command else None,
            comfy_options=_command("PENNYREEL_COMFYUI_OPTIONS", options) if options else (),
            work_dir=Path(work) if work else None,
            # A refresh stops the whole pod: it would take a second job with it.
            hold=1 if refresh else _hold(read),
            lead_s=read.number("PENNYREEL_LEAD_S", 0) if read.text("PENNYREEL_LEAD_S") else None,
            stall_s=read.seconds("PENNYREEL_STALL_S", 900.0),
            drain_s=read.number("PENNYREEL_DRAIN_S", 60.0),
            least_free_bytes=read.integer("PENNYREEL_LEAST_FREE_BYTES", 256 * 1024**2),
            bucket=_bucket(read),
            key_template=_key_template(read.text("PENNYREEL_S3_KEY_TEMPLATE")),
            default_timeout_s=read.seconds("PENNYREEL_JOB_TIMEOUT_S", 3600.0),
            max_timeout_s=read.seconds("PENNYREEL_JOB_TIMEOUT_MAX_S", 86_400.0),
            start_s=_start_s(read),
            down_grace_s=_down_grace_s(read),
            input_max_bytes=read.integer("PENNYREEL_INPUT_MAX_BYTES", 5 * 1024**3, least=1),
            input_timeout_s=read.seconds("PENNYREEL_INPUT_TIMEOUT_S", 600.0),
            allow_hosts=_allow_hosts(read),
            allow_nodes=frozenset(read.parts("PENNYREEL_ALLOW_NODES", ",")),
            **_models(read),
            warmup=read.text("PENNYREEL_WARMUP") or None,
            prefetch=read.parts("PENNYREEL_PREFETCH", ","),
            gpu_usd_per_s=_price(read),
            cuda_devices=read.text("CUDA_VISIBLE_DEVICES") or None,
            log_format=read.choice("PENNYREEL_LOG_FORMAT", ("text", "json")) or "text",
            inline_max_bytes=read.integer("PENNYREEL_INLINE_MAX_BYTES", 0) or None,
            refresh_worker=refresh,
            previews=read.flag("PENNYREEL_PREVIEWS"),
            serve_api=read.flag("SERVE_API_LOCALLY"),
            comfy_log_level=read.choice("COMFY_LOG_LEVEL", _LOG_LEVELS) or None,
            comfy_org_api_key=read.text("COMFY_ORG_API_KEY") or None,
            template_dirs=tuple(Path(p) for p in read.parts("PENNYREEL_TEMPLATES", ":")),
            worker_id=read.text("RUNPOD_POD_ID") or "local",
        )

    def make_work_dir(self) -> Path:
        """Return the folder for this process's inputs and outputs, creating it."""
        try:
            if self.work_dir is None:
                return Path(tempfile.mkdtemp(prefix="pennyreel-worker-"))
            self.work_dir.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix="worker-", dir=self.work_dir))
        except OSError as problem:
            place = self.work_dir or "the temporary folder"
            raise error(
                Code.NOT_CONFIGURED,
                f"there can be no folder for jobs in {place}: {problem.strerror}",
                hint="Set PENNYREEL_WORK_DIR to a folder that can be written to.",
            ) from None


def _models(read: _Reader) -> dict[str, Any]:
    folder = read.text("PENNYREEL_MODEL_DIR")
    return {
        "model_roots": tuple(Path(p) for p in read.parts("PENNYREEL_MODEL_ROOTS", ":")),
        "model_lists": tuple(Path(p) for p in read.parts("PENNYREEL_MODEL_LISTS", ":")),
        "model_dir": Path(folder) if folder else None,
        "model_hosts": frozenset(h.lower() for h in read.parts("PENNYREEL_MODEL_HOSTS", ",")),
        "model_max_bytes": read.integer("PENNYREEL_MODEL_MAX_BYTES", 50 * 1024**3, least=1),
        "model_disk_bytes": read.integer("PENNYREEL_MODEL_DISK_BYTES", 100 * 1024**3, least=1),
        "hf_token": read.text("HF_TOKEN") or None,
        "civitai_token": read.text("CIVITAI_API_KEY") or None,
    }


class _Reader:
    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = env

    def text(self, name: str) -> str:
        return self._env.get(name, "").strip()

    def parts(self, name: str, separator: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in self.text(name).split(separator) if part.strip())

    def flag(self, name: str) -> bool:
        value = self.text(name).lower()
        if value not in _TRUE | _FALSE:
            raise _bad(name, value, "true or false")
        return value in _TRUE

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        value = self.text(name)
        found = next((c for c in choices if c.lower() == value.lower()), "")
        if value and not found:
            raise _bad(name, value, "one of " + ", ".join(choices))
        return found

    def number(self, name: str, default: float) -> float:
        value = self.text(name)
        if not value:
            return default
        try:
            number = float(value)
        except ValueError:
            raise _bad(name, value, "a number") from None
        if not math.isfinite(number) or number < 0:
            raise _bad(name, value, "zero or more")
        return number

    def seconds(self, name: str, default: float) -> float:
        number = self.number(name, default)
        if number <= 0:
            raise _bad(name, self.text(name), "more than zero seconds")
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


def _command(name: str, value: str) -> tuple[str, ...]:
    try:
        parts = json.loads(value)
    except ValueError:
        parts = None
    if not isinstance(parts, list) or not all(isinstance(p, str) for p in parts) or not parts:
        raise _bad(name, value, 'a JSON list of texts, such as ["python", "main.py"]')
    return tuple(parts)


def _hold(read: _Reader) -> int:
    held = read.integer("PENNYREEL_CONCURRENCY", MAX_HELD, least=1)
    if held > MAX_HELD:
        raise _bad("PENNYREEL_CONCURRENCY", str(held), "1 or 2: only one job is on the GPU")
    return held


def _price(read: _Reader) -> float | None:
    text = read.text("PENNYREEL_GPU_USD_PER_S")
    price = read.number("PENNYREEL_GPU_USD_PER_S", 0)
    if price > MAX_USD_PER_S:
        raise _bad("PENNYREEL_GPU_USD_PER_S", text, "dollars per second, such as 0.00019")
    return price if text else None


def _allow_hosts(read: _Reader) -> frozenset[str]:
    """Read pairs of host and port. Anything else would allow nothing, or more than it says."""
    hosts = read.parts("PENNYREEL_ALLOW_HOSTS", ",")
    for host in hosts:
        if not _PAIR.fullmatch(host):
            wanted = "made of host:port pairs such as minio.lan:9000 or [fd00::1]:9000"
            raise _bad("PENNYREEL_ALLOW_HOSTS", host, wanted)
    return frozenset(host.lower().replace("[", "").replace("]", "") for host in hosts)


def _key_template(value: str) -> str:
    if not value:
        return Settings.key_template
    try:
        example = value.format(attempt_id="a", name="n", job_id="j", date="d", kind="k")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
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
    """PENNYREEL_COMFYUI_START_S, else 180 s, else what the stock worker's retries come to.

    Never less than 180 s by those: the stock worker ignores them while its ComfyUI lives, so that
    a customary 500 x 50 ms never ended a cold start there.
    """
    retries = read.integer("COMFY_API_AVAILABLE_MAX_RETRIES", 0)
    interval = read.integer("COMFY_API_AVAILABLE_INTERVAL_MS", 50)
    return read.seconds("PENNYREEL_COMFYUI_START_S", max(START_S, retries * interval / 1000))


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
    try:
        return make_bucket(
            endpoint,
            key,
            secret,
            bucket=read.text("BUCKET_NAME") or None,
            region=read.text("BUCKET_REGION") or None,
            addressing=read.choice("BUCKET_ADDRESSING", ADDRESSING) or "auto",
            attempts=read.integer("PENNYREEL_S3_ATTEMPTS", 0) or None,
        )
    except ValueError as problem:
        raise error(
            Code.NOT_CONFIGURED,
            f"BUCKET_ENDPOINT_URL {problem}",
            hint="Correct BUCKET_ENDPOINT_URL in the endpoint's environment.",
        ) from None
