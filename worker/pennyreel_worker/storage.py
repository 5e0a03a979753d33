"""S3: uploads streamed from disk, downloads streamed to disk, presigned URLs, stored results.

One client a bucket. Checksums only where the store requires them: R2, B2 and older MinIO refuse
the trailers that boto3 sends since 1.36. No credential ever reaches a message.
"""

from __future__ import annotations

import contextlib
import json
import os
import posixpath
import threading
import time
from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeVar

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig, create_transfer_manager
from botocore.exceptions import BotoCoreError, ClientError
from s3transfer.subscribers import BaseSubscriber

from pennyreel_comfy.waiting import CancelToken, Deadline, awaited
from pennyreel_contract import Code, PennyreelError, error
from pennyreel_worker import peers
from pennyreel_worker.buckets import Bucket

MAX_PRESIGN_S = 604_800
"""SigV4's limit; botocore would sign more and the store refuse it."""

PART = 16 * 1024**2
_TRANSFER = TransferConfig(
    multipart_threshold=2 * PART,
    multipart_chunksize=PART,
    max_concurrency=8,
    preferred_transfer_client="classic",  # the CRT one ignores our client's settings
)
_LARGE_S, _SMALL_S = (10, 60), (5, 10)
"""Seconds to connect, and without a byte: of transfers, and of calls that carry little."""
_FEW = 2
"""Attempts of a small call after its first: a store that is silent for so long is not there."""
MAX_STORED = 32 * 1024**2
"""Bytes that are read into memory of an object in a bucket that a job brought: more than the
platform carries of a result."""

_LEAVE_S = 2.0
"""How long a cancelled transfer may take to let go of its file."""

