"""`pennyreel backends`."""

from __future__ import annotations

import click

from pennyreel.cli.common import echo, echo_json, say


@click.command("backends")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(as_json: bool) -> None:
    """Show where jobs can run. Costs nothing; `pennyreel quote` says where one would go."""
    from pennyreel.client import Client
    from pennyreel.errors import PennyreelError

    with Client() as client:
        found = client.backends()
        try:
            choice = client.choose()
        except PennyreelError as problem:
            choice, why = None, f"{problem}\nnext: {problem.hint}"
        if as_json:
            chosen = None if choice is None else {"backend": choice.name, "why": choice.why}
            echo_json({"backends": [h.to_json() for h in found], "chosen": chosen})
            return
        for health in found:
            mark = "ok  " if health.reachable else "no  "
            echo(f"{mark}{health.backend:<9} {health.detail}")
            if health.hint and not health.reachable:
                echo(f"{'':14}next: {health.hint}")
        if choice is None:
            say(why)
        else:
            echo(f"a workflow can go to {choice.name}: {choice.why}")
            say("where a job would go, and what it would cost: pennyreel quote WORKFLOW|PROMPT")
