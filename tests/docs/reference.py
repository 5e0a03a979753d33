"""Writes the parts of the documentation that the code knows best: `python tests/docs/reference.py`.

Each part stands between `<!-- begin generated: NAME -->` and `<!-- end generated: NAME -->`.
`test_reference.py` fails where a page is not what this would write.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from pennyreel import config
from pennyreel.backends import registry
from pennyreel.backends.base import Backend
from pennyreel.cli.app import cli
from pennyreel.cli.exits import EXITS, exit_code
from pennyreel.need import Need
from pennyreel_contract import Code, error

ROOT = Path(__file__).parents[2]

HELPLESS: dict[str, str] = {}
"""What options mean that have no help text of their own."""


def commands(
    group: click.Group = cli, prefix: str = "pennyreel"
) -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by its full name."""
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        if isinstance(found, click.Group):
            yield from commands(found, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", found


def options(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and not p.hidden]


def commands_part() -> str:
    parts = ["| Option of `pennyreel` itself | Meaning |", "|---|---|"]
    parts += [_option(option) for option in options(cli)]
    for name, command in commands():
        context = click.Context(command)
        arguments = [p.make_metavar(context) for p in command.params if _is_argument(p)]
        parts += ["", f"## {' '.join([name, *arguments])}", "", _text(command.help)]
        rows = [_option(option) for option in options(command)]
        if rows:
            parts += ["", "| Option | Meaning |", "|---|---|", *rows]
    parts += ["", "## Exit codes", "", "| Code | Meaning |", "|---|---|"]
    parts += [f"| {e.code} | {e.meaning} |" for e in EXITS]
    return "\n".join(parts)


def errors_part() -> str:
    rows = ["| Code | Class | Exit code | Repeat? | Hint |", "|---|---|---|---|---|"]
    for code in Code:
        one = error(code, "")
        again = "may help" if one.retryable else "no"
        kind = type(one).__name__
        hint = one.hint.replace("|", "\\|")
        rows.append(f"| `{code.value}` | `{kind}` | {exit_code(one)} | {again} | {hint} |")
    return "\n".join(rows)


def settings_part() -> str:
    rows = ["| Variable | In the file | Default | Meaning | Argument |", "|---|---|---|---|---|"]
    defaults = {f.name: f.default for f in dataclasses.fields(config.Settings)}
    for name, field in config.FIELDS.items():
        default = "none" if defaults[name] is None else f"`{defaults[name]}`"
        if name == "home":
            default = "the user's data folder"
        secret = " (secret)" if field.kind == "secret" else ""
        rows.append(
            f"| `{field.env}` | `{field.toml}` | {default} | {field.help}{secret} | `{name}` |"
        )
    return "\n".join(rows)


def tree_part() -> str:
    """The modules by folder, as an indented block."""
    found: dict[str, list[str]] = {}
    for file in sorted((*(ROOT / "worker").rglob("*.py"), *(ROOT / "client").rglob("*.py"))):
        if not file.stem.startswith("__"):
            folder = file.parent.relative_to(ROOT).as_posix()
            found.setdefault(f"{folder}/", []).append(file.stem)
    lines = []
    for folder in sorted(found, key=lambda name: (not name.startswith("worker"), name)):
        told = textwrap.wrap(" ".join(found[folder]), 90, break_on_hyphens=False)
        lines += [folder, *(f"    {line}" for line in told)]
    return textwrap.indent("\n".join(lines), " " * 4)


def backends_part() -> str:
    """What each built-in backend can do, as it says itself when opened with made-up settings."""
    heads = [
        "Backend", "Makes", "From", "Image in", "LoRA", "Seed", "Certain cancel", "Finds lost jobs",
        "Replays", "Private", "Billed by", "Quality",
    ]  # fmt: skip
    rows = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    for name in sorted(registry.BUILTIN):
        one = _example(name)
        able, usage = one.abilities(), one.usage(Need())
        sources = [w for w, can in (("graph", able.workflows), ("prompt", able.prompts)) if can]
        marks = (
            able.image_input, able.lora, able.seed, able.cancels, able.looks_up, able.replays,
            able.private,
        )  # fmt: skip
        cells = [
            f"`{name}`", ", ".join(sorted(able.kinds)), ", ".join(sources),
            *("yes" if mark else "no" for mark in marks),
            usage.unit.value.replace("_", " "), str(able.quality),
        ]  # fmt: skip
        rows.append(f"| {' | '.join(cells)} |")
        one.close()
    return "\n".join(rows)


_PLACES = {"runpod_endpoint", "vertex_project"}
"""What a backend has to know besides its key: see its `open`."""


def _example(name: str) -> Backend:
    """Open a backend with settings that lead nowhere; nothing is sent."""
    made_up = {
        field: "example-project"
        for field, about in config.FIELDS.items()
        if about.kind == "secret" or field in _PLACES
    }
    with tempfile.TemporaryDirectory() as home:
        stack = {"base_url": "http://127.0.0.1:1/v2", "endpoint": "ep", "api_key": "x", "pid": 1}
        Path(home, "dev.json").write_text(json.dumps(stack), "utf-8")
        settings = config.load({config.CONFIG_ENV: os.devnull}, home=Path(home), **made_up)
        return registry.open_backend(name, settings)


PARTS = {
    "ARCHITECTURE.md": ("tree", tree_part),
    "docs/backends.md": ("backends", backends_part),
    "docs/cli.md": ("commands", commands_part),
    "docs/configuration.md": ("settings", settings_part),
    "docs/errors.md": ("errors", errors_part),
}


def renewed(page: str, text: str) -> str:
    """Return a page with its generated part written anew."""
    name, make = PARTS[page]
    begin, end = f"<!-- begin generated: {name} -->", f"<!-- end generated: {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*{re.escape(end)}", re.DOTALL)
    assert pattern.search(text), f"{page} has no place for {name}"
    return pattern.sub(lambda _: f"{begin}\n\n{make()}\n\n{end}", text)


def main() -> None:
    for page in PARTS:
        file = ROOT / page
        file.write_text(renewed(page, file.read_text("utf-8")), "utf-8")


def _is_argument(parameter: click.Parameter) -> bool:
    return isinstance(parameter, click.Argument)


def _option(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or _kind(option)}".replace("|", "\\|")
    names = ", ".join(f"`{name}{value}`" for name in [*option.opts, *option.secondary_opts])
    told = _text(option.help) or HELPLESS[option.opts[-1]]
    told = re.sub(r"\[default: (.+)\]", r"Default: \1.", told)
    notes = [told, _range(option.type)]
    if option.show_default:
        notes.append(f"Default: {option.default}.")
    if option.multiple:
        notes.append("May be repeated.")
    return f"| {names} | {' '.join(n for n in notes if n)} |"


def _range(limits: Any) -> str:
    low, high = getattr(limits, "min", None), getattr(limits, "max", None)
    if low is None:
        return ""
    if high is None:
        return f"More than {low}." if limits.min_open else f"{low} or more."
    return f"From {low} to {high}."


def _kind(option: click.Option) -> str:
    """Return what stands for an option's value."""
    names = {"integer range": "N", "integer": "N", "float": "X", "float range": "X"}
    return names.get(option.type.name, option.type.name.upper())


def _text(text: str | None) -> str:
    """Return click's text as Markdown: a wrapped paragraph becomes one line."""
    return "\n\n".join(" ".join(p.split()) for p in (text or "").split("\n\n"))


if __name__ == "__main__":
    main()
