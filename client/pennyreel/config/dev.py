"""The dev stack: what `pennyreel dev` says it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pennyreel.config.secret import Secret
from pennyreel.config.settings import S3


@dataclass(frozen=True)
class DevStack:
    """What `pennyreel dev` wrote into dev.json: an emulated RunPod on this machine."""

    base_url: str
    endpoint: str
    api_key: Secret
    pid: int
    s3: S3 | None = None


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


def _dev_s3(data: Mapping[str, Any]) -> S3:
    key, secret = data.get("key"), data.get("secret")
    return S3(
        endpoint=data.get("endpoint"),
        bucket=str(data["bucket"]),
        key=None if key is None else Secret(str(key)),
        secret=None if secret is None else Secret(str(secret)),
        region=data.get("region"),
    )
