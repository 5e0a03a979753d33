"""S3 connections for a bucket that a stranger named: each goes to an address that was checked.

A check of the endpoint's name alone would not do: botocore looks the name up again for every new
connection, and the second answer may be another one.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import (
    AWSHTTPConnection,
    AWSHTTPConnectionPool,
    AWSHTTPSConnection,
    AWSHTTPSConnectionPool,
)
from urllib3.exceptions import HTTPError

from pennyreel_comfy.addresses import Target, resolve
from pennyreel_contract import PennyreelError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


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


def _pool(pool: Any, connection: Any, allow_hosts: Collection[str]) -> Any:
    class Checked(connection):  # type: ignore[misc]
        """Looks its name up once, and connects to what was found and checked."""

        _dns_host: str

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
