"""`pennyreel comfyui`: the ComfyUI on this machine."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pennyreel.cli.common import echo_json, say

if TYPE_CHECKING:
    from pennyreel.config import Settings


DEVICES = ("auto", "cpu", "cuda", "rocm", "mps")
SOURCES = ("auto", "release", "horde")


def _source(_: click.Context, __: click.Parameter, value: str) -> str:
    if value not in SOURCES and not Path(value).expanduser().is_dir():
        raise click.BadParameter(f"{value!r} is none of {', '.join(SOURCES)}, and no folder")
    return value


@click.group("comfyui")
def command() -> None:
    """Install, start and stop a ComfyUI on this machine."""


@command.command()
@click.option(
    "--source",
    default="auto",
    show_default=True,
    callback=_source,
    help="auto, release, horde, a folder.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(DEVICES),
    metavar="DEVICE",
    help="auto, cpu, cuda, rocm, mps.",
)
@click.option("--frontend", is_flag=True, help="With ComfyUI's own editor.")
@click.option("--reinstall", is_flag=True, help="Begin anew; models and custom nodes are kept.")
@click.option("--no-verify", is_flag=True, help="Do not make a small picture at the end.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done, and why.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def install(
    *,
    source: str,
    device: str,
    frontend: bool,
    reinstall: bool,
    no_verify: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Install ComfyUI. It can be interrupted and run again: it resumes."""
    from pennyreel_comfy import install as installer

    root = _settings().comfyui_home
    if dry_run:
        plan = installer.plan(source=source, device=device, frontend=frontend)
        if as_json:
            echo_json(plan.to_dict())
        else:
            click.echo(plan.sentence)
        return
    with install_reporter() as report:
        done = installer.install(
            root,
            source=source,
            device=device,
            frontend=frontend,
            reinstall=reinstall,
            verify=not no_verify,
            report=report,
        )
    if as_json:
        echo_json({"root": str(root), **_installation(done)})
        return
    click.echo(f"ComfyUI {done.comfyui_version} ({done.device}, torch {done.torch}) in {root}")
    say("next: pennyreel comfyui start")


@command.command()
@click.option("--port", type=click.IntRange(1, 65535), help="[default: 8188, or a free one]")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.argument("extra", nargs=-1)
def start(port: int | None, as_json: bool, extra: tuple[str, ...]) -> None:
    """Start it in the background. EXTRA goes to ComfyUI, after `--`."""
    from pennyreel import localcomfy

    settings = _settings()
    done = localcomfy.start(
        settings.comfyui_home, url=settings.comfyui_url, port=port, extra=extra, report=say
    )
    if as_json:
        echo_json({"url": done.url, "pid": done.pid, "adopted": done.adopted})
    elif done.adopted:
        click.echo(f"a ComfyUI answers at {done.url} already; it is used, and never stopped by us")
    elif done.was_running:
        click.echo(f"it runs already at {done.url} (pid {done.pid})")
    else:
        click.echo(f"ComfyUI is ready at {done.url} (pid {done.pid}, {done.seconds:.1f} s)")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def stop(as_json: bool) -> None:
    """Stop the ComfyUI that `start` started, and no other."""
    from pennyreel import localcomfy

    stopped = localcomfy.stop(_settings().comfyui_home)
    if as_json:
        echo_json({"stopped": stopped})
    else:
        click.echo("stopped" if stopped else "nothing to stop: pennyreel has started no ComfyUI")


@command.command()
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(as_json: bool) -> None:
    """Say what is installed and what runs."""
    from pennyreel import localcomfy
    from pennyreel.backends.comfyui import ComfyBackend
    from pennyreel_comfy.install import Installation

    settings = _settings()
    root = settings.comfyui_home
    installed = Installation.load(root)
    ours = localcomfy.running(root)
    url = ours.url if ours else settings.comfyui_url
    health = ComfyBackend(url).health()
    if as_json:
        echo_json(
            {
                "root": str(root),
                "installed": None if installed is None else _installation(installed),
                "running": health.reachable,
                "url": url if health.reachable else None,
                "pid": ours.pid if ours else None,
                "ours": ours is not None,
                "log": str(localcomfy.log_file(root)),
                "devices": [dict(d) for d in health.devices],
            }
        )
        return
    if installed is None:
        click.echo(f"not installed in {root}  (pennyreel comfyui install)")
    else:
        click.echo(f"installed: ComfyUI {installed.comfyui_version}, {installed.device}, {root}")
    whose = f"pid {ours.pid}" if ours else "not started by pennyreel"
    click.echo(f"running: {health.detail} ({whose})" if health.reachable else "not running")


