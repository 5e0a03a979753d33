"""S3 endpoints as people write them. No I/O.

The stock worker's documentation asks for `https://BUCKET.s3.REGION.amazonaws.com`; other stores
are named without the bucket, or with it as the path. All three name the same thing here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ADDRESSING = ("auto", "path", "virtual")
ATTEMPTS = 5
RUNPOD_ATTEMPTS = 10
"""Of one call. RunPod's volumes answer 502 now and then, and its documentation asks for ten."""

_AWS = re.compile(
    r"(?:(?P<bucket>.+)\.)?s3(?:[.-]dualstack)?(?:[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d+))?"
    r"\.amazonaws\.com(?:\.cn)?"
)
# As Wasabi, Backblaze and Scaleway have it: [bucket.]s3.region.their.domain
_LIKE_AWS = re.compile(
    r"(?:(?P<bucket>.+)\.)?(?P<host>s3\.(?P<region>[a-z]{2}-[a-z-]+(?:-\d+)?)\..+)"
)
_R2 = ".r2.cloudflarestorage.com"
_RUNPOD = re.compile(r"s3api-(?P<region>[a-z0-9-]+)\.runpod\.io")


@dataclass(frozen=True)
class Bucket:
    """Where results go in S3. `bucket` None: one a month, as the stock worker does."""

    endpoint_url: str | None
    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    bucket: str | None = None
    region: str | None = None
    addressing: str = "auto"
    attempts: int = ATTEMPTS

    @property
    def presigns(self) -> bool:
        """RunPod's own volumes speak S3 but take no presigned URLs."""
        return not _RUNPOD.fullmatch(urlsplit(self.endpoint_url or "").hostname or "")


def make_bucket(
    endpoint: str,
    key: str,
    secret: str,
    *,
    bucket: str | None = None,
    region: str | None = None,
    addressing: str = "auto",
    attempts: int | None = None,
) -> Bucket:
    """Read an endpoint; a bucket or region that is given goes before one in the URL.

    Raises:
        ValueError: it is not an http(s) URL; the message never repeats it, it may hold a password.

    """
    origin, host, path = _split(endpoint)
    tries = attempts or ATTEMPTS
    if aws := _AWS.fullmatch(host):
        # boto3 builds AWS's own addresses best.
        bucket = bucket or aws["bucket"] or path.split("/")[0] or None
        return Bucket(None, key, secret, bucket, region or aws["region"], addressing, tries)
    if like := _LIKE_AWS.fullmatch(host):
        if like["bucket"]:
            bucket = bucket or like["bucket"]
            origin = origin.replace(host, like["host"], 1)
        region = region or like["region"]
    elif host.endswith(_R2):
        region = region or "auto"
    elif runpod := _RUNPOD.fullmatch(host):
        region, addressing = region or runpod["region"].upper(), "path"
        tries = attempts or RUNPOD_ATTEMPTS
    if path and bucket is None:
        bucket = path.split("/")[0]
    return Bucket(origin, key, secret, bucket, region or "us-east-1", addressing, tries)


def _split(endpoint: str) -> tuple[str, str, str]:
    """Return origin, host and path."""
    wanted = "must be an http(s) URL such as https://s3.eu-west-1.amazonaws.com"
    try:
        parts = urlsplit(endpoint)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError(wanted) from None
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError(wanted)
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"{wanted}, without a user name or password")
    shown = f"[{host}]" if ":" in host else host
    origin = f"{parts.scheme}://{shown}" + (f":{port}" if port is not None else "")
    return origin, host, parts.path.strip("/")
