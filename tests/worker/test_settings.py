"""The environment: every name, every default, every bad value named; and docs/worker.md's table."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pennyreel_contract import SetupNeeded
from pennyreel_worker import settings as module
from pennyreel_worker.buckets import Bucket, make_bucket
from pennyreel_worker.settings import Settings

SOURCE = Path(module.__file__ or "").read_text("utf-8")
DOC = Path(__file__).parents[2] / "docs" / "worker.md"
KEYS = {"BUCKET_ACCESS_KEY_ID": "AKIA", "BUCKET_SECRET_ACCESS_KEY": "hidden-secret"}
NAMES = set(
    re.findall(
        r'"((?:PENNYREEL|BUCKET|COMFY|RUNPOD|WEBSOCKET|REFRESH|SERVE|HF|CIVITAI|CUDA)_[A-Z0-9_]+)"',
        SOURCE,
    )
)

GOOD: list[tuple[dict[str, str], str, Any]] = [
    ({"PENNYREEL_COMFYUI_ROOT": "/opt/c"}, "comfy_root", Path("/opt/c")),
    ({"PENNYREEL_COMFYUI_COMMAND": '["a", "b"]'}, "comfy_command", ("a", "b")),
    ({"PENNYREEL_WORK_DIR": "/w"}, "work_dir", Path("/w")),
    ({"PENNYREEL_COMFYUI_OPTIONS": '["--fast"]'}, "comfy_options", ("--fast",)),
    ({"PENNYREEL_CONCURRENCY": "1"}, "hold", 1),
    ({"PENNYREEL_LEAD_S": "0"}, "lead_s", 0.0),
    ({"PENNYREEL_STALL_S": "5"}, "stall_s", 5.0),
    ({"PENNYREEL_DRAIN_S": "0"}, "drain_s", 0.0),
    ({"PENNYREEL_LEAST_FREE_BYTES": "0"}, "least_free_bytes", 0),
    ({"PENNYREEL_ALLOW_NODES": "A, B"}, "allow_nodes", frozenset({"A", "B"})),
    ({"PENNYREEL_MODEL_ROOTS": "/a:/b"}, "model_roots", (Path("/a"), Path("/b"))),
    ({"PENNYREEL_MODEL_LISTS": "/a:/b"}, "model_lists", (Path("/a"), Path("/b"))),
    ({"PENNYREEL_MODEL_DIR": "/m"}, "model_dir", Path("/m")),
    ({"PENNYREEL_MODEL_HOSTS": "Example.com"}, "model_hosts", frozenset({"example.com"})),
    ({"PENNYREEL_MODEL_MAX_BYTES": "7"}, "model_max_bytes", 7),
    ({"PENNYREEL_MODEL_DISK_BYTES": "7"}, "model_disk_bytes", 7),
    ({"HF_TOKEN": "t"}, "hf_token", "t"),
    ({"CIVITAI_API_KEY": "t"}, "civitai_token", "t"),
    ({"PENNYREEL_WARMUP": "hello-video"}, "warmup", "hello-video"),
    ({"PENNYREEL_PREFETCH": "a.safetensors,b"}, "prefetch", ("a.safetensors", "b")),
    ({"PENNYREEL_GPU_USD_PER_S": "0.00019"}, "gpu_usd_per_s", 0.00019),
    ({"CUDA_VISIBLE_DEVICES": "1"}, "cuda_devices", "1"),
    ({"PENNYREEL_LOG_FORMAT": "JSON"}, "log_format", "json"),
    ({"PENNYREEL_S3_KEY_TEMPLATE": "x/{job_id}/{name}"}, "key_template", "x/{job_id}/{name}"),
    ({"PENNYREEL_JOB_TIMEOUT_S": "1.5"}, "default_timeout_s", 1.5),
    ({"PENNYREEL_JOB_TIMEOUT_MAX_S": "9"}, "max_timeout_s", 9.0),
    ({"PENNYREEL_COMFYUI_START_S": "5"}, "start_s", 5.0),
    ({"COMFY_API_AVAILABLE_MAX_RETRIES": "500"}, "start_s", 180.0),  # 25 s never ended a start
    (
        {"COMFY_API_AVAILABLE_MAX_RETRIES": "600", "COMFY_API_AVAILABLE_INTERVAL_MS": "1000"},
        "start_s", 600.0,
    ),
    ({"WEBSOCKET_RECONNECT_ATTEMPTS": "2"}, "down_grace_s", 6.0),
    ({"WEBSOCKET_RECONNECT_DELAY_S": "1"}, "down_grace_s", 5.0),
    ({"PENNYREEL_INPUT_MAX_BYTES": "7"}, "input_max_bytes", 7),
    ({"PENNYREEL_INPUT_TIMEOUT_S": "7"}, "input_timeout_s", 7.0),
    ({"PENNYREEL_ALLOW_HOSTS": "A:1, b:2,"}, "allow_hosts", frozenset({"a:1", "b:2"})),
    ({"PENNYREEL_ALLOW_HOSTS": "[FD00::1]:90"}, "allow_hosts", frozenset({"fd00::1:90"})),
    ({"PENNYREEL_INLINE_MAX_BYTES": "9"}, "inline_max_bytes", 9),
    ({"REFRESH_WORKER": "TRUE"}, "refresh_worker", True),
    ({"PENNYREEL_PREVIEWS": "1"}, "previews", True),
    ({"SERVE_API_LOCALLY": "true"}, "serve_api", True),
    ({"COMFY_LOG_LEVEL": "warning"}, "comfy_log_level", "WARNING"),
    ({"COMFY_ORG_API_KEY": "k"}, "comfy_org_api_key", "k"),
    ({"PENNYREEL_TEMPLATES": "/a:/b"}, "template_dirs", (Path("/a"), Path("/b"))),
    ({"RUNPOD_POD_ID": "w"}, "worker_id", "w"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("env", "field", "value"), GOOD, ids=lambda v: next(iter(v), "") if isinstance(v, dict) else ""
)
def test_every_name_is_read(env: dict[str, str], field: str, value: object) -> None:
    assert getattr(Settings.from_env(env), field) == value
    assert getattr(Settings.from_env({}), field) != value or field == "start_s"


@pytest.mark.parametrize(
    ("env", "field", "value"),
    [
        ({"BUCKET_NAME": "b"}, "bucket", "b"),
        ({"BUCKET_REGION": "eu-west-1"}, "region", "eu-west-1"),
        ({"BUCKET_ADDRESSING": "path"}, "addressing", "path"),
        ({"PENNYREEL_S3_ATTEMPTS": "2"}, "attempts", 2),
        ({}, "endpoint_url", "http://h:9000"),
        ({}, "access_key_id", "AKIA"),
        ({}, "secret_access_key", "hidden-secret"),
    ],
)
def test_every_name_of_the_bucket_is_read(env: dict[str, str], field: str, value: object) -> None:
    read = Settings.from_env({"BUCKET_ENDPOINT_URL": "http://h:9000/", **KEYS, **env})
    assert getattr(read.bucket, field) == value


def test_no_name_goes_untested() -> None:
    tested = {name for env, _, _ in GOOD for name in env}
    bucket = {n for n in NAMES if n.startswith("BUCKET_")} | {"PENNYREEL_S3_ATTEMPTS"}
    assert tested | bucket == NAMES


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PENNYREEL_COMFYUI_COMMAND", "python main.py"),
        ("PENNYREEL_COMFYUI_COMMAND", "[]"),
        ("PENNYREEL_COMFYUI_COMMAND", "[1]"),
        ("PENNYREEL_CONCURRENCY", "0"),
        ("PENNYREEL_CONCURRENCY", "two"),
        ("PENNYREEL_CONCURRENCY", "3"),
        ("PENNYREEL_COMFYUI_OPTIONS", "--fast"),
        ("PENNYREEL_LEAD_S", "-1"),
        ("PENNYREEL_STALL_S", "0"),
        ("PENNYREEL_DRAIN_S", "soon"),
        ("PENNYREEL_LEAST_FREE_BYTES", "1GB"),
        ("PENNYREEL_MODEL_MAX_BYTES", "0"),
        ("PENNYREEL_MODEL_DISK_BYTES", "big"),
        ("PENNYREEL_GPU_USD_PER_S", "-1"),
        ("PENNYREEL_LOG_FORMAT", "xml"),
        ("PENNYREEL_JOB_TIMEOUT_S", "0"),
        ("PENNYREEL_JOB_TIMEOUT_S", "nan"),
        ("PENNYREEL_JOB_TIMEOUT_MAX_S", "inf"),
        ("PENNYREEL_COMFYUI_START_S", "-1"),
        ("PENNYREEL_INPUT_MAX_BYTES", "0"),
        ("PENNYREEL_INPUT_MAX_BYTES", "5GB"),
        ("PENNYREEL_INPUT_TIMEOUT_S", "soon"),
        ("PENNYREEL_ALLOW_HOSTS", "*"),
        ("PENNYREEL_ALLOW_HOSTS", "*:443"),
        ("PENNYREEL_ALLOW_HOSTS", "minio.lan"),
        ("PENNYREEL_ALLOW_HOSTS", "a:1, minio.lan"),
        ("PENNYREEL_ALLOW_HOSTS", "http://minio.lan:9000"),
        ("PENNYREEL_ALLOW_HOSTS", "minio.lan:9000/bucket"),
        ("PENNYREEL_ALLOW_HOSTS", "minio.lan:0"),
        ("PENNYREEL_ALLOW_HOSTS", "::1"),
        ("PENNYREEL_INLINE_MAX_BYTES", "-1"),
        ("PENNYREEL_PREVIEWS", "maybe"),
        ("REFRESH_WORKER", "perhaps"),
        ("COMFY_LOG_LEVEL", "LOUD"),
        ("COMFY_API_AVAILABLE_MAX_RETRIES", "x"),
        ("COMFY_API_AVAILABLE_INTERVAL_MS", "x"),
        ("WEBSOCKET_RECONNECT_ATTEMPTS", "x"),
        ("WEBSOCKET_RECONNECT_DELAY_S", "x"),
        ("PENNYREEL_S3_KEY_TEMPLATE", "{attempt_id}"),
        ("PENNYREEL_S3_KEY_TEMPLATE", "{name}"),
        ("PENNYREEL_S3_KEY_TEMPLATE", "{user}/{job_id}/{name}"),
        ("PENNYREEL_S3_KEY_TEMPLATE", "{job_id.x}/{name}"),
        ("PENNYREEL_S3_KEY_TEMPLATE", "/{job_id}/{name}"),
        ("PENNYREEL_S3_KEY_TEMPLATE", "../{job_id}/{name}"),
        ("BUCKET_ENDPOINT_URL", "s3.amazonaws.com"),
        ("BUCKET_ENDPOINT_URL", "http://[::1"),
        ("BUCKET_ENDPOINT_URL", "http://h:port"),
        ("BUCKET_ENDPOINT_URL", "https://user:hidden-secret@h"),
        ("BUCKET_ADDRESSING", "dns"),
        ("PENNYREEL_S3_ATTEMPTS", "x"),
    ],
)
def test_a_bad_value_names_its_variable(name: str, value: str) -> None:
    env = {"BUCKET_ENDPOINT_URL": "http://h", **KEYS, name: value}
    with pytest.raises(SetupNeeded) as caught:
        Settings.from_env(env)
    assert caught.value.code == "not_configured"
    assert name in str(caught.value)
    assert name in caught.value.hint or "BUCKET" in name
    assert "hidden-secret" not in caught.value.info.encode()


def test_half_a_bucket_names_the_missing_half() -> None:
    with pytest.raises(SetupNeeded, match="BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY"):
        Settings.from_env({"BUCKET_ENDPOINT_URL": "http://h"})


def test_no_secret_shows_in_a_repr() -> None:
    read = Settings.from_env(
        {"BUCKET_ENDPOINT_URL": "http://h", **KEYS, "COMFY_ORG_API_KEY": "hidden-secret"}
    )
    assert "hidden-secret" not in repr(read)


def bucket(endpoint: str, **more: str) -> tuple[str | None, str | None, str | None, str, bool]:
    made: Bucket = make_bucket(endpoint, "k", "s", **more)  # type: ignore[arg-type]
    return made.endpoint_url, made.bucket, made.region, made.addressing, made.presigns


@pytest.mark.parametrize(
    ("endpoint", "origin", "name", "region"),
    [
        ("https://shots.s3.eu-west-1.amazonaws.com", None, "shots", "eu-west-1"),
        ("https://my.shots.s3.us-gov-west-1.amazonaws.com/", None, "my.shots", "us-gov-west-1"),
        ("https://s3.us-east-2.amazonaws.com", None, None, "us-east-2"),
        ("https://s3.us-east-2.amazonaws.com/shots", None, "shots", "us-east-2"),
        ("https://shots.s3.amazonaws.com", None, "shots", None),
        ("https://shots.s3-us-west-2.amazonaws.com", None, "shots", "us-west-2"),
        ("https://shots.s3.dualstack.us-west-2.amazonaws.com", None, "shots", "us-west-2"),
        ("https://shots.s3.cn-north-1.amazonaws.com.cn", None, "shots", "cn-north-1"),
        ("https://abc.r2.cloudflarestorage.com", "https://abc.r2.cloudflarestorage.com", None, "auto"),  # noqa: E501
        ("https://abc.r2.cloudflarestorage.com/shots", "https://abc.r2.cloudflarestorage.com", "shots", "auto"),  # noqa: E501
        ("https://s3.us-west-004.backblazeb2.com", "https://s3.us-west-004.backblazeb2.com", None, "us-west-004"),  # noqa: E501
        ("https://shots.s3.eu-central-1.wasabisys.com", "https://s3.eu-central-1.wasabisys.com", "shots", "eu-central-1"),  # noqa: E501
        ("https://shots.s3.fr-par.scw.cloud", "https://s3.fr-par.scw.cloud", "shots", "fr-par"),
        ("http://minio:9000", "http://minio:9000", None, "us-east-1"),
        ("http://minio:9000/shots/", "http://minio:9000", "shots", "us-east-1"),
        ("http://[::1]:9000/shots", "http://[::1]:9000", "shots", "us-east-1"),
        ("https://s3.example.com", "https://s3.example.com", None, "us-east-1"),
    ],
)  # fmt: skip
def test_endpoints_as_people_write_them(
    endpoint: str, origin: str | None, name: str | None, region: str | None
) -> None:
    assert bucket(endpoint) == (origin, name, region, "auto", True)


def test_what_is_given_goes_before_what_the_url_says() -> None:
    read = bucket("https://shots.s3.eu-west-1.amazonaws.com", bucket="b", region="r")
    assert read[1:3] == ("b", "r")


def test_runpods_volumes_take_paths_patience_and_no_signatures() -> None:
    url = "https://s3api-eu-ro-1.runpod.io/"
    assert bucket(url, bucket="vol") == (url[:-1], "vol", "EU-RO-1", "path", False)
    assert make_bucket(url, "k", "s").attempts == 10


def test_the_documented_table_is_the_code() -> None:
    text = DOC.read_text("utf-8")
    rows = dict(re.findall(r"^\| `([A-Z0-9_]+)` \| (.*?) \|", text, re.MULTILINE))
    assert set(rows) == NAMES
    defaults = Settings()
    shown = {
        "PENNYREEL_CONCURRENCY": defaults.hold,
        "PENNYREEL_STALL_S": int(defaults.stall_s),
        "PENNYREEL_DRAIN_S": int(defaults.drain_s),
        "PENNYREEL_LEAST_FREE_BYTES": defaults.least_free_bytes,
        "PENNYREEL_MODEL_MAX_BYTES": defaults.model_max_bytes,
        "PENNYREEL_MODEL_DISK_BYTES": defaults.model_disk_bytes,
        "PENNYREEL_LOG_FORMAT": defaults.log_format,
        "PENNYREEL_S3_KEY_TEMPLATE": defaults.key_template,
        "PENNYREEL_JOB_TIMEOUT_S": int(defaults.default_timeout_s),
        "PENNYREEL_JOB_TIMEOUT_MAX_S": int(defaults.max_timeout_s),
        "PENNYREEL_COMFYUI_START_S": int(defaults.start_s),
        "PENNYREEL_INPUT_MAX_BYTES": defaults.input_max_bytes,
        "PENNYREEL_INPUT_TIMEOUT_S": int(defaults.input_timeout_s),
        "PENNYREEL_COMFYUI_ROOT": defaults.comfy_root,
    }
    for name, value in shown.items():
        assert rows[name] == f"`{value}`", name


def test_the_gpus_price_may_be_nothing_and_is_none_of_an_hour() -> None:
    assert Settings.from_env({}).gpu_usd_per_s is None
    assert Settings.from_env({"PENNYREEL_GPU_USD_PER_S": "0"}).gpu_usd_per_s == 0.0
    assert Settings.from_env({"PENNYREEL_GPU_USD_PER_S": "0.00019"}).gpu_usd_per_s == 0.00019
    with pytest.raises(SetupNeeded, match="dollars per second"):
        Settings.from_env({"PENNYREEL_GPU_USD_PER_S": "0.69"})