# What the store says -> what to do. Some name it by the status alone (HEAD has no body).
_NAMES = {"403": "AccessDenied", "404": "NoSuchKey", "Forbidden": "AccessDenied"}
_HINTS = {
    "NoSuchBucket": "Create the bucket, or correct BUCKET_NAME.",
    "InvalidAccessKeyId": "Correct BUCKET_ACCESS_KEY_ID.",
    "SignatureDoesNotMatch": "Correct BUCKET_SECRET_ACCESS_KEY.",
    "AccessDenied": "Give the key the rights to read and write in this bucket.",
    "ExpiredToken": "Set keys that do not expire while the worker lives.",
    "InvalidToken": "Set keys of the endpoint's own, without a session token.",
    "PermanentRedirect": "The bucket is in another region: set BUCKET_REGION.",
    "AuthorizationHeaderMalformed": "The bucket is in another region: set BUCKET_REGION.",
    "RequestTimeTooSkewed": "The machine's clock is wrong: another worker may have a right one.",
    "EndpointConnectionError": "Check BUCKET_ENDPOINT_URL and the network.",
}
_TAKEN = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
# UNVERIFIED which stores say so: S3, R2 and MinIO know If-None-Match.
_UNCONDITIONAL = {"NotImplemented", "InvalidArgument", "InvalidRequest", "501"}
_FINAL = {
    *("NoSuchBucket", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied"),
    *("ExpiredToken", "InvalidToken", "PermanentRedirect", "AuthorizationHeaderMalformed"),
}

T = TypeVar("T")


class Store:
    """One bucket. Thread-safe, as boto3's clients are."""

    def __init__(self, settings: Bucket, *, allow_hosts: Collection[str] | None = None) -> None:
        """Build the clients; nothing is sent.

        Args:
            settings: the bucket.
            allow_hosts: None for the operator's own bucket. For one that a job brought:
                `host:port` pairs that may be private; else only public addresses are gone to,
                and no proxy.

        """
        self._settings = settings
        self._most = None if allow_hosts is None else MAX_STORED
        # The stock worker's bucket is the month when none is named.
        self.bucket = settings.bucket or time.strftime("%m-%y", time.gmtime())
        session = boto3.session.Session()
        few = min(settings.attempts, _FEW) if settings.presigns else settings.attempts
        self._client = peers.connect(session, settings, _LARGE_S, settings.attempts, allow_hosts)
        self._small = peers.connect(session, settings, _SMALL_S, few, allow_hosts)
        self._transfers = create_transfer_manager(self._client, _TRANSFER)

    def close(self) -> None:
        """End its threads and connections, without waiting long for a store that is silent."""
        ending = threading.Thread(
            target=lambda: self._transfers.shutdown(cancel=True), daemon=True, name="s3-end"
        )
        ending.start()
        ending.join(_LEAVE_S)
        self._client.close()
        self._small.close()

    @contextlib.contextmanager
    def upload(
        self,
        path: Path,
        key: str,
        mime: str,
        *,
        deadline: Deadline,
        cancel: CancelToken,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[str]:
        """Stream a file to `key`, in parts where it is large; yields its s3:// URL.

        The body of the `with` runs while the upload does; the file is there when the `with` ends.
        `progress` is told the bytes since its last call, in any thread; less than none where a
        part is begun anew.
        """
        with self._transfer(
            f"the upload of {path.name}",
            lambda watch: self._transfers.upload(
                str(path), self.bucket, key, {"ContentType": mime}, [watch]
            ),
            deadline,
            cancel,
            progress=progress,
        ):
            yield f"s3://{self.bucket}/{key}"

    def put(
        self,
        key: str,
        body: bytes,
        mime: str,
        *,
        deadline: Deadline | None = None,
        cancel: CancelToken | None = None,
    ) -> str:
        """Store a small object; returns its s3:// URL. Ends early as a transfer does."""
        self._do(
            f"storing {key}",
            lambda: self._small.put_object(
                Bucket=self.bucket, Key=key, Body=body, ContentType=mime
            ),
            deadline,
            cancel,
        )
        return f"s3://{self.bucket}/{key}"

    def create(self, key: str, body: bytes, mime: str, **limits: Any) -> bool:
        """Store a small object where there is none of its key; return whether it did.

        A store that knows no such condition is written to without it. `limits` are those of `put`.
        """

        def make() -> bool:
            where = {"Bucket": self.bucket, "Key": key, "Body": body, "ContentType": mime}
            try:
                self._small.put_object(**where, IfNoneMatch="*")  # type: ignore[arg-type]
            except ClientError as problem:
                if _name(problem) in _TAKEN:
                    return False
                if _name(problem) not in _UNCONDITIONAL:
                    raise
                self._small.put_object(**where)  # type: ignore[arg-type]
            return True

        return self._do(f"storing {key}", make, **limits)

    def presign(self, url: str, ttl_s: int) -> tuple[str | None, datetime | None]:
        """Return a URL that anyone may GET until the moment beside it, or (None, None)."""
        if not self._settings.presigns:
            return None, None
        bucket, key = split_s3(url)
        ttl_s, now = min(ttl_s, MAX_PRESIGN_S), datetime.now(timezone.utc)
        signed = self._do(
            "signing a URL",
            lambda: self._client.generate_presigned_url(
                "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=ttl_s
            ),
        )
        return signed, now.replace(microsecond=0) + timedelta(seconds=ttl_s)

    def exists(
        self, url: str, *, deadline: Deadline | None = None, cancel: CancelToken | None = None
    ) -> bool:
        """Whether the object is there. Where the key may not ask, it is taken to be."""
        bucket, key = split_s3(url)

        def ask() -> bool:
            try:
                self._small.head_object(Bucket=bucket, Key=key)
            except ClientError as problem:
                if _name(problem) in {"NoSuchKey", "NoSuchBucket"}:
                    return False
                if _name(problem) != "AccessDenied":
                    raise
            return True

        return self._do(f"reading {url}", ask, deadline, cancel)

    def download(
        self,
        url: str,
        path: Path,
        *,
        most: int,
        deadline: Deadline,
        cancel: CancelToken,
        reserved: str = "",
    ) -> None:
        """Stream s3://bucket/key into a file, refusing more than `most` bytes.

        Only this bucket is read, and in it nothing under the prefix `reserved`.
        """
        bucket, key = split_s3(url)
        if bucket != self.bucket:
            raise error(Code.BAD_INPUT, f"{url} is not in the worker's bucket")
        if reserved and any(k.startswith(reserved) for k in (key, _plain(key))):
            raise error(Code.BAD_INPUT, f"{url} is not an input: the worker keeps results there")
        head = self._do(
            f"reading {url}",
            lambda: self._small.head_object(Bucket=bucket, Key=key),
            deadline,
            cancel,
        )
        if (size := head.get("ContentLength", 0)) > most:
            raise error(Code.INPUT_TOO_LARGE, f"{url} has {size} bytes; at most {most} are taken")
        with self._transfer(
            f"reading {url}",
            lambda watch: self._transfers.download(bucket, key, str(path), None, [watch]),
            deadline,
            cancel,
            most=most,  # a bucket that a job brought may say one thing and send another
        ):
            pass

    def get_json(
        self, key: str, *, deadline: Deadline | None = None, cancel: CancelToken | None = None
    ) -> dict[str, Any] | None:
        """Read a stored JSON object, or None where there is none."""

        def read() -> bytes:
            try:
                with self._small.get_object(Bucket=self.bucket, Key=key)["Body"] as stored:
                    return stored.read(None if self._most is None else self._most + 1)
            except ClientError as problem:
                # A key that may only write (all that the stock worker asks for), or not list, is
                # denied what is not there.
                if _name(problem) in {"NoSuchKey", "AccessDenied"}:
                    return b""
                raise

        content = self._do(f"reading {key}", read, deadline, cancel)
        if self._most is not None and len(content) > self._most:
            raise error(Code.STORAGE_FAILED, f"reading {key} failed: too large", retryable=False)
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            return None
        return body if isinstance(body, dict) else None

    @contextlib.contextmanager
    def _transfer(
        self,
        doing: str,
        start: Callable[[BaseSubscriber], Any],
        deadline: Deadline,
        cancel: CancelToken,
        most: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Iterator[None]:
        """Start a transfer, and wait for it at the end of the `with`.

        It ends early when the job is cancelled or out of time, it is of more than `most` bytes, or
        the body raises. s3transfer and not upload_file: that one can only be stopped by an
        exception in a callback, which botocore takes for a broken connection and tries again.
        """
        watch = _Watch(most, progress)
        cancel.on_cancel(watch.news.set)
        try:
            future = self._do(doing, lambda: start(watch))
            try:
                yield
                while not (
                    watch.ended.is_set() or watch.over or cancel.cancelled or deadline.expired
                ):
                    watch.news.wait(deadline.left(60.0))
            except OSError as problem:  # the body reads the same file
                raise _translate(problem, doing) from None
            finally:
                done = watch.ended.is_set()
                if not done:
                    future.cancel()
                    watch.ended.wait(_LEAVE_S)
            if watch.over:
                raise error(Code.INPUT_TOO_LARGE, f"{doing}: over {most} bytes")
            if not done:
                cancel.check()
                raise deadline.error(doing)
            self._do(doing, future.result)
        finally:
            cancel.forget(watch.news.set)

    def _do(
        self,
        doing: str,
        call: Callable[[], T],
        deadline: Deadline | None = None,
        cancel: CancelToken | None = None,
    ) -> T:
        try:
            if deadline is None and cancel is None:
                return call()
            # Not in a pool's thread: a store that accepts connections and says nothing would soon
            # have all of them.
            return awaited(doing, call, deadline or Deadline(None), cancel or CancelToken())
        except (BotoCoreError, ClientError, Boto3Error, OSError) as problem:
            raise _translate(problem, doing) from None


class _Watch(BaseSubscriber):
    """Tells of a transfer's end and size; `news` is also set when its job is cancelled."""

    def __init__(
        self, most: int | None = None, progress: Callable[[int], None] | None = None
    ) -> None:
        self.news, self.ended = threading.Event(), threading.Event()
        self.over = False
        self._progress = progress
        self._most, self._size, self._lock = most, 0, threading.Lock()

    def on_progress(self, future: Any, bytes_transferred: int, **kwargs: Any) -> None:  # noqa: ARG002 - s3transfer's call
        with self._lock:
            self._size += bytes_transferred  # less than none where a part is begun anew
            self.over = self.over or (self._most is not None and self._size > self._most)
        if self.over:
            self.news.set()
        if self._progress is not None:
            self._progress(bytes_transferred)

    def on_done(self, future: Any, **kwargs: Any) -> None:  # noqa: ARG002 - s3transfer's call
        self.ended.set()
        self.news.set()


def split_s3(url: str) -> tuple[str, str]:
    """Return bucket and key of s3://bucket/key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return bucket, key


def _plain(key: str) -> str:
    """Return a key as a store that reads it as a path may take it."""
    return posixpath.normpath(f"/{key}").lstrip("/")


def _name(problem: ClientError) -> str:
    """Return the store's own code."""
    code = str(problem.response.get("Error", {}).get("Code") or type(problem).__name__)
    return _NAMES.get(code, code)


def _translate(problem: Exception, doing: str) -> PennyreelError:
    """Name the store's own code, never its message: that may hold keys and signed URLs."""
    if (ours := peers.refusal(problem)) is not None:
        return ours
    name = _name(problem) if isinstance(problem, ClientError) else type(problem).__name__
    if isinstance(problem, OSError) and problem.errno is not None:
        name = os.strerror(problem.errno)
    missing = name == "NoSuchKey"
    return error(
        Code.BAD_INPUT if missing else Code.STORAGE_FAILED,
        f"{doing} failed: {'there is no such object' if missing else name}",
        hint=_HINTS.get(name),
        retryable=name not in _FINAL and not missing,
    )
