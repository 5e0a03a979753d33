"""`pennyreel costs`: what was spent."""

from __future__ import annotations

import csv
import sys
from typing import TYPE_CHECKING

import click

from pennyreel.cli._books import money, open_ledger, table
from pennyreel.cli.common import echo_json, say

if TYPE_CHECKING:
    from pennyreel.money.spending import Spending

GROUPS = ("day", "month", "backend", "template", "project", "user")


@click.command("costs")
@click.option(
    "--by", type=click.Choice(GROUPS), default="day", show_default=True, metavar="GROUP",
    help="Add up by day, month, backend, template, project or user.",
)  # fmt: skip
@click.option(
    "--since", default="30d", show_default=True, metavar="DAY",
    help="From this day on: 2026-11-27, or 7d for the last seven days.",
)  # fmt: skip
@click.option("--csv", "as_csv", is_flag=True, help="As comma-separated values.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(by: str, since: str, as_csv: bool, as_json: bool) -> None:
    """Show what was spent. Days and months are UTC's; a job counts on the day it was sent."""
    from pennyreel.money.periods import since as read_since
    from pennyreel.money.periods import stamp

    with open_ledger() as ledger:
        begin = read_since(since, ledger.now_ms())
        found = ledger.spending(by, since_ms=begin)
    if as_json:
        groups = [one.to_json() for one in found]
        echo_json({"by": by, "since": stamp(begin), "groups": groups})
    elif as_csv:
        _csv(by, found)
    elif found:
        _show(by, found)
    else:
        say(f"nothing was sent since {(stamp(begin) or '')[:10]}")


def _csv(by: str, found: list[Spending]) -> None:
    out = csv.writer(sys.stdout, lineterminator="\n")
    rows = [one.to_json() for one in found]
    names = ["spent_microusd", "reserved_microusd", "jobs", "attempts"]
    names += ["unknown_attempts", "unpriced_attempts"]
    out.writerow([by, *names])
    out.writerows([row["group"], *(row[name] for name in names)] for row in rows)


def _show(by: str, found: list[Spending]) -> None:
    rows = [_row(one.group or f"(no {by})", one) for one in found]
    spent, reserved = sum(s.spent for s in found), sum(s.reserved for s in found)
    if len(found) > 1:
        tried = sum(s.attempts for s in found)
        rows.append(("all", money(spent), money(reserved), "", str(tried)))
    table((by, "spent", "reserved", "jobs", "attempts"), rows)
    lost, unpriced = sum(s.unknown for s in found), sum(s.unpriced for s in found)
    if lost:
        say(f"of {lost} attempts nobody knows whether they ran; they count as spent")
    if unpriced:
        say(f"of {unpriced} attempts the price is unknown: the true sum may differ")


def _row(name: str, one: Spending) -> tuple[str, ...]:
    return (name, money(one.spent), money(one.reserved), str(one.jobs), str(one.attempts))
