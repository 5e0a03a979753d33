"""S3 clients. Of a bucket that a stranger named, each connection goes to a checked address.

A check of the endpoint's name alone would not do: botocore looks the name up again for every new
connection, and the second answer may be another one.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

import boto3
from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from botocore.config import Config
from urllib3.exceptions import HTTPError

from pennyreel_comfy.addresses import Target, resolve
from pennyreel_contract import Code, PennyreelError, error
from pennyreel_worker.buckets import Bucket

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ANSWER = 1024**2
"""Bytes of a bucket's answer that is no object: S3's own are a few hundred."""


def connect(
    session: boto3.session.Session,
    settings: Bucket,
    patience: tuple[int, int],
    attempts: int,
    allow_hosts: Collection[str] | None,
) -> S3Client:
    """Build a client; nothing is sent.

    Args:
        session: what clients share.
        settings: the bucket.
        patience: seconds to connect, and without a byte.
        attempts: of one call, after its first.
        allow_hosts: None for the operator's own bucket; else see `guard`.

    """
    client: S3Client = session.client(
        "s3",
        endpoint_url=settings.endpoint_url,
        aws_access_key_id=settings.access_key_id,
        aws_secret_access_key=settings.secret_access_key,
        region_name=settings.region,
        config=Config(
            signature_version="s3v4",
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            s3={  # type: ignore[arg-type]
                "addressing_style": settings.addressing,
                # A body is hashed once, for the result, which covers it from our disk to the
                # client's. To sign it, too, would be a second pass over each file. Stores that
                # take presigned URLs take unsigned bodies; of the others nothing is known.
                "payload_signing_enabled": not settings.presigns,
            },
            retries={"mode": "standard", "max_attempts": attempts},
            connect_timeout=patience[0],
            read_timeout=patience[1],
            proxies=None if allow_hosts is None else {},
        ),
    )
    if allow_hosts is not None:
        guard(client, allow_hosts)
    return client


def guard(client: S3Client, allow_hosts: Collection[str]) -> None:
    """Have each connection of a client go to public addresses only, or to allowed `host:port`.

    The client must have been made with `proxies={}`: a proxy would do the connecting.
    """
    # botocore has no public way to bring connections of one's own; a test holds that this is one.
    session: Any = client._endpoint.http_session  # type: ignore[attr-defined]  # noqa: SLF001
    session._manager.pool_classes_by_scheme = {  # noqa: SLF001
        "http": _pool(AWSHTTPConnectionPool, AWSHTTPConnection, allow_hosts),
        "https": _pool(AWSHTTPSConnectionPool, AWSHTTPSConnection, allow_hosts),
    }


def refusal(problem: BaseException) -> PennyreelError | None:
    """Return our own error that botocore has wrapped, if it has."""
    inner = getattr(problem, "kwargs", {}).get("error")
    return inner if isinstance(inner, PennyreelError) else None


def _bound(reply: Any) -> None:
    """Have an answer that is no object end where it is larger than any such answer is."""
    stream = reply.stream

    def bounded(*args: Any, **kwargs: Any) -> Iterator[bytes]:
        size = 0
        for piece in stream(*args, **kwargs):
            size += len(piece)
            if size > ANSWER:
                raise error(
                    Code.STORAGE_FAILED, "the bucket's answer is too large", retryable=False
                )
            yield piece

    reply.stream = bounded


def _pool(pool: Any, connection: Any, allow_hosts: Collection[str]) -> Any:
    class Checked(connection):  # type: ignore[misc]
        """Looks its name up once, connects to what was found and checked, and reads no flood."""

        _dns_host: str
        _method: str | None  # http.client's: of the request under way

        def getresponse(self) -> Any:
            reply = super().getresponse()
            if self._method != "GET" or reply.status not in {200, 206}:
                _bound(reply)  # botocore reads it whole, into memory
            return reply

        def _new_conn(self) -> socket.socket:
            name = self._dns_host
            target = Target(connection is AWSHTTPSConnection, name.rstrip("."), self.port, "", "")
            problem: Exception = OSError()
            try:
                for address in resolve(target, "the bucket's endpoint", allow_hosts):
                    self._dns_host = address
                    try:
                        return super()._new_conn()  # type: ignore[no-any-return]
                    except (OSError, HTTPError) as failed:
                        problem = failed
            finally:
                self._dns_host = name  # which TLS checks the certificate for
            raise problem

    return type(f"Checked{pool.__name__}", (pool,), {"ConnectionCls": Checked})
