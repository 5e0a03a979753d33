"""`pennyreel run`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pennyreel.cli._terms import given, terms_options
from pennyreel.cli.common import finish, leave, no_wait_option, output_options, pairs, sending


@click.command("run")
@click.argument("workflow")
@click.option(
    "--set",
    "sets",
    multiple=True,
    metavar="NODE.INPUT=VALUE",
    help="Set a node's input; NODE is an id or a title.",
)
@click.option(
    "--param", "params", multiple=True, metavar="NAME=VALUE", help="Set a template's parameter."
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NODE.INPUT=FILE|URL",
    help="Give a file to a node; NODE alone where it has one file input.",
)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="For every seed in the graph.")
@terms_options
@no_wait_option
@output_options
def command(
    *,
    workflow: str,
    sets: tuple[str, ...],
    params: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: int | None,
    no_wait: bool,
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
    **options: Any,
) -> None:
    """Run WORKFLOW and save what it makes.

    WORKFLOW is a file or URL in ComfyUI's API format (Workflow > Export (API)), or the name of a
    template. It goes to the best backend by your policy, as `pennyreel quote` shows, and moves on
    where one fails, never paying twice. The saved files' paths are printed, one a line.
    """
    from pennyreel.cli._setup import offered
    from pennyreel.cli.generate import asker
    from pennyreel.client import Client

    given_sets = pairs(sets, "--set")
    given_params = pairs(params, "--param")
    given_inputs = pairs(inputs, "--input")
    work: Any = {
        "set_text": given_sets,
        "parameters_text": given_params,
        "inputs": given_inputs,
        "seed": seed,
        "timeout_s": timeout_s,
        "out_dir": out_dir,
    }
    told = given(options)
    with Client() as client, sending(client):
        ask = asker(yes=False)
        job = offered(lambda: client.submit(workflow, ask=ask, **work, **told), workflow)
        (leave if no_wait else finish)(job, as_json=as_json, json_lines=json_lines)
