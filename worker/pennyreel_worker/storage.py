"""S3: uploads streamed from disk, downloads streamed to disk, presigned URLs, stored results.

One client a bucket. Checksums only where the store requires them: R2, B2 and older MinIO refuse
the trailers that boto3 sends since 1.36. No credential ever reaches a message.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from pennyreel_contract import Code, PennyreelError, error
from pennyreel_worker.settings import Bucket

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAX_PRESIGN_S = 604_800
"""SigV4's limit; botocore would sign more and the store refuse it."""

_PART = 16 * 1024**2
_TRANSFER = TransferConfig(
    multipart_threshold=2 * _PART, multipart_chunksize=_PART, max_concurrency=4, use_threads=True
)
_HINTS = {
    "NoSuchBucket": "Create the bucket, or correct BUCKET_NAME.",
    "InvalidAccessKeyId": "Correct BUCKET_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "Correct BUCKET_SECRET_ACCESS_KEY.",
    "AccessDenied": "Give the key the rights to read and write in this bucket.",
    "EndpointConnectionError": "Check BUCKET_ENDPOINT_URL and the network.",
}
_FINAL = {"NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"}

T = TypeVar("T")


class Store:
    """One bucket. Thread-safe, as boto3's clients are."""

    def __init__(self, settings: Bucket) -> None:
        """Build the client; nothing is sent."""
        self._settings = settings
        # The stock worker's bucket is the month when none is named.
        self.bucket = settings.bucket or time.strftime("%m-%y", time.gmtime())
        self._client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=settings.endpoint_url,
            aws_access_key_id=settings.access_key_id,
            aws_secret_access_key=settings.secret_access_key,
            region_name=settings.region,
            config=Config(
                signature_version="s3v4",
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": settings.addressing},  # type: ignore[arg-type]
                retries={"mode": "standard", "max_attempts": 5},
                connect_timeout=10,
                read_timeout=60,
            ),
        )

    def upload(self, path: Path, key: str, mime: str) -> str:
        """Stream a file to `key`, in parts where it is large; returns its s3:// URL."""
        self._do(
            f"the upload of {path.name}",
            lambda: self._client.upload_file(
                str(path), self.bucket, key, ExtraArgs={"ContentType": mime}, Config=_TRANSFER
            ),
        )
        return f"s3://{self.bucket}/{key}"

    def put(self, key: str, body: bytes, mime: str) -> str:
        """Store a small object; returns its s3:// URL."""
        self._do(
            f"storing {key}",
            lambda: self._client.put_object(
                Bucket=self.bucket, Key=key, Body=body, ContentType=mime
            ),
        )
        return f"s3://{self.bucket}/{key}"

    def presign(self, url: str, ttl_s: int) -> tuple[str | None, datetime | None]:
        """Return a URL that anyone may GET until the moment beside it, or (None, None)."""
        if not self._settings.presigns:
            return None, None
        bucket, key = split_s3(url)
        ttl_s = min(ttl_s, MAX_PRESIGN_S)
        signed = self._do(
            "signing a URL",
            lambda: self._client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=ttl_s
            ),
        )
        return signed, datetime.now(timezone.utc) + timedelta(seconds=ttl_s)

    def download(self, url: str, path: Path, *, most: int) -> None:
        """Stream s3://bucket/key into a file, refusing more than `most` bytes."""
        bucket, key = split_s3(url)
        head = self._do(f"reading {url}", lambda: self._client.head_object(Bucket=bucket, Key=key))
        if head["ContentLength"] > most:
            raise error(
                Code.INPUT_TOO_LARGE,
                f"{url} has {head['ContentLength']} bytes; at most {most} are taken",
            )
        self._do(
            f"reading {url}",
            lambda: self._client.download_file(bucket, key, str(path), Config=_TRANSFER),
        )

    def get_json(self, key: str) -> dict[str, Any] | None:
        """Read a stored JSON object, or None where there is none."""
        try:
            reply = self._client.get_object(Bucket=self.bucket, Key=key)
            body = json.loads(reply["Body"].read())
        except ClientError as problem:
            # Without the right to list, S3 answers 403 for a key that is not there.
            if problem.response.get("Error", {}).get("Code") in {"NoSuchKey", "404", "403"}:
                return None
            raise _translate(problem, f"reading {key}") from None
        except (BotoCoreError, OSError) as problem:
            raise _translate(problem, f"reading {key}") from None
        except ValueError:
            return None
        return body if isinstance(body, dict) else None

    def _do(self, doing: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (BotoCoreError, ClientError, Boto3Error, OSError) as problem:
            raise _translate(problem, doing) from None


def split_s3(url: str) -> tuple[str, str]:
    """Return bucket and key of s3://bucket/key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def _translate(problem: Exception, doing: str) -> PennyreelError:
    """Name the store's own code, never its message: that may hold keys and signed URLs."""
    name = type(problem).__name__
    if isinstance(problem, ClientError):
        name = str(problem.response.get("Error", {}).get("Code") or name)
    else:
        # boto3 wraps an upload's ClientError in a text: "… (NoSuchBucket) when calling …"
        text = str(problem)
        name = next((code for code in _HINTS if f"({code})" in text), name)
    if isinstance(problem, OSError) and problem.errno is not None:
        name = os.strerror(problem.errno)
    missing = name in {"404", "NoSuchKey"}
    return error(
        Code.BAD_INPUT if missing else Code.STORAGE_FAILED,
        f"{doing} failed: {'there is no such object' if missing else name}",
        hint=_HINTS.get(name),
        retryable=name not in _FINAL and not missing,
    )
