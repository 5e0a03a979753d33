"""Processes that are killed in the middle of a reservation: `killed.py URL_FILE`.

One after another is forked, opens the ledger and reserves; the n-th ends itself by SIGKILL after n
steps (statements sent, and the commit about to be). The first that gets through is the last.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from sqlalchemy import event

from pennyreel.config import Secret
from pennyreel.money.database import Database
from pennyreel.money.ledger import Ledger


def main(url: str) -> None:
    print("ready", flush=True)  # noqa: T201 - a program
    sys.stdin.readline()
    for steps in itertools.count(1):
        child = os.fork()
        if child == 0:
            die_after(steps, url)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            assert status == 0
            print(json.dumps({"killed": steps - 1}))  # noqa: T201 - a program
            return
        assert os.WTERMSIG(status) == signal.SIGKILL


def die_after(steps: int, url: str) -> None:
    ledger = Ledger(Database.of_url(Secret(url)))
    taken = 0

    def step(*_: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), signal.SIGKILL)

    engine = ledger._db._engine
    event.listen(engine, "after_cursor_execute", step)
    event.listen(engine, "commit", step)
    ledger.reserve(f"k{steps}", 10, job_id=f"job-k{steps}", backend="runpod")
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_text(encoding="utf-8"))
