"""`pennyreel doctor`."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pennyreel.cli.backends import misspelt, runs
from pennyreel.cli.common import echo, echo_json
from pennyreel.cli.exits import SETUP

if TYPE_CHECKING:
    from pennyreel.client import Client
    from pennyreel.config import Settings
    from pennyreel.types import Health

_LOW_DISK = 5 << 30
_QUOTE = "where one would go, and for how much: pennyreel quote WORKFLOW|PROMPT"


@dataclass(frozen=True)
class Check:
    """One line: `state` is ok, note (fine, but worth knowing) or no."""

    name: str
    state: str
    detail: str
    next: str = ""


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine and say what to do about what is missing.

    Exit code 0 when at least one backend can run a job, else 4. Costs nothing.
    """
    from pennyreel.client import Client

    with Client() as client:
        found = client.backends()
        checks = [
            *_machine(client.settings),
            *_comfyui(client),
            *_runpod(client),
            *_hosted(client.settings, found),
            *_dev(client),
        ]
        verdict = _verdict(client, found)
    ready = verdict.state != "no"
    if as_json:
        echo_json({"ready": ready, "checks": [asdict(c) for c in [*checks, verdict]]})
    else:
        for check in [*checks, verdict]:
            echo(f"{check.state:<5} {check.name:<11} {check.detail}")
            if check.next:
                told = check.next.replace("\n", f"\n{'':<24}")
                echo(f"{'':<17} next: {told}")
    if not ready:
        ctx.exit(SETUP)


def _machine(settings: Settings) -> Iterator[Check]:
    from pennyreel_contract.version import __version__

    python = platform.python_version()
    yield Check("pennyreel", "ok", f"{__version__}, Python {python} on {sys.platform}")
    config = settings.config_file
    yield Check("config", "ok", str(config) if config else "no file; environment and defaults")
    yield _home(settings.home)
    parent = next(p for p in [settings.home, *settings.home.parents] if p.exists())
    free = shutil.disk_usage(parent).free
    state = "ok" if free > _LOW_DISK else "note"
    advice = "" if state == "ok" else "ComfyUI and a model need about 5 GB: free some space."
    yield Check("disk", state, f"{free / 1e9:.1f} GB free at {parent}", advice)


def _home(home: Path) -> Check:
    """Look whether it could be written, without making it."""
    nearest = next(p for p in [home, *home.parents] if p.exists())
    if nearest.is_dir() and os.access(nearest, os.W_OK):
        return Check("home", "ok", str(home))
    advice = "Name a folder you may write to in PENNYREEL_HOME."
    return Check("home", "no", f"{home} cannot be written", advice)


def _comfyui(client: Client) -> Iterator[Check]:
    from pennyreel import localcomfy
    from pennyreel_comfy.install import Installation

    settings = client.settings
    health = client.backend("comfyui").health()
    ours = localcomfy.running(settings.comfyui_home)
    installed = Installation.load(settings.comfyui_home)
    state = "ok" if health.reachable else "note"
    if not health.reachable and ours is not None:
        health = client.backend("comfyui", ours.url).health()
        state = "ok" if health.reachable else "no"
    advice = ""
    if not health.reachable:
        advice = f"pennyreel comfyui {'start' if installed else 'install'}"
    yield Check("comfyui", state, health.detail, advice)
    if installed is None:
        yield Check("installed", "note", "no ComfyUI of pennyreel's own", "pennyreel setup")
    else:
        told = f"ComfyUI {installed.comfyui_version}, {installed.device}, torch {installed.torch}"
        yield Check("installed", "ok", told)


def _runpod(client: Client) -> Iterator[Check]:
    settings = client.settings
    if not settings.runpod_api_key:
        yield Check("runpod", "note", "no API key is set", "set RUNPOD_API_KEY")
    elif not settings.runpod_endpoint:
        yield Check("runpod", "note", "a key is set, but no endpoint", "set RUNPOD_ENDPOINT_ID")
    else:
        health = client.health("runpod")
        state = "ok" if health.reachable else "no"
        yield Check("runpod", state, health.detail, "" if health.reachable else health.hint)
        if settings.s3 is None:
            told = (
                "RunPod keeps results for 30 minutes: a job whose client ended longer ago is lost"
            )
            advice = "give worker and client one bucket: BUCKET_* there, PENNYREEL_S3_BUCKET here"
            yield Check("results", "note", told, advice)


def _hosted(settings: Settings, found: list[Health]) -> Iterator[Check]:
    """Tell of the hosted models that have a key; what is kept for how long is worth knowing."""
    keyed = {
        "replicate": settings.replicate_api_token,
        "gemini": settings.gemini_api_key,
        "veo": settings.vertex_project,
        "veo-fast": settings.vertex_project,
        "huggingface": settings.hf_token,
    }
    for health in found:
        if keyed.get(health.backend):
            state = "no" if not health.reachable else "note" if health.hint else "ok"
            yield Check(health.backend, state, health.detail, health.hint)
    if settings.replicate_api_token:
        told = "Replicate keeps results for an hour: a job whose client ended longer ago is lost"
        yield Check("results", "note", told, "after a crash: pennyreel jobs resume")


def _dev(client: Client) -> Iterator[Check]:
    health = client.health("dev")
    state = "ok" if health.reachable else "note"
    advice = "" if health.reachable else "pennyreel dev"
    yield Check("dev stack", state, health.detail, advice)


def _verdict(client: Client, found: list[Health]) -> Check:
    """Say whether anything can run a job; which one it would be depends on the job."""
    able = {h.backend: runs(client, h) for h in found if h.reachable}
    usual = client.settings.backend
    if usual is not None:
        return _of_the_configured(client, usual, list(able))
    # The dev stack makes test pictures of no model: it has to be asked for by name.
    real = {name: kinds for name, kinds in able.items() if name != "dev" and kinds}
    if real:
        told = "; ".join(f"{name} runs {' and '.join(kinds)}" for name, kinds in real.items())
        return Check("verdict", "ok", f"jobs can run: {told}", _QUOTE)
    if able:
        advice = f"pennyreel run WORKFLOW --backend {next(iter(able))}"
        return Check("verdict", "note", "only the dev stack answers", advice)
    ways = "pennyreel quote 'a paper boat' lists the ways, cheapest first"
    return Check("verdict", "no", "there is nothing here that could run a job yet", ways)


def _of_the_configured(client: Client, usual: str, able: list[str]) -> Check:
    """Tell of the only backend that jobs go to."""
    wrong = misspelt(usual)
    health = None if wrong else client.health(usual.partition(":")[0])
    if health is not None and health.reachable:
        detail = f"jobs go to {usual} alone, as it is configured, and it can run one"
        return Check("verdict", "ok", detail, _QUOTE)
    why, hint = (wrong, "") if health is None else (health.detail, health.hint)
    detail = f"jobs go to {usual} alone, as it is configured: {why}"
    if not able:
        return Check("verdict", "no", detail, hint or "pennyreel config unset backend")
    advice = f"pennyreel run WORKFLOW --backend {able[0]}"
    return Check("verdict", "note", f"{detail}; but {able[0]} can run a job", advice)
