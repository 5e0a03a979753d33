"""A client that is killed at a given moment: `python killed.py N ARGUMENTS…`.

The moments are before and after each transaction that writes to the ledger, counted from 1; where
there are fewer of them it runs to its end. What is known of backends stays fresh, so that the
moments of one run are those of the next.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection

from pennyreel import survey
from pennyreel.cli.app import run
from pennyreel.money.database import Database


def main() -> int:
    left = int(sys.argv[1])
    survey.FRESH_S = 86400.0
    write = Database.write

    def moment() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    @contextmanager
    def counted(self: Database) -> Iterator[Connection]:
        moment()
        with write(self) as connection:
            yield connection
        moment()

    Database.write = counted  # type: ignore[method-assign]
    return run(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
