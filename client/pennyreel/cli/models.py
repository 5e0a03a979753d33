"""`pennyreel models`: the model files of the ComfyUI on this machine, or in any folder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pennyreel.cli._models import entry_of, file_url, name_of, rules_of
from pennyreel.cli.common import echo_json, say

if TYPE_CHECKING:
    from pennyreel_comfy.models import Entry, Pulled, Store

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group("models")
def command() -> None:
    """List, fetch, check and clear out ComfyUI's models."""


def _common(function: _F) -> _F:
    """Add --root, --manifest and --json."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="As one JSON object."),
        click.option(
            "--manifest", "manifests", multiple=True, metavar="FILE",
            type=click.Path(dir_okay=False, path_type=Path),
            help="One more list of models, besides the built-in one and your own.",
        ),
        click.option(
            "--root", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
            help="A folder of models.  [default: that of the installed ComfyUI]",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def _downloads(function: _F) -> _F:
    """Add what a download may be told."""
    for option in (
        click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True),
                     metavar="S", help="Seconds for all of it."),
        click.option("--allow-host", "allow_hosts", multiple=True, metavar="HOST",
                     help="One more host to download from; HOST:PORT may be a private one."),
    ):  # fmt: skip
        function = option(function)
    return function


@command.command("list")
@_common
def list_(*, root: Path | None, manifests: tuple[Path, ...], as_json: bool) -> None:
    """Show the known models, and which of them are here."""
    from pennyreel.provision.here import Here

    here = Here.load(root, manifests)
    if as_json:
        models = [_described(here.store, entry) for entry in here.manifest.entries]
        echo_json({"root": str(here.store.root), "models": models})
        return
    for entry in here.manifest.entries:
        state = "present" if here.store.has(entry) else "missing"
        size = f"{entry.bytes / 1e9:6.2f} GB" if entry.bytes else "    ?   "
        sets = f"  [{', '.join(entry.sets)}]" if entry.sets else ""
        click.echo(f"{state}  {size}  {entry.key}{sets}  licence: {entry.licence}")


@command.command()
@click.argument("wanted", nargs=-1, required=True, metavar="NAME|SET...")
@click.option("--force", is_flag=True, help="Replace files that are there with another content.")
@_downloads
@_common
def pull(
    *,
    wanted: tuple[str, ...],
    force: bool,
    root: Path | None,
    manifests: tuple[Path, ...],
    allow_hosts: tuple[str, ...],
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Download models. It can be interrupted and run again: it resumes.

    NAME is a model's name, or FOLDER/NAME; SET is animatediff, sdxl or one of your own;
    `all` means every set.
    """
    from pennyreel.provision.here import Here, raise_failed

    here = Here.load(root, manifests)
    entries = here.manifest.select(wanted)
    with rules_of(here, allow_hosts, timeout_s, quiet=as_json) as rules:
        done = here.store.pull(entries, rules, force=force)
    failed = [one for one in done if one.problem is not None]
    if not failed and as_json:
        echo_json({"root": str(here.store.root), "models": [_pulled(one) for one in done]})
    elif not as_json:
        for one in done:
            if one.problem is None:
                click.echo(f"{one.how:10}  {one.path}")
                say(f"  licence: {one.entry.licence}")
    raise_failed(failed, len(done))


