"""What the commands about money share: the ledger of the settings, and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pennyreel.cli.common import echo

if TYPE_CHECKING:
    from pennyreel.money.ledger import Ledger


def open_ledger() -> Ledger:
    """Open the ledger that the settings name."""
    from pennyreel.config import load
    from pennyreel.money.ledger import Ledger

    return Ledger.open(load())


def money(amount: int) -> str:
    """Write an amount; nothing is $0.00 in a table."""
    from pennyreel.money.amounts import dollars

    return dollars(amount) if amount else "$0.00"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print rows under a head: the first `left` columns to the left, the rest to the right."""
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    for row in [head, *rows]:
        cells = [
            text.ljust(width) if n < left else text.rjust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        echo("  ".join(cells).rstrip())
