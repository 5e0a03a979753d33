"""A worker on RunPod's own loop that does what its job's input says."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import runpod

SLOTS = int(os.environ.get("SLOTS", "4"))


async def handler(job: dict[str, Any]) -> Any:
    """Do what `input.do` names."""
    given = job["input"]
    return await globals()[f"do_{given['do']}"](job, given)


async def do_echo(job: dict[str, Any], given: dict[str, Any]) -> Any:
    return {"echo": given.get("value"), "pid": os.getpid(), "slot": threading.active_count()}


async def do_job(job: dict[str, Any], given: dict[str, Any]) -> Any:
    return {"job": dict(job)}


async def do_progress(job: dict[str, Any], given: dict[str, Any]) -> Any:
    for part in given["parts"]:
        runpod.serverless.progress_update(job, part)
        await asyncio.sleep(0.2)
    await wait_for_file(given.get("until"))
    return {"done": len(given["parts"])}


async def do_raise(job: dict[str, Any], given: dict[str, Any]) -> Any:
    raise ValueError(given["value"])


async def do_fail(job: dict[str, Any], given: dict[str, Any]) -> Any:
    return {"error": given["value"], "details": [1, 2]}


async def do_nothing(job: dict[str, Any], given: dict[str, Any]) -> Any:
    return {}


async def do_refresh(job: dict[str, Any], given: dict[str, Any]) -> Any:
    return {"refresh_worker": True, "pid": os.getpid()}


async def do_wait(job: dict[str, Any], given: dict[str, Any]) -> Any:
    """Wait for a file, and leave notes of the start and of a cancellation in another."""
    Path(given["note"]).write_text("started")  # noqa: ASYNC240 - a test waits for it
    try:
        await wait_for_file(given.get("until"), given.get("seconds", 60))
    except asyncio.CancelledError:
        Path(given["note"]).write_text("cancelled")  # noqa: ASYNC240 - a test waits for it
        raise
    return {"waited": True, "pid": os.getpid()}


async def do_block(job: dict[str, Any], given: dict[str, Any]) -> Any:
    """What a synchronous handler does: nothing else on the loop runs meanwhile."""
    time.sleep(given["seconds"])  # noqa: ASYNC251 - that is the point
    return {"blocked": True}


async def do_large(job: dict[str, Any], given: dict[str, Any]) -> Any:
    return {"data": "x" * given["bytes"]}


async def do_crash(job: dict[str, Any], given: dict[str, Any]) -> Any:
    os._exit(given.get("code", 3))


async def wait_for_file(path: str | None, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    # The signal is a file, because the one who gives it is another process.
    while path and not Path(path).exists() and time.monotonic() < deadline:  # noqa: ASYNC240
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    runpod.serverless.start({"handler": handler, "concurrency_modifier": lambda _: SLOTS})
