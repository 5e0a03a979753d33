"""`pennyreel demo`: one video through the whole serverless path, at no cost."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pennyreel.cli.comfyui import install_reporter
from pennyreel.cli.common import echo_json, interrupts, say, view

if TYPE_CHECKING:
    from pennyreel.config import Settings
    from pennyreel.types import RunResult

TEMPLATE = "hello-video"


@click.command("demo")
@click.option(
    "-o",
    "--out",
    "out_dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where the video goes.  [default: pennyreel-output]",
)
@click.option("--json", "as_json", is_flag=True, help="The result as one JSON object.")
def command(out_dir: Path | None, as_json: bool) -> None:
    """See the whole path work on this machine, at no cost.

    Installs ComfyUI if it is not there, starts the emulated RunPod, one real worker and S3,
    renders `hello-video` and stops everything again.
    """
    from pennyreel import config
    from pennyreel.client import Client
    from pennyreel.devstack import DevStack, Options

    settings = config.load(out_dir=out_dir)
    began = time.monotonic()
    with interrupts():
        _install(settings)
        say("Starting the emulated RunPod, a worker and S3 …")
        with DevStack(settings, Options(workers_min=1)):
            started = time.monotonic()
            with (
                Client(backend="dev", out_dir=out_dir) as client,
                view(quiet=as_json, json_lines=False) as show,
            ):
                result = client.run(TEMPLATE, on_event=show, timeout_s=600)
    seconds = {"setup": started - began, "all": time.monotonic() - began}
    if as_json:
        echo_json({**result.to_json(), "demo_seconds": seconds})
    else:
        _tell(result, seconds)


def _install(settings: Settings) -> None:
    from pennyreel_comfy import install as installer

    if installer.Installation.load(settings.comfyui_home) is not None:
        return
    with install_reporter() as report:
        installer.install(settings.comfyui_home, report=report)


def _tell(result: RunResult, seconds: dict[str, float]) -> None:
    for path in result.paths:
        click.echo(str(path))
    click.echo("")
    click.echo("Its way: client -> RunPod (emulated) -> RunPod's SDK -> pennyreel worker")
    click.echo("         -> ComfyUI -> S3 (moto's) -> this file. All on this machine; cost: $0.")
    click.echo("")
    for name, value in _stages(result, seconds):
        click.echo(f"  {name:<36}{value:6.1f} s")
    click.echo("")
    click.echo("This is a test pattern that ComfyUI drew without a model: no prompt was read.")
    me = _me()
    click.echo("Nothing of it runs any more. Next, start ComfyUI and run a workflow of your own:")
    click.echo(f"  {me} comfyui start")
    click.echo(f"  {me} run WORKFLOW.json")
    click.echo("or see what is ready to use:")
    click.echo(f"  {me} doctor")


def _me() -> str:
    """How this program is called from this shell and folder."""
    here = Path(sys.executable).with_name("pennyreel")
    if shutil.which("pennyreel") or not here.is_file():
        return "pennyreel"
    return os.path.relpath(here) if here.is_relative_to(Path.cwd()) else str(here)


def _stages(result: RunResult, seconds: dict[str, float]) -> list[tuple[str, float]]:
    remote: Any = result.remote_timings
    local: Any = result.timings
    rows = [("installation and start", seconds["setup"])]
    if "queue" in local:
        rows.append(("queue, with the worker's cold start", local["queue"]))
    rows += [
        (label, remote[name])
        for name, label in (
            ("prepare", "worker: prepare"),
            ("execute", "worker: ComfyUI renders"),
            ("deliver", "worker: deliver to S3"),
        )
        if name in remote
    ]
    if "fetch" in local:
        rows.append(("download", local["fetch"]))
    return [*rows, ("all", seconds["all"])]
