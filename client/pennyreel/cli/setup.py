"""`pennyreel setup`: what a template or a workflow lacks on this machine, installed in one go."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from pennyreel.cli._setup import Asked, confirmed, terminal
from pennyreel.cli.comfyui import DEVICES
from pennyreel.cli.common import echo_json, say
from pennyreel.cli.exits import SETUP

if TYPE_CHECKING:
    from pennyreel.config import Settings
    from pennyreel.need import Need
    from pennyreel.provision.perform import Done
    from pennyreel.provision.plan import Plan


@click.command("setup")
@click.argument("what", required=False, metavar="[TEMPLATE|WORKFLOW]")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only say what is missing.")
@click.option("--no-start", is_flag=True, help="Do not start ComfyUI in the end.")
@click.option(
    "--device", default="auto", show_default=True, type=click.Choice(DEVICES), metavar="DEVICE",
    help="For ComfyUI, where it is installed: auto, cpu, cuda, rocm, mps.",
)  # fmt: skip
@click.option(
    "--allow-host", "allow_hosts", multiple=True, metavar="HOST",
    help="One more host to download models from; HOST:PORT may be a private one.",
)  # fmt: skip
@click.option(
    "--json", "as_json", is_flag=True,
    help="The plan as one JSON object; with --yes it is carried out, and its outcome told.",
)  # fmt: skip
@click.pass_context
def command(
    ctx: click.Context,
    *,
    what: str | None,
    yes: bool,
    dry_run: bool,
    no_start: bool,
    device: str,
    allow_hosts: tuple[str, ...],
    as_json: bool,
) -> None:
    """Install what a template or a workflow lacks here: ComfyUI, node packs, models.

    It shows sizes, licences and minutes, and asks once. It can be interrupted and run again: it
    resumes. Without an argument it is for the template that `pennyreel generate` uses.
    """
    from pennyreel import config, prompts
    from pennyreel.provision.wanted import need_of
    from pennyreel.provision.words import to_json

    name = what or prompts.TEMPLATES["video"]
    settings = config.load()
    need = need_of(name)
    if _by_theirs(settings, need, name, as_json=as_json):
        return
    asked = Asked(settings, need, name, device=device, start=not no_start, hosts=allow_hosts)
    plan = asked.plan()
    if dry_run or (as_json and not yes):
        _tell(plan, as_json=as_json)
        return
    if plan.empty:
        _tell(plan, as_json=as_json)
        say(f"next: {_next(name)}")
        return
    for line in asked.lines(plan) if not as_json else ():
        say(line)
    if not yes:
        _agree(plan)
    done = asked.perform(plan, quiet=as_json)
    if not as_json:
        _finish(plan, done, name)
        return
    echo_json({**to_json(plan), "complete": not plan.by_hand, "done": done.to_json()})
    if plan.by_hand:
        ctx.exit(SETUP)


def _by_theirs(settings: Settings, need: Need, name: str, *, as_json: bool) -> bool:
    """Leave a ComfyUI alone that is not ours: return whether it has all, or say what it lacks."""
    from pennyreel.errors import Code, error
    from pennyreel.provision import offer, running

    now = running.look(settings, need)
    if now is None or now.ours or now.told is None:
        return False
    if now.told:
        lacks = offer.elsewhere(settings, need, now.told)
        raise error(
            Code.NOT_CONFIGURED,
            f"the ComfyUI at {now.url} is not pennyreel's own, and {lacks.why}",
            hint=lacks.fix.replace("; ", "\n")
            + f"\nor stop it, and have pennyreel's own: pennyreel setup {shlex.quote(name)}",
        )
    if as_json:
        echo_json({"for": name, "url": now.url, "complete": True, "done": None})
    else:
        click.echo(f"the ComfyUI at {now.url} has all that {name} needs")
        say(f"next: {_next(name)}")
    return True


def _tell(plan: Plan, *, as_json: bool) -> None:
    from pennyreel.provision.words import lines, to_json, warnings

    if as_json:
        echo_json({**to_json(plan), "complete": plan.empty, "done": None})
    elif plan.empty:
        click.echo(f"everything that {plan.what} needs is here")
        for line in warnings(plan):
            say(line)
    else:
        for line in lines(plan):
            click.echo(line)


def _agree(plan: Plan) -> None:
    """Ask once, a person at a terminal."""
    from pennyreel.errors import Code, error
    from pennyreel.provision.words import command as again_by
    from pennyreel.provision.words import summary

    if not terminal():
        raise error(
            Code.CONSENT_REQUIRED,
            f"nobody can be asked here: it {summary(plan) or 'has nothing to install'}",
            hint=f"Agree with: {again_by(plan)} --yes",
        )
    if not confirmed("go on?", default=True):
        raise error(Code.CANCELLED, "nothing was changed", hint="")


def _finish(plan: Plan, done: Done, name: str) -> None:
    from pennyreel.errors import Code, error
    from pennyreel.provision.words import by_hand

    if plan.by_hand:
        raise error(
            Code.NOT_CONFIGURED,
            f"what {name} lacks besides, only you can get",
            hint="\n".join(by_hand(plan)),
        )
    where = f"; ComfyUI runs at {done.url}" if done.url else ""
    click.echo(f"{name} is set up, in {done.seconds / 60:.1f} min{where}")
    if done.left:
        say(f"ComfyUI is at work; it loads the new nodes after: {done.left}")
    say(f"next: {_next(name)}" if done.url else "next: pennyreel comfyui start")


def _next(name: str) -> str:
    from pennyreel import prompts

    for kind, template in prompts.TEMPLATES.items():
        if template == name:
            option = "" if kind == "video" else f" --kind {kind}"
            return f'pennyreel generate "a paper boat in the rain"{option}'
    return f"pennyreel run {shlex.quote(name)}"
