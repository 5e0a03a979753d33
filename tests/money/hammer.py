"""A process that reserves and settles as fast as it can: `hammer.py NAME SECRET_FILE ROUNDS`.

The ledger's URL comes in a file, since it holds a password. Prints what it got, as JSON.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from pennyreel.config import Secret
from pennyreel.errors import PennyreelError
from pennyreel.money.database import Database
from pennyreel.money.ledger import Ledger
from pennyreel.need import Need


def main(name: str, url: str, rounds: int) -> None:
    draw = random.Random(name)  # noqa: S311 - not a secret
    told = {"reserved": 0, "refused": 0, "settled": 0, "released": 0, "counted": 0}
    with Ledger(Database.of_url(Secret(url))) as ledger:
        print("ready", flush=True)  # noqa: T201 - a program
        sys.stdin.readline()
        for number in range(rounds):
            attempt, amount = f"{name}-{number}", draw.randint(1, 997)
            ledger.record_job(attempt, request_sha256=attempt, need=Need())
            try:
                ledger.reserve(attempt, amount, job_id=attempt, backend="runpod")
            except PennyreelError as problem:
                if problem.code != "budget_exceeded":
                    raise
                told["refused"] += 1
                continue
            told["reserved"] += 1
            told["counted"] += end(ledger, attempt, amount, draw, told)
    print(json.dumps(told))  # noqa: T201 - a program


def end(
    ledger: Ledger, attempt: str, amount: int, draw: random.Random, told: dict[str, int]
) -> int:
    """End an attempt one way or another; return what it counts for now."""
    way = draw.choice(["settle", "release", "leave", "lose"])
    if way == "settle":
        told["settled"] += 1
        return ledger.settle(attempt, draw.randint(0, amount)).spent
    if way == "release":
        told["released"] += 1
        return ledger.release(attempt, code="rate_limited").spent
    if way == "lose":
        ledger.mark(attempt, "sent")
        ledger.mark(attempt, "unknown")
    return amount


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).read_text(encoding="utf-8"), int(sys.argv[3]))
