"""A process that forks while its ledger is open: `forked.py URL_FILE`. Both use it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from pennyreel.config import Secret
from pennyreel.money.database import Database
from pennyreel.money.ledger import Ledger
from pennyreel.need import Need


def main(url: str) -> None:
    ledger = Ledger(Database.of_url(Secret(url)))
    print("ready", flush=True)  # noqa: T201 - a program
    sys.stdin.readline()
    use(ledger, "mother")
    child = os.fork()
    if child == 0:
        use(ledger, "child")
        os._exit(0)
    _, status = os.waitpid(child, 0)
    use(ledger, "parent")  # its connection still is what it was
    jobs = len(ledger.jobs())
    os.write(1, json.dumps({"parent": jobs, "child": status}).encode() + b"\n")
    os._exit(0)  # without letting its claims go


def use(ledger: Ledger, name: str) -> None:
    ledger.record_job(name, request_sha256=name, need=Need())
    ledger.reserve(name, 1, job_id=name, backend="runpod")
    if name == "mother":
        ledger.release(name, code="cancelled")


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_text(encoding="utf-8"))
