"""`pennyreel result`."""

from __future__ import annotations

from pathlib import Path

import click

from pennyreel.cli.common import finish, output_options


@click.command("result")
@click.argument("handle")
@output_options
def command(
    handle: str,
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
) -> None:
    """Wait for the job HANDLE, from any process, and save its files.

    HANDLE is what `run` printed. Ctrl-C cancels the job.
    """
    from pennyreel.client import Client

    with Client() as client:
        job = client.handle(handle, timeout_s=timeout_s, out_dir=out_dir)
        finish(job, as_json=as_json, json_lines=json_lines)
