"""`pennyreel setup`: what a template or a workflow lacks on this machine, installed in one go."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pennyreel.cli._models import rules_of
from pennyreel.cli.comfyui import DEVICES, install_reporter
from pennyreel.cli.common import echo_json, say

if TYPE_CHECKING:
    from pennyreel.config import Settings
    from pennyreel.need import Need
    from pennyreel.provision.perform import Done
    from pennyreel.provision.plan import Plan

_J = TypeVar("_J")


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
def command(
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

    name = what or prompts.TEMPLATES["video"]
    settings = config.load()
    need = need_of(name)
    if _by_theirs(settings, need, name, as_json=as_json):
        return
    asked = _Asked(settings, need, name, device=device, start=not no_start, hosts=allow_hosts)
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
    _finish(plan, done, name, as_json=as_json)


def offered(start: Callable[[], _J], what: str) -> _J:
    """Start a job; where a setup is all that a free run here lacks, ask for it first.

    Without a terminal nobody is asked. `what`: the template or workflow that the job runs by.
    """
    from pennyreel import config
    from pennyreel.errors import PennyreelError
    from pennyreel.provision.wanted import need_of

    try:
        return start()
    except PennyreelError as problem:
        if not (_terminal() and _only_setup(problem.info.detail)):
            raise
        refusal = problem
    need = need_of(what)
    asked = _Asked(config.load(), need, what)
    plan = asked.plan()
    if plan.by_hand:
        raise refusal
    for line in asked.lines(plan):
        say(line)
    if not click.confirm("set it up now, and go on?", default=False, err=True):
        raise refusal
    asked.perform(plan, quiet=False)
    return start()


def _terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _only_setup(detail: Mapping[str, Any]) -> bool:
    """Whether a refused job could run here, free and without another yes, but for the setup."""
    rows = (detail.get("decision") or {}).get("candidates") or ()
    mine = [r for r in rows if r["place"] == "local" and r["verdict"] == "unavailable"]
    return any(
        str((row["fixes"] or [""])[0]).startswith("pennyreel setup ") and not row["consents"]
        for row in mine
    )


class _Asked:
    """One setup: what it is for and how."""

    def __init__(
        self,
        settings: Settings,
        need: Need,
        name: str,
        *,
        device: str = "auto",
        start: bool = True,
        hosts: Sequence[str] = (),
    ) -> None:
        self.settings, self.need, self.name = settings, need, name
        self.device, self.start, self.hosts = device, start, hosts

    def plan(self) -> Plan:
        """Return what is missing, with what the models' hosts say of it."""
        from pennyreel.provision import plan, running
        from pennyreel_comfy.install import Tools

        now = running.look(self.settings, self.need)
        made = plan.make(
            self.settings,
            self.need,
            what=self.name,
            device=self.device,
            start=self.start,
            told=now.told if now and now.ours else None,
            tools=Tools(),
        )
        return plan.asked(made, self.settings, self.hosts)

    @staticmethod
    def lines(plan: Plan) -> Iterator[str]:
        """Yield the plan as text."""
        from pennyreel.provision.words import lines

        yield f"for {plan.what}:"
        yield from lines(plan)

    def perform(self, plan: Plan, *, quiet: bool) -> Done:
        """Carry it out, showing how far it is."""
        from pennyreel.provision import perform

        views = perform.Views(
            installing=install_reporter,
            downloading=lambda here: rules_of(here, self.hosts, None, quiet=quiet),
            say=say,
        )
        with _resumable(plan):
            return perform.perform(plan, self.settings, self.need, views, device=self.device)


@contextmanager
def _resumable(plan: Plan) -> Iterator[None]:
    """Have every failure say how to go on."""
    from pennyreel.errors import ErrorInfo, PennyreelError

    again = f"Go on with: pennyreel setup {plan.what}  (what is done is kept)"
    try:
        yield
    except PennyreelError as problem:
        info = problem.info
        told = again if info.code == "cancelled" else f"{info.hint}\n{again}".strip()
        changed: ErrorInfo = info.model_copy(update={"hint": told})
        raise PennyreelError.from_info(changed) from None


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
            + f"\nor stop it, and have pennyreel's own: pennyreel setup {name}",
        )
    if as_json:
        echo_json({"for": name, "url": now.url, "complete": True, "done": None})
    else:
        click.echo(f"the ComfyUI at {now.url} has all that {name} needs")
        say(f"next: {_next(name)}")
    return True


def _tell(plan: Plan, *, as_json: bool) -> None:
    from pennyreel.provision.words import lines, to_json

    if as_json:
        echo_json({**to_json(plan), "complete": plan.empty, "done": None})
    elif plan.empty:
        click.echo(f"everything that {plan.what} needs is here")
    else:
        for line in lines(plan):
            click.echo(line)


def _agree(plan: Plan) -> None:
    """Ask once, a person at a terminal."""
    from pennyreel.errors import Code, error
    from pennyreel.provision.words import summary

    if not _terminal():
        raise error(
            Code.CONSENT_REQUIRED,
            f"nobody can be asked here: it {summary(plan) or 'has nothing to install'}",
            hint=f"Agree with: pennyreel setup {plan.what} --yes",
        )
    if not click.confirm("go on?", default=True, err=True):
        raise error(Code.CANCELLED, "nothing was changed", hint="")


def _finish(plan: Plan, done: Done, name: str, *, as_json: bool) -> None:
    from pennyreel.errors import Code, error
    from pennyreel.provision.words import by_hand, to_json

    complete = not plan.by_hand
    if as_json:
        echo_json({**to_json(plan), "complete": complete, "done": done.to_json()})
    if not complete:
        raise error(
            Code.NOT_CONFIGURED,
            f"what {name} lacks besides, only you can get",
            hint="\n".join(by_hand(plan)),
        )
    if as_json:
        return
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
    return f"pennyreel run {name}"
