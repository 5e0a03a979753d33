"""`pennyreel budget`: how much may be spent, and how much of it is taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pennyreel.cli._books import money, open_ledger, table
from pennyreel.cli.common import echo_json, say

if TYPE_CHECKING:
    from pennyreel.money.caps import Budget


@click.group("budget", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show the budgets, or set and remove them. Days and months are UTC's."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show, as_json=as_json)


@command.command("show")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def show(as_json: bool) -> None:
    """Show each budget: its cap, what is spent and reserved, what is left, when it resets."""
    with open_ledger() as ledger:
        found = ledger.budgets()
    if as_json:
        echo_json({"budgets": [b.to_json() for b in found]})
    elif found:
        head = ("scope", "period", "cap", "spent", "reserved", "left", "resets (UTC)")
        table(head, [_row(b) for b in found], left=2)
    else:
        say("no budget is set; set one with: pennyreel budget set all --day 2 --month 20")


@command.command("set")
@click.argument("scope")
@click.option("--day", metavar="USD", help="Dollars that may be spent a day.")
@click.option("--month", metavar="USD", help="Dollars that may be spent a month.")
@click.option("--total", metavar="USD", help="Dollars that may be spent in all.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def set_(scope: str, day: str | None, month: str | None, total: str | None, as_json: bool) -> None:
    """Cap what may be spent in SCOPE: all, backend:NAME, project:NAME or user:NAME.

    A job is refused when the most that it may cost does not fit under every cap that it counts in.
    """
    from pennyreel.money.amounts import microusd
    from pennyreel.money.caps import Scope

    place = Scope.parse(scope)
    given = {"day": day, "month": month, "total": total}
    limits = {p: microusd(text, f"--{p}") for p, text in given.items() if text is not None}
    if not limits:
        raise click.UsageError("say how much: --day, --month or --total")
    with open_ledger() as ledger:
        made = [ledger.set_budget(place, period, limit) for period, limit in limits.items()]
    if as_json:
        echo_json({"budgets": [b.to_json() for b in made]})
        return
    for one in made:
        over = "; more is taken already" if one.held.counted > one.cap.limit else ""
        say(f"{one.cap.scope}: at most {money(one.cap.limit)} a {one.cap.period}{over}")


@command.command("remove")
@click.argument("scope")
@click.option("--day", is_flag=True, help="Only that of the day.")
@click.option("--month", is_flag=True, help="Only that of the month.")
@click.option("--total", is_flag=True, help="Only that of all time.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def remove(scope: str, day: bool, month: bool, total: bool, as_json: bool) -> None:
    """Lift the caps of SCOPE: all, backend:NAME, project:NAME or user:NAME."""
    from pennyreel.errors import Code, error
    from pennyreel.money.caps import Scope

    place = Scope.parse(scope)
    chosen = [p for p, on in (("day", day), ("month", month), ("total", total)) if on]
    with open_ledger() as ledger:
        gone = [p for p in chosen or ["day", "month", "total"] if ledger.remove_budget(place, p)]
    if not gone:
        raise error(
            Code.BAD_REQUEST,
            f"there is no such budget of {place}",
            hint="See what is set: pennyreel budget",
        )
    if as_json:
        echo_json({"scope": str(place), "removed": gone})
    else:
        say(f"{place}: no cap any more by {', '.join(gone)}")


def _row(one: Budget) -> tuple[str, ...]:
    from pennyreel.money.periods import stamp

    resets = (stamp(one.resets_ms) or "never")[:10]
    held = one.held
    amounts = (one.cap.limit, held.spent, held.reserved, one.left)
    return (str(one.cap.scope), one.cap.period, *(money(a) for a in amounts), resets)
