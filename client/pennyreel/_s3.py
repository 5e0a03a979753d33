"""The user's own bucket: inputs too large for a request, stored results. Needs the extra `s3`."""

from __future__ import annotations

import json
import logging
import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

from pennyreel.config import S3, is_loopback
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.sources import Source

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PREFIX = "pennyreel/inputs"
URL_TTL_S = 86_400
MAX_JSON = 64 << 20
"""Bytes taken of a stored result: files inside it are small ones."""

READ_S = 15.0
"""How long a bucket may be silent when a job is looked for in it: it is asked again later."""

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}")


def require(s3: S3 | None, what: str) -> S3:
    """Return the bucket's settings, or say that they are missing."""
    if s3 is None:
        raise error(
            Code.NOT_CONFIGURED,
            f"{what} is in S3, and no S3 access is configured here",
            hint="Set PENNYREEL_S3_BUCKET (and _ENDPOINT, _KEY, _SECRET), or give an https URL.",
        )
    return s3


def upload(s3: S3, source: Source, attempt_id: str) -> str:
    """Put a local input into the bucket and return a presigned GET URL for it.

    Raises:
        SetupNeeded: boto3 is not installed.
        JobFailed: `storage_failed`.

    """
    client = _client(s3)
    key = f"{PREFIX}/{attempt_id}/{source.name}"
    try:
        with source.open() as content:
            client.upload_fileobj(content, s3.bucket, key)
        return _presign(client, s3.bucket, key)
    except PennyreelError:
        raise
    except Exception as problem:  # noqa: BLE001 - boto3 makes its classes at run time
        raise _failed(s3, problem) from None


def presign(s3: S3, address: str) -> str:
    """Return a presigned GET URL for s3://bucket/key."""
    bucket, _, key = address.removeprefix("s3://").partition("/")
    try:
        return _presign(_client(s3), bucket, key)
    except PennyreelError:
        raise
    except Exception as problem:  # noqa: BLE001 - as above
        raise _failed(s3, problem) from None


def get_json(s3: S3, key: str) -> dict[str, Any] | None:
    """Return a small JSON object of the bucket, or None where it is not there.

    Raises:
        SetupNeeded: boto3 is not installed.
        JobFailed: `storage_failed`, the bucket does not answer or not with an object.

    """
    try:
        with closing(_client(s3, silence_s=READ_S, tries=2)) as client:
            content = client.get_object(Bucket=s3.bucket, Key=key)["Body"].read(MAX_JSON + 1)
            body = None if len(content) > MAX_JSON else json.loads(content)
    except PennyreelError:
        raise
    except Exception as problem:  # noqa: BLE001 - as above
        if _code(problem) == "NoSuchKey":
            return None
        raise _failed(s3, problem) from None
    if not isinstance(body, dict):
        raise error(Code.STORAGE_FAILED, f"bucket {s3.bucket}: {key} is no JSON object")
    return body


def _presign(client: S3Client, bucket: str, key: str) -> str:
    return client.generate_presigned_url(
        "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=URL_TTL_S
    )


def _client(s3: S3, *, silence_s: float = 60.0, tries: int = 3) -> S3Client:
    try:
        import boto3  # noqa: PLC0415 - an extra, and slow to import
        from botocore.config import Config  # noqa: PLC0415
    except ImportError:
        raise error(
            Code.NOT_CONFIGURED,
            "an S3 bucket is configured, but boto3 is not installed",
            hint="pip install 'pennyreel[s3]'",
        ) from None
    _hush()
    options: dict[str, Any] = {}
    if s3.key is not None and s3.secret is not None:
        options = {
            "aws_access_key_id": s3.key.reveal(),
            "aws_secret_access_key": s3.secret.reveal(),
        }
    # Stores other than AWS refuse the newer checksums unless they are asked for.
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path" if s3.endpoint else "auto"},
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        connect_timeout=10,
        read_timeout=silence_s,
        retries={"max_attempts": tries, "mode": "standard"},
        # None: those of the environment, which do not lead to this machine.
        proxies={} if s3.endpoint and is_loopback(s3.endpoint) else None,
    )
    return boto3.client(
        "s3",
        endpoint_url=s3.endpoint,
        region_name=s3.region or ("us-east-1" if s3.endpoint else None),
        config=config,
        **options,
    )


def _hush() -> None:
    """Keep boto's debug lines out of who logs everything: they hold keys and proxies' passwords.

    Who wants them sets the level of "botocore" itself.
    """
    for name in ("botocore", "boto3", "s3transfer"):
        log = logging.getLogger(name)
        if log.level == logging.NOTSET:
            log.setLevel(logging.INFO)


def _failed(s3: S3, problem: Exception) -> PennyreelError:
    """Name the kind of failure only: boto3's messages may quote requests."""
    return error(Code.STORAGE_FAILED, f"bucket {s3.bucket}: {_code(problem)}")


def _code(problem: Exception) -> str:
    response = getattr(problem, "response", None) or {}
    told = str((response.get("Error") or {}).get("Code") or "")
    return told if _PLAIN.fullmatch(told) else type(problem).__name__
