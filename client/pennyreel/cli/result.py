"""`pennyreel result`."""

from __future__ import annotations

from pathlib import Path

import click

from pennyreel.cli.common import finish, output_options, sending


@click.command("result")
@click.argument("handle", metavar="HANDLE|JOB")
@output_options
def command(
    handle: str,
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
) -> None:
    """Wait for a job, from any process, and save its files.

    HANDLE is what `run --no-wait` printed, JOB a job's id or its first letters. An open job goes
    on; of one that has ended the files are fetched again. Ctrl-C cancels the job.
    """
    from pennyreel.cli.generate import asker
    from pennyreel.client import Client

    with Client() as client, sending(client):
        ask = asker(yes=False)
        job = client.handle(handle, timeout_s=timeout_s, out_dir=out_dir, ask=ask)
        finish(job, as_json=as_json, json_lines=json_lines)