@command.command()
@click.option(
    "-n",
    "--lines",
    default=40,
    show_default=True,
    type=click.IntRange(1, 10_000),
    help="How many lines.",
)
@click.option("-f", "--follow", is_flag=True, help="Go on until Ctrl-C.")
def logs(lines: int, follow: bool) -> None:
    """Show the end of its log."""
    from pennyreel import localcomfy
    from pennyreel.errors import Code, error

    root = _settings().comfyui_home
    path = localcomfy.log_file(root)
    if not path.is_file():
        raise error(
            Code.NOT_CONFIGURED, f"there is no log {path}", hint="Run: pennyreel comfyui start"
        )
    for line in localcomfy.tail(root, lines):
        click.echo(line)
    if follow:
        # Ctrl-C is how one leaves, not an error.
        with suppress(KeyboardInterrupt), path.open(encoding="utf-8", errors="replace") as file:
            file.seek(0, 2)
            while True:
                text = file.read()
                click.echo(text, nl=False)
                time.sleep(0.5)


@command.command()
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def uninstall(yes: bool, as_json: bool) -> None:
    """Stop it and remove it, models and outputs in its folder included."""
    from pennyreel import localcomfy
    from pennyreel_comfy import install as installer

    root = _settings().comfyui_home
    mine = installer.user_files(root)
    if mine.count and not yes and not _agreed(f"{root} holds {_told(mine)}"):
        say("nothing was removed")
        return
    localcomfy.stop(root)
    removed = installer.uninstall(root)
    localcomfy.forget(root)
    if as_json:
        echo_json({"removed": removed, "root": str(root)})
    else:
        click.echo(f"removed {root}" if removed else f"nothing is installed in {root}")


def _told(mine: Any) -> str:
    return f"{mine.count} models, inputs and outputs ({mine.size / 1e9:.2f} GB)"


def _agreed(what: str) -> bool:
    """Ask whoever sits there; without a terminal nobody does."""
    from pennyreel.errors import Code, error

    if not sys.stdin.isatty():
        raise error(
            Code.BAD_REQUEST,
            f"{what}; they would be removed, too",
            hint="Say so with --yes, or move them elsewhere first.",
        )
    return click.confirm(f"{what}. Remove them too?", err=True)


def _settings() -> Settings:
    from pennyreel import config

    return config.load()


def _installation(found: Any) -> dict[str, Any]:
    return {
        "comfyui": found.comfyui_version,
        "source": found.source,
        "device": found.device,
        "torch": found.torch,
        "created": found.created,
        "frontend": found.frontend,
    }


@contextmanager
def install_reporter() -> Iterator[Callable[[Any], None]]:
    """Show an installation's events; say after Ctrl-C that nothing is lost."""
    from pennyreel.errors import Code, error

    try:
        with _installation_view() as report:
            yield report
    except KeyboardInterrupt:
        raise error(
            Code.CANCELLED, "the installation was interrupted", hint="Run it again: it resumes."
        ) from None


@contextmanager
def _installation_view() -> Iterator[Callable[[Any], None]]:
    """Show it as a bar on a terminal, as lines elsewhere."""
    if not sys.stderr.isatty():
        yield _lines
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from pennyreel_comfy import install as installer

    columns = (
        SpinnerColumn(),
        TextColumn("{task.fields[stage]}", markup=False),
        BarColumn(24),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=None, stage="")

        def report(event: Any) -> None:
            if isinstance(event, installer.Note):
                console.print(event.text, markup=False, highlight=False)
            elif isinstance(event, installer.StageStarted):
                stage = f"{event.index}/{event.total} {event.name}"
                progress.reset(task, total=None, stage=stage, description="")
            elif isinstance(event, installer.StageProgress):
                total = None if event.fraction is None else 1.0
                done = event.fraction or 0.0
                progress.update(task, total=total, completed=done, description=event.text[:60])
            elif isinstance(event, installer.StageDone):
                console.print(_done(event), markup=False, highlight=False)

        yield report


def _done(event: Any) -> str:
    how = "was complete" if event.skipped else f"done in {event.seconds:.1f} s"
    return f"  {event.name}: {how}"


def _lines(event: Any) -> None:
    from pennyreel_comfy import install as installer

    if isinstance(event, installer.Note):
        say(event.text)
    elif isinstance(event, installer.StageStarted):
        say(f"[{event.index}/{event.total}] {event.name}")
    elif isinstance(event, installer.StageDone):
        say(_done(event))
