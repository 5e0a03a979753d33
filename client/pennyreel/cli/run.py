"""`pennyreel run`."""

from __future__ import annotations

from pathlib import Path

import click

from pennyreel.cli.common import echo_json, finish, interrupts, output_options, pairs, say


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
@click.option("--backend", metavar="NAME", help="comfyui, runpod or dev.  [default: choose]")
@click.option("--no-wait", is_flag=True, help="Print the job's handle and leave it running.")
@output_options
def command(
    *,
    workflow: str,
    sets: tuple[str, ...],
    params: tuple[str, ...],
    inputs: tuple[str, ...],
    seed: int | None,
    backend: str | None,
    no_wait: bool,
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
) -> None:
    """Run WORKFLOW and save what it makes.

    WORKFLOW is a file or URL in ComfyUI's API format (Workflow > Export (API)), or the name of a
    template. The saved files' paths are printed, one a line.
    """
    from pennyreel.client import Client

    given_sets = pairs(sets, "--set")
    given_params = pairs(params, "--param")
    given_inputs = pairs(inputs, "--input")
    with Client(backend=backend) as client:
        with interrupts():
            job = client.submit(
                workflow,
                set_text=given_sets,
                parameters_text=given_params,
                inputs=given_inputs,
                seed=seed,
                timeout_s=timeout_s,
                out_dir=out_dir,
            )
        if not no_wait:
            finish(job, as_json=as_json, json_lines=json_lines)
        elif as_json or json_lines:
            echo_json({"job_id": job.id, "handle": str(job.handle)})
        else:
            click.echo(str(job.handle))
            say(f"fetch it with: pennyreel result '{job.handle}'")
