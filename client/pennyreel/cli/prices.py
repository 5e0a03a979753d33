"""`pennyreel prices`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pennyreel.cli.common import echo, echo_json, say

if TYPE_CHECKING:
    from pennyreel.money.catalog import Row


@click.command("prices")
@click.option(
    "--refresh", is_flag=True, help="First ask RunPod for its prices of now; needs a key."
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(*, refresh: bool, as_json: bool) -> None:
    """Show what is billed by what, how sure that is, and who says so.

    Your own prices stand in prices.toml in pennyreel's home, or in [prices] of the config file.
    """
    from pennyreel import config
    from pennyreel.money import catalog

    settings = config.load()
    if refresh:
        from pennyreel.money import live

        count = live.refresh(settings)
        if not as_json:
            say(f"RunPod told {count} prices")
    file = str(settings.config_file or "the config file")
    table = catalog.load(settings.home, settings.prices, file=file)
    rows = [table.rows[sku] for sku in sorted(table.rows)]
    told = catalog.fetched(settings.home)
    if as_json:
        plain = [_plain(row) for row in rows]
        about = {"version": table.version, "date": table.date, "runpod_fetched": told}
        echo_json({**about, "prices": plain})
        return
    for line in _table(rows):
        echo(line)
    say(f"price table {table.version}; yours go into {settings.home / 'prices.toml'}")
    age = f"of {told}" if told else "built in; of now: pennyreel prices --refresh"
    say(f"RunPod's prices: {age}")


def _plain(row: Row) -> dict[str, Any]:
    return {
        "sku": row.sku,
        "usd": None if row.usd is None else str(row.usd),
        "unit": row.unit.value,
        "per": row.per,
        "microusd": None if row.microusd is None else float(row.microusd),
        "certainty": row.certainty.value,
        "date": row.date,
        "source": row.source,
        "startup_s": row.startup_s,
        "idle_s": row.idle_s,
        "note": row.note,
    }


def _table(rows: list[Row]) -> list[str]:
    from pennyreel.routing.explain import table

    head = ("sku", "price", "unit", "certainty", "date", "source")
    return table([head, *(_cells(row) for row in rows)])


def _cells(row: Row) -> tuple[str, ...]:
    price = "unknown" if row.usd is None else f"${row.usd}" if row.usd else "free"
    unit = row.unit.value.replace("_", " ")
    unit = "GPU hour" if row.per == "hour" else unit.replace("gpu", "GPU")
    date = row.date or "yours"
    return row.sku, price, unit, row.certainty.value, date, row.source + _besides(row)


def _besides(row: Row) -> str:
    told = [f"start up to {row.startup_s:g} s"] if row.startup_s else []
    told += [f"idle {row.idle_s:g} s"] if row.idle_s else []
    told += [f"{row.watts:g} W at ${row.kwh_usd} a kWh"] if row.kwh_usd else []
    told += [row.note] if row.note else []
    return f" ({'; '.join(told)})" if told else ""
