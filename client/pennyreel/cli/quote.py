"""`pennyreel quote`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pennyreel.cli._terms import given, terms, terms_options, wish_options
from pennyreel.cli.common import echo, echo_json


@click.command("quote")
@click.argument("what", metavar="PROMPT|WORKFLOW")
@wish_options
@terms_options
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(*, what: str, as_json: bool, **options: Any) -> None:
    """Show what a prompt or a workflow would cost and take on every backend.

    WORKFLOW is a file or URL that ends with .json, or a template's name. Nothing is sent, and
    nothing is billed.
    """
    from pennyreel.client import Client

    wishes = given(options)
    with Client() as client:
        if is_workflow(what):
            quoted = client.quote_workflow(what, **terms(wishes))
        else:
            quoted = client.quote(what, **wishes)
    if as_json:
        echo_json(quoted.to_json())
    else:
        echo(quoted.text())


def is_workflow(what: str) -> bool:
    """Tell a workflow's file, URL or template from a prompt."""
    from pennyreel_comfy.templates import list_templates

    if what.lower().endswith(".json") or Path(what).is_file():
        return True
    return what in {template.name for template in list_templates()}
