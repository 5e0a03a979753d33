"""`pennyreel generate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pennyreel.cli._terms import given, terms_options, wish_options
from pennyreel.cli.common import finish, leave, no_wait_option, output_options, sending

if TYPE_CHECKING:
    from pennyreel.routing.machine import Ask


@click.command("generate")
@click.argument("prompt")
@wish_options
@terms_options
@click.option("--yes", is_flag=True, help="Agree to what is asked on the way.")
@no_wait_option
@output_options
def command(
    *,
    prompt: str,
    yes: bool,
    no_wait: bool,
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
    **options: Any,
) -> None:
    """Make a video or an image from PROMPT, where it is cheapest.

    It goes to the best backend by your policy and moves on where one fails, never paying twice.
    A job may cost $0.05 and a day $2 unless you say otherwise. The saved files' paths are printed.
    """
    from pennyreel import prompts
    from pennyreel.cli._setup import offered
    from pennyreel.client import Client

    wishes = given({**options, "timeout_s": timeout_s, "out_dir": out_dir})
    with Client() as client, sending(client):
        template = wishes.get("template") or prompts.TEMPLATES[wishes["kind"]]
        job = offered(lambda: client.start(prompt, ask=asker(yes=yes), **wishes), template)
        (leave if no_wait else finish)(job, as_json=as_json, json_lines=json_lines)


def asker(*, yes: bool) -> Any:
    """Return who is asked for consent on the way: a person at a terminal, or --yes."""
    if yes:
        return lambda _: True
    return _ask if sys.stdin.isatty() and sys.stderr.isatty() else None


def _ask(question: Ask) -> bool:
    from pennyreel.money.amounts import dollars

    option = question.option
    cost = dollars(option.reserve_microusd)
    before = "an attempt may have run and counts as spent; " if question.unknown else ""
    return click.confirm(f"{before}go on with {option.key}, up to {cost}?", err=True)
