"""`pennyreel dev`: the serverless path on this machine, until Ctrl-C."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pennyreel.cli.common import echo_json, interrupts, say

if TYPE_CHECKING:
    from pennyreel.devstack import DevStack
    from pennyreel_emulators.runpod import Event


@click.command("dev")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(0, 16), help="At most."
)
@click.option("--warm", default=0, show_default=True, type=click.IntRange(0, 16), help="At least.")
@click.option("--idle-timeout", default=60.0, show_default=True, help="Seconds until one stops.")
@click.option("--port", default=0, type=click.IntRange(0, 65535), help="[default: a free one]")
@click.option("--no-s3", is_flag=True, help="Without S3: results come inline, up to 10 MB.")
@click.option(
    "--comfyui",
    type=click.Path(file_okay=False, path_type=Path),
    help="An installed ComfyUI.  [default: that of `pennyreel comfyui install`]",
)
@click.option("--worker-log", is_flag=True, help="Show what the workers write.")
@click.option("--json", "as_json", is_flag=True, help="Events as JSON lines.")
def command(
    workers: int,
    warm: int,
    idle_timeout: float,
    port: int,
    no_s3: bool,
    comfyui: Path | None,
    worker_log: bool,
    as_json: bool,
) -> None:
    """Run an emulated RunPod with real workers on this machine, until Ctrl-C.

    The platform is emulated; the workers, their SDK and ComfyUI are real, and cost nothing.
    """
    from pennyreel import config
    from pennyreel.devstack import DevStack, Options

    options = Options(
        workers_min=min(warm, workers),
        workers_max=workers,
        idle_timeout_s=idle_timeout,
        port=port,
        s3=not no_s3,
        comfyui=comfyui,
    )
    stack = DevStack(
        config.load(),
        options,
        on_event=_event_json if as_json else _event_line,
        on_log=(lambda _, worker, line: say(f"{worker} | {line}")) if worker_log else None,
    )
    with interrupts():
        try:
            with stack:
                _greet(stack, as_json=as_json)
                threading.Event().wait()
        except KeyboardInterrupt:
            say("stopped: no process is left")


def _greet(stack: DevStack, *, as_json: bool) -> None:
    variables = {
        "RUNPOD_ENDPOINT_BASE_URL": stack.base_url,
        "RUNPOD_ENDPOINT_ID": stack.endpoint,
        "RUNPOD_API_KEY": stack.api_key,
    }
    if as_json:
        echo_json({"event": "ready", **variables, "s3": stack.s3.url if stack.s3 else None})
        return
    click.echo("RunPod serverless, emulated on this machine. Ctrl-C stops all of it.\n")
    click.echo("  pennyreel run hello-video --backend dev\n")
    click.echo("Or for any RunPod client:")
    for name, value in variables.items():
        click.echo(f"  export {name}={value}")
    if stack.s3 is not None:
        click.echo(f"\nS3 (moto's, in memory): {stack.s3.url}")
    click.echo("")


def _event_line(event: Event) -> None:
    from pennyreel_emulators import runpod as emulated

    text = ""
    if isinstance(event, emulated.JobQueued):
        text = f"{event.job_id} queued"
    elif isinstance(event, emulated.JobTaken):
        text = f"{event.job_id} taken by {event.worker_id}"
    elif isinstance(event, emulated.JobFinished):
        took = f", {event.execution_ms / 1000:.1f} s" if event.execution_ms is not None else ""
        waited = f" after {event.delay_ms / 1000:.1f} s in queue" if event.delay_ms else ""
        text = f"{event.job_id} {event.status}{waited}{took}"
    elif isinstance(event, emulated.WorkerStarted):
        text = f"worker {event.worker_id} started (pid {event.pid}): a cold start"
    elif isinstance(event, emulated.WorkerReady):
        text = f"worker {event.worker_id} ready after {event.cold_start_s:.1f} s"
    elif isinstance(event, emulated.WorkerStopped):
        text = f"worker {event.worker_id} stopped ({event.reason})"
    if text:
        click.echo(text)


def _event_json(event: Event) -> None:
    from dataclasses import asdict

    echo_json({"event": type(event).__name__, **asdict(event)})
