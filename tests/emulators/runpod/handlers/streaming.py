"""A worker on RunPod's own loop whose handler is a generator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import runpod


def handler(job: dict[str, Any]) -> Iterator[Any]:
    """Yield the parts of the input; a part "boom" raises."""
    for part in job["input"]["parts"]:
        if part == "boom":
            raise ValueError("boom")
        yield part


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "return_aggregate_stream": True})
