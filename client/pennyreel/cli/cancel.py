"""`pennyreel cancel`."""

from __future__ import annotations

import click

from pennyreel.cli.common import echo_json


@click.command("cancel")
@click.argument("handle")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(handle: str, as_json: bool) -> None:
    """Stop the job HANDLE and make sure that it has stopped."""
    from pennyreel.client import Client
    from pennyreel.errors import Code, error

    with Client() as client:
        job = client.handle(handle)
        if not job.cancel():
            raise error(
                Code.BACKEND_UNAVAILABLE,
                f"{job.handle.backend} did not confirm that the job stopped",
                hint="Try again in a moment.",
                detail={"handle": str(job.handle)},
            )
        if as_json:
            echo_json({"handle": str(job.handle), "stopped": True})
        else:
            click.echo("stopped")
