"""`pennyreel templates`."""

from __future__ import annotations

from typing import Any

import click

from pennyreel.cli.common import echo_json


@click.command("templates")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def command(name: str | None, as_json: bool) -> None:
    """List the built-in workflows, or show the parameters of the one called NAME."""
    from pennyreel_comfy import templates

    if name is None:
        found = templates.list_templates()
        if as_json:
            echo_json({"templates": [_summary(t) for t in found]})
            return
        for template in found:
            click.echo(f"{template.name:<20} {template.kind:<6} {template.title}")
        return
    template = templates.load(name)
    if as_json:
        echo_json(template.model_dump(mode="json", exclude={"graph"}))
        return
    click.echo(f"{template.title} ({template.kind})")
    if template.description:
        click.echo(template.description.strip())
    for key, parameter in template.parameters.items():
        default = "required" if parameter.required else f"default {_default(parameter)}"
        click.echo(f"  {key:<16} {parameter.allowed}; {default}")
        if parameter.description:
            click.echo(f"  {'':<16} {parameter.description}")
    for model in template.models:
        click.echo(f"  needs models/{model.folder}/{model.name} ({model.licence})")


def _default(parameter: Any) -> str:
    return "drawn anew" if parameter.default is None else repr(parameter.default)


def _summary(template: Any) -> dict[str, Any]:
    return {
        "name": template.name,
        "title": template.title,
        "kind": template.kind,
        "parameters": list(template.parameters),
        "models": [m.name for m in template.models],
    }
