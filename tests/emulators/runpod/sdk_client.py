"""RunPod's own client, told what to do by lines of JSON: [verb, endpoint, ...]."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

import runpod


def answer(verb: str, endpoint_id: str, *args: Any) -> Any:
    """Do one thing with `runpod.Endpoint` and return what it returned."""
    endpoint = runpod.Endpoint(endpoint_id)
    job = runpod.endpoint.Job(endpoint_id, str(args[0]) if args else "", endpoint.rp_client)
    verbs: dict[str, Callable[[], Any]] = {
        "run": lambda: endpoint.run(args[0]).job_id,
        "run_sync": lambda: endpoint.run_sync(args[0], timeout=args[1]),
        "health": endpoint.health,
        "health_with_key": lambda: runpod.Endpoint(endpoint_id, api_key=args[0]).health(),
        "purge_queue": endpoint.purge_queue,
        "status": job.status,
        "output": lambda: job.output(timeout=args[1]),
        "cancel": job.cancel,
        "stream": lambda: list(job.stream()),
    }
    return verbs[verb]()


def main() -> None:
    """Answer every line of stdin."""
    for line in sys.stdin:
        try:
            reply: dict[str, Any] = {"returned": answer(*json.loads(line))}
        except Exception as error:  # noqa: BLE001 - the test on the other side judges it
            reply = {"raised": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)  # noqa: T201 - this is how it answers


if __name__ == "__main__":
    # The SDK reads RUNPOD_ENDPOINT_BASE_URL at its import, but no key from the environment.
    runpod.api_key = os.environ["RUNPOD_API_KEY"]
    main()
