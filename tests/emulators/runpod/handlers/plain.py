"""A worker of the stdlib alone: starts in some 50 ms, where the SDK takes 2 s.

`input.do`: "echo" answers with its id; "crash" exits with 3; "hang" never answers. The variable
MODE: "die" exits at once, "deaf" ignores SIGTERM, "child" also starts a child in its own session.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

ENV = os.environ
WORKER = ENV["RUNPOD_POD_ID"]


def call(url: str, body: object = None) -> bytes:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": ENV["RUNPOD_AI_API_KEY"]})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return bytes(answer.read())


def main() -> None:
    mode = ENV.get("MODE", "")
    print(f"worker {WORKER} starts", flush=True)  # noqa: T201 - its log is what is tested
    if mode == "die":
        sys.exit(7)
    if mode == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if mode == "child":
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"],
            start_new_session=True,
        )
        print(f"child {child.pid}", flush=True)  # noqa: T201
    take = ENV["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", WORKER)
    done = ENV["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", WORKER)
    while True:
        raw = call(take)
        if not raw:
            continue
        job = json.loads(raw)
        if job["input"].get("do") == "crash":
            os._exit(3)
        if job["input"].get("do") == "hang":
            time.sleep(600)
        body = {"output": {"id": job["id"], "worker": WORKER}}
        if job["input"].get("do") == "stopPod":
            body["stopPod"] = True
        call(done.replace("$ID", job["id"]), body)


if __name__ == "__main__":
    main()
