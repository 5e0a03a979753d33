"""`pennyreel cancel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from pennyreel.cli.common import echo_json

if TYPE_CHECKING:
    from pennyreel.errors import PennyreelError
    from pennyreel.money.records import Job


@click.command("cancel")
@click.argument("handle", metavar="HANDLE|JOB")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(handle: str, as_json: bool) -> None:
    """Stop a job by its handle or its id, and make sure that it has stopped."""
    from pennyreel.client import Client

    with Client() as client:
        if not client.cancel(handle):
            known = None if ":" in handle else client.dispatch.ledger.job(handle)
            raise unconfirmed(known, {"handle": handle})
    if as_json:
        echo_json({"handle": handle, "stopped": True})
    else:
        click.echo("stopped")


def unconfirmed(job: Job | None, detail: dict[str, Any]) -> PennyreelError:
    """Return the error of a cancel that was not confirmed; `job` as the ledger has it, if it does.

    Where no answer told a handle, there is nothing to try again.
    """
    from pennyreel.errors import Code, error
    from pennyreel.kept import look_again

    lost = [] if job is None else [a for a in job.attempts if a.state == "unknown"]
    blind = job is not None and bool(lost) and not any(a.handle for a in lost)
    return error(
        Code.BACKEND_UNAVAILABLE,
        "it is not confirmed that the job stopped",
        hint=look_again(job) if job is not None and blind else "Try again in a moment.",
        detail=detail,
    )
