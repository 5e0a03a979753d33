"""Replicate's HTTP API on loopback, as its SDK and our backend use it, and the origin of its files.

    with ReplicatePlatform() as platform:
        client = replicate.Client(api_token=platform.config.token, base_url=platform.host_url)
        platform.script(Behaviour(error=OUT_OF_MEMORY))   # of the next prediction
        ...
        platform.accepted, platform.billed, platform.requests

Reading order: `platform` wires, `api` has the routes, `store` the predictions, `delivery` the
files; `hotshot` is the one model. Facts are from replicate.com/docs (2025, 2026) and from answers
that public repositories quote; what nobody documents is marked UNVERIFIED where it is decided.
"""

from __future__ import annotations

from pennyreel_emulators.replicate.config import (
    INTERRUPTED,
    NSFW,
    OUT_OF_MEMORY,
    Behaviour,
    Config,
    Fault,
    RateLimit,
)
from pennyreel_emulators.replicate.hotshot import MODEL, VERSION
from pennyreel_emulators.replicate.http import Recorded
from pennyreel_emulators.replicate.platform import ReplicatePlatform
from pennyreel_emulators.replicate.store import Bill

__all__ = [
    "INTERRUPTED",
    "MODEL",
    "NSFW",
    "OUT_OF_MEMORY",
    "VERSION",
    "Behaviour",
    "Bill",
    "Config",
    "Fault",
    "RateLimit",
    "Recorded",
    "ReplicatePlatform",
]
