"""`pennyreel cancel`."""

from __future__ import annotations

import click

from pennyreel.cli.common import echo_json


@click.command("cancel")
@click.argument("handle", metavar="HANDLE|JOB")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(handle: str, as_json: bool) -> None:
    """Stop a job by its handle or its id, and make sure that it has stopped."""
    from pennyreel.client import Client
    from pennyreel.errors import Code, error

    with Client() as client:
        stopped = client.cancel(handle)
    if not stopped:
        raise error(
            Code.BACKEND_UNAVAILABLE,
            "it is not confirmed that the job stopped",
            hint="Try again in a moment.",
            detail={"handle": handle},
        )
    if as_json:
        echo_json({"handle": handle, "stopped": True})
    else:
        click.echo("stopped")
