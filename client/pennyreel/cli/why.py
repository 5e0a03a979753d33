"""`pennyreel why`."""

from __future__ import annotations

import click

from pennyreel.cli.common import echo, echo_json


@click.command("why")
@click.argument("job_id", metavar="JOB")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(*, job_id: str, as_json: bool) -> None:
    """Say why JOB went where it went: every backend, and what spoke for or against it."""
    from pennyreel.client import Client
    from pennyreel.routing.explain import explained

    with Client() as client:
        decision = client.dispatch.decision(job_id)
    if as_json:
        echo_json(decision.to_json())
    else:
        echo(explained(decision))
