"""`pennyreel config`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from pennyreel.cli.common import echo_json, say

if TYPE_CHECKING:
    from pennyreel.config import Field, Origin


@click.group("config", invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Show and change settings, and say where each value comes from.

    An argument wins over the environment, that over the file or the keyring, that over the default.
    """
    if ctx.invoked_subcommand is None:
        _list(as_json=as_json)


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def list_(as_json: bool) -> None:
    """Show every setting with its origin. Secrets are set or unset."""
    _list(as_json=as_json)


@command.command("get")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def get(name: str, as_json: bool) -> None:
    """Show one setting; NAME is as in the list, its variable, or its place in the file."""
    from pennyreel import config

    known = config.field_name(name)
    found = config.origins()[known]
    if as_json:
        echo_json(_told(known, config.FIELDS[known], found))
    else:
        click.echo(_shown(config.FIELDS[known], found.value) or "")


@command.command("set")
@click.argument("name")
@click.argument("value", required=False)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def set_(name: str, value: str | None, as_json: bool) -> None:
    """Set NAME to VALUE in the file.

    A secret goes to the system's keyring. It is asked for, or read from stdin, and never taken from
    the command line.
    """
    from pennyreel import config, configfile
    from pennyreel.errors import Code, error

    known = config.field_name(name)
    field, file = config.FIELDS[known], config.file_path()
    if field.kind == "secret":
        if value is not None:
            raise error(
                Code.BAD_REQUEST,
                f"{known} is a secret, and the command line is no place for one: other users and "
                "the shell's history can read it",
                hint=f"Run: pennyreel config set {known}, which asks for it, "
                f"or set {field.env}. Consider the one you typed as known to others.",
            )
        _keep(known, field, file)
    elif value is None:
        raise click.UsageError(f"{known} needs a VALUE")
    else:
        text = str(config.checked(known, value))
        _refused_later(known, value)
        configfile.put(file, field.toml, text)
    _changed(known, as_json=as_json)


@command.command("unset")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def unset(name: str, as_json: bool) -> None:
    """Take NAME out of the file, and a secret out of the keyring."""
    from pennyreel import config, configfile, keys
    from pennyreel.errors import PennyreelError

    known = config.field_name(name)
    field = config.FIELDS[known]
    before = configfile.drop(config.file_path(), field.toml)
    if isinstance(before, dict) and "keyring" in before:
        try:
            keys.remove(known, str(before["keyring"]), field.env)
        except PennyreelError as problem:
            say(f"warning: it is in the file no more, but may be in the keyring: {problem}")
    _changed(known, as_json=as_json)


@command.command("path")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def path(as_json: bool) -> None:
    """Show where the file is, or would be."""
    from pennyreel import config

    file = config.file_path()
    if as_json:
        echo_json({"path": str(file), "exists": file.is_file()})
    else:
        click.echo(file)


def _list(*, as_json: bool) -> None:
    from pennyreel import config

    found = config.origins()
    rows = [_told(name, config.FIELDS[name], one) for name, one in sorted(found.items())]
    file = config.file_path()
    if as_json:
        echo_json({"file": str(file), "exists": file.is_file(), "settings": rows})
        return
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {_origin(row):<24}  {row['value'] or ''}".rstrip())
    say(f"file: {file}{'' if file.is_file() else ' (not there)'}")


def _origin(row: dict[str, Any]) -> str:
    return row["env"] if row["origin"] == "environment" else str(row["origin"])


def _told(name: str, field: Field, found: Origin) -> dict[str, Any]:
    return {
        "name": name,
        "value": _shown(field, found.value),
        "origin": found.origin,
        "secret": field.kind == "secret",
        "env": field.env,
        "toml": field.toml,
    }


def _shown(field: Field, value: Any) -> str | None:
    """Return what may be shown of it: of a secret, whether it is set; no password in a URL."""
    if field.kind == "secret":
        return "set" if value else "unset"
    if value is None:
        return None
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(value)
    if field.kind == "url" and "@" in urlsplit(text).netloc:
        netloc = urlsplit(text).netloc
        return text.replace(netloc, "***@" + netloc.rpartition("@")[2], 1)
    return text


def _refused_later(name: str, value: str) -> None:
    """Raise now what a job, or a look at the devices, would be refused by."""
    from pennyreel import config, options
    from pennyreel.backends import registry
    from pennyreel.errors import Code, error
    from pennyreel.fleet.devices import override
    from pennyreel.terms import USUAL

    if name == "backend":
        registry.check(value.partition(":")[0])
    elif name == "devices":
        try:
            override.parse(value)
        except ValueError as problem:
            raise error(
                Code.BAD_REQUEST, f"devices: {problem}", hint=f"Write {override.FORM}."
            ) from None
    elif name in USUAL:
        options.sensible(name, config.converted(value, config.FIELDS[name].kind, name), name)


def _keep(name: str, field: Field, file: Path) -> None:
    """Ask for a secret, put it into the keyring, and a word of that into the file."""
    from pennyreel import config, configfile, keys
    from pennyreel.errors import Code, error

    if sys.stdin.isatty():
        text = click.prompt(f"{name} ({field.help})", hide_input=True, err=True)
    else:
        text = sys.stdin.readline()
    if not text.strip():
        raise error(Code.BAD_REQUEST, f"no {name} was given", hint="It is read from stdin.")
    secret = config.checked(name, text)
    assert isinstance(secret, config.Secret)  # noqa: S101 - of a secret's field
    keys.write(name, secret.reveal(), field.env)
    configfile.put(file, field.toml, {"keyring": keys.SERVICE})


def _changed(name: str, *, as_json: bool) -> None:
    """Say what holds now: the environment may win over what was just changed."""
    from pennyreel import config
    from pennyreel.errors import PennyreelError

    field = config.FIELDS[name]
    with suppress(PennyreelError):  # the file may have more to mend
        found = config.origins()[name]
        if found.origin == "environment":
            say(f"note: {field.env} is set in the environment, and wins")
        if as_json:
            echo_json(_told(name, field, found))
        else:
            say(f"{name} = {_shown(field, found.value) or 'none'} (from {found.origin})")
