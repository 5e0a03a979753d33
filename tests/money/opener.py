"""A process that opens a ledger, as others do the same: `opener.py URL_FILE`. Says what it saw."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pennyreel.config import Secret
from pennyreel.money.database import Database
from pennyreel.money.ledger import Ledger


def main(url: str) -> None:
    print("ready", flush=True)  # noqa: T201 - a program
    sys.stdin.readline()
    with Ledger(Database.of_url(Secret(url))) as ledger:
        told = [ledger.place, [b.to_json() for b in ledger.budgets()]]
    print(json.dumps(told))  # noqa: T201 - a program


if __name__ == "__main__":
    main(Path(sys.argv[1]).read_text(encoding="utf-8"))
