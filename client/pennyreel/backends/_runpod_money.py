"""What a RunPod endpoint bills: a worker's seconds, from its start to the end of its idle time."""

from __future__ import annotations

from dataclasses import replace

from pennyreel.need import Unit, Usage
from pennyreel_contract import Result

STARTUP_S = 120.0
"""A cold start with an image of ours, at most. UNVERIFIED: public reports say 10 to 120 s."""

IDLE_S = 10.0
"""The idle time-out that an endpoint gets by default (RunPod's API v2; the console's is 5 s)."""


def usage(sku: str) -> Usage:
    """Return what a job on an endpoint would be billed for."""
    return Usage(sku, Unit.GPU_SECOND, None, startup_s=STARTUP_S, idle_s=IDLE_S)


def billed(before: Usage, result: Result) -> Usage:
    """Return what a job was billed for.

    A worker that had to start first kept the job waiting as long, so a short wait tells that it
    was warm. A replayed result has the seconds of its first run, which are not billed again.
    """
    seconds = result.timings.get("platform_execute")
    if seconds is None and result.gpu is not None and not result.replayed:
        seconds = result.gpu.seconds or None
    waited = result.timings.get("platform_queue", before.startup_s)
    return replace(before, amount=seconds, startup_s=min(before.startup_s, waited))