@command.command()
@click.argument("wanted", nargs=-1, metavar="[NAME|SET]...")
@_common
def verify(
    *,
    wanted: tuple[str, ...],
    root: Path | None,
    manifests: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Read models anew and compare their checksums. Without a NAME, all that are here."""
    from pennyreel.errors import Code, error
    from pennyreel.provision.here import Here
    from pennyreel_comfy.waiting import CancelToken, Deadline

    here = Here.load(root, manifests)
    entries: Sequence[Entry] = here.manifest.select(wanted)
    if not wanted:
        entries = [entry for entry in here.manifest.entries if here.store.path(entry).is_file()]
    if not entries and not as_json:
        click.echo("None of the listed models is here. Get some: pennyreel models pull SET")
    found = []
    for one in here.store.verify(entries, deadline=Deadline(None), cancel=CancelToken()):
        found.append(one)
        if not as_json:
            click.echo(f"{one.verdict:9}  {one.entry.key}  {one.sha256}".rstrip())
    models = [{"model": f.entry.key, "verdict": f.verdict, "sha256": f.sha256} for f in found]
    bad = [f.entry.key for f in found if f.verdict in {"different", "missing"}]
    if bad:
        raise error(
            Code.BAD_INPUT,
            f"not as they should be: {', '.join(bad)}",
            hint=f"Fetch them anew: pennyreel models pull --force {bad[0]}",
            detail={"models": models},
        )
    if as_json:
        echo_json({"root": str(here.store.root), "models": models})


@command.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.option(
    "--jobs", type=click.Path(file_okay=False, exists=True, path_type=Path), metavar="DIR",
    help="Also a folder of models that a worker's jobs had downloaded: those not in use.",
)  # fmt: skip
@_common
def prune(
    *,
    dry_run: bool,
    jobs: Path | None,
    root: Path | None,
    manifests: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Remove the beginnings of downloads that nobody is at work on."""
    from pennyreel.provision.here import NO_LIMIT, Here
    from pennyreel_comfy.models import Shelf

    here = Here.load(root, manifests)
    found = here.store.prune(dry_run=dry_run)
    if jobs is not None:
        found += Shelf(jobs.absolute(), NO_LIMIT, time.time).clear(dry_run=dry_run)
    size = sum(one.size for one in found)
    if as_json:
        removed = [{"path": str(one.path), "bytes": one.size} for one in found]
        echo_json({"removed": removed, "bytes": size, "dry_run": dry_run})
        return
    for one in found:
        click.echo(one.path)
    word = "would be removed" if dry_run else "removed"
    say(f"{len(found)} files, {size / 1e9:.2f} GB {word}")


@command.command()
@click.argument("url")
@click.option("--folder", required=True, help="ComfyUI's folder for it, such as loras.")
@click.option("--name", help="What graphs call it.  [default: as its URL ends, or its host says]")
@click.option("--sha256", help="What it must be. A pickle (.ckpt, .pt, ...) has to have one.")
@click.option("--licence", help="Its licence.  [default: unknown]")
@click.option("--set", "sets", multiple=True, metavar="SET", help="A set that it belongs to.")
@_downloads
@_common
def add(
    *,
    url: str,
    folder: str,
    name: str | None,
    sha256: str | None,
    licence: str | None,
    sets: tuple[str, ...],
    root: Path | None,
    manifests: tuple[Path, ...],
    allow_hosts: tuple[str, ...],
    timeout_s: float | None,
    as_json: bool,
) -> None:
    """Download a model and write it, with its checksum, into your own list of models."""
    from pennyreel.provision.here import Here, raise_failed

    here = Here.load(root, manifests)
    url = file_url(url)
    given = {"folder": folder, "sha256": sha256, "licence": licence, "sets": sets}
    entry = entry_of(
        url,
        name or name_of(here, url, allow_hosts),
        {field: value for field, value in given.items() if value},
    )
    here.check_new(entry)
    with rules_of(here, allow_hosts, timeout_s, quiet=as_json) as rules:
        (done,) = here.store.pull([entry], rules)
    raise_failed([done] if done.problem else [], 1)
    here.check_meant(done)
    entry = entry.model_copy(update={"sha256": done.sha256, "bytes": done.size})
    here.write(entry)
    if as_json:
        echo_json({"manifest": str(here.mine), **_pulled(done)})
        return
    click.echo(done.path)
    say(f"sha256 {done.sha256}; licence: {entry.licence}; written into {here.mine}")


def _described(store: Store, entry: Entry) -> dict[str, Any]:
    plain = entry.model_dump(mode="json")
    return {**plain, "present": store.has(entry), "path": str(store.path(entry))}


def _pulled(one: Pulled) -> dict[str, Any]:
    told = {"model": one.entry.key, "how": one.how, "path": str(one.path), "bytes": one.size}
    return {**told, "sha256": one.sha256 or None, "licence": one.entry.licence}
