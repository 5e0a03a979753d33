"""What `setup` and the offer of one share: the plan, the question, and carrying it out."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pennyreel.cli._models import rules_of
from pennyreel.cli.comfyui import install_reporter
from pennyreel.cli.common import interrupts, say

if TYPE_CHECKING:
    from pennyreel.config import Settings
    from pennyreel.need import Need
    from pennyreel.provision.perform import Done
    from pennyreel.provision.plan import Plan

_J = TypeVar("_J")


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
        if not (terminal() and _only_setup(problem.info.detail)):
            raise
        refusal = problem
    need = need_of(what)
    asked = Asked(config.load(), need, what)
    plan = asked.plan()
    if plan.by_hand:
        raise refusal
    for line in asked.lines(plan):
        say(line)
    if not confirmed("set it up now, and go on?", default=False):
        raise refusal
    asked.perform(plan, quiet=False)
    return start()


class Asked:
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


def confirmed(question: str, *, default: bool) -> bool:
    """Ask a person at the terminal."""
    try:
        return click.confirm(question, default=default, err=True)
    except click.Abort:  # Ctrl-C is a no
        return False


def terminal() -> bool:
    """Whether somebody sits there."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _only_setup(detail: Mapping[str, Any]) -> bool:
    """Whether a refused job could run here, free and without another yes, but for the setup."""
    rows = (detail.get("decision") or {}).get("candidates") or ()
    mine = [r for r in rows if r["place"] == "local" and r["verdict"] == "unavailable"]
    return any(
        str((row["fixes"] or [""])[0]).startswith("pennyreel setup ") and not row["consents"]
        for row in mine
    )


@contextmanager
def _resumable(plan: Plan) -> Iterator[None]:
    """Have every failure say how to go on."""
    from pennyreel.errors import Code, ErrorInfo, PennyreelError, error
    from pennyreel.provision.words import command as again_by

    again = f"Go on with: {again_by(plan)}  (what is done is kept)"
    try:
        with interrupts():
            yield
    except KeyboardInterrupt:
        raise error(Code.CANCELLED, "the setup was interrupted", hint=again) from None
    except PennyreelError as problem:
        info = problem.info
        told = again if info.code == "cancelled" else f"{info.hint}\n{again}".strip()
        changed: ErrorInfo = info.model_copy(update={"hint": told})
        raise PennyreelError.from_info(changed) from None
