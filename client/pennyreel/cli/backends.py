"""`pennyreel backends`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pennyreel.cli.common import echo, echo_json, say

if TYPE_CHECKING:
    from pennyreel.client import Client
    from pennyreel.types import Health


@click.command("backends")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(as_json: bool) -> None:
    """Show every backend, how it is and what it runs; `pennyreel quote` says where a job goes."""
    from pennyreel.client import Client

    with Client() as client:
        rows = [(health, runs(client, health)) for health in client.backends()]
        usual = client.settings.backend
        wrong = misspelt(usual)
    if as_json:
        told: list[dict[str, Any]] = [{**h.to_json(), "runs": able} for h, able in rows]
        echo_json({"backends": told, "configured": usual})
        return
    for health, able in rows:
        mark = "ok  " if health.reachable else "no  "
        echo(f"{mark}{health.backend:<11} {health.detail}")
        if health.hint and not health.reachable:
            echo(f"{'':16}next: {health.hint}")
        elif able:
            echo(f"{'':16}runs: {', '.join(able)}")
    if usual is not None:
        say(wrong or f"jobs go to {usual} alone, as it is configured")
    say("where a job would go, and what it would cost: pennyreel quote WORKFLOW|PROMPT")


def runs(client: Client, health: Health) -> list[str]:
    """Return what a backend that answers takes: workflows and templates, or prompts as such."""
    if not health.reachable:
        return []
    able = client.backend(health.backend, health.target or None).abilities()
    return ["workflows", "templates"] * able.workflows + ["prompts"] * able.prompts


def misspelt(name: str | None) -> str:
    """Return what is wrong with the name of the configured backend; "" = nothing."""
    from pennyreel.backends import registry
    from pennyreel.errors import PennyreelError

    try:
        if name is not None:
            registry.check(name.partition(":")[0])
    except PennyreelError as problem:
        return f"{problem}\nnext: {problem.hint}"
    return ""
