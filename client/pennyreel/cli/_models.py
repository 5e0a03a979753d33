"""What the commands of `pennyreel models` share: which folder, which lists, and how it looks."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from pennyreel.cli.common import LINE_S, interrupts, say

if TYPE_CHECKING:
    from pennyreel.config import Secret, Settings
    from pennyreel_comfy.models import Entry, Hosts, Manifest, Progress, Pulled, Rules, Store

NO_LIMIT = 1 << 50
"""Bytes: who runs this says what is to come, and the disk says where it ends."""

_SECRETS = ("token", "api_key", "apikey", "key", "access_token")


@dataclass(frozen=True)
class Here:
    """The folder that is meant, and the lists of models."""

    settings: Settings
    store: Store
    manifest: Manifest
    mine: Path

    @classmethod
    def load(cls, root: Path | None, manifests: Sequence[Path]) -> Here:
        """Read the settings and the lists: the built-in one, the user's own, `manifests`."""
        from pennyreel import config
        from pennyreel_comfy import models

        settings = config.load()
        mine = settings.home / "models.toml"
        files = [*([mine] if mine.exists() else []), *manifests]
        store = models.Store(root or _installed(settings))
        return cls(settings, store, models.load(files), mine)

    def hosts(self, allow: Sequence[str]) -> Hosts:
        """Return the hosts that may be asked, with the user's tokens."""
        from pennyreel_comfy.models import Hosts

        return Hosts(
            allow,
            hf_token=_revealed(self.settings.hf_token),
            civitai_token=_revealed(self.settings.civitai_token),
        )

    def check_new(self, entry: Entry) -> None:
        """Refuse what the user's own list has already: which of the two would be meant?"""
        from pennyreel.errors import Code, error
        from pennyreel_comfy.models.manifest import parse

        known = parse(self.mine.read_bytes(), str(self.mine)) if self.mine.exists() else ()
        if entry.key in {one.key for one in known}:
            raise error(
                Code.BAD_REQUEST,
                f"{self.mine} has {entry.key} already",
                hint="Choose another --name, or take it out of that file.",
            )

    def digest(self, entry: Entry) -> str:
        """Read a file that is there for its sha256."""
        from pennyreel_comfy.waiting import CancelToken, Deadline

        (found,) = self.store.verify([entry], deadline=Deadline(None), cancel=CancelToken())
        return found.sha256

    def write(self, entry: Entry) -> None:
        """Add an entry to the user's own list."""
        from pennyreel_comfy.models.manifest import written

        self.mine.parent.mkdir(parents=True, exist_ok=True)
        before = self.mine.read_text(encoding="utf-8") if self.mine.exists() else ""
        gap = "\n" if before else ""
        temporary = self.mine.with_suffix(".tmp")
        temporary.write_text(f"{before.rstrip()}{gap * 2}{written(entry)}", encoding="utf-8")
        temporary.replace(self.mine)


def _installed(settings: Settings) -> Path:
    from pennyreel.errors import Code, error
    from pennyreel_comfy.install import Installation

    found = Installation.load(settings.comfyui_home)
    if found is None:
        raise error(
            Code.NOT_INSTALLED,
            f"ComfyUI is not installed in {settings.comfyui_home}",
            hint="Run: pennyreel comfyui install. Or name a folder of models with --root.",
        )
    return found.layout.comfy / "models"


def _revealed(secret: Secret | None) -> str | None:
    return secret.reveal() if secret else None


def entry_of(url: str, name: str | None, given: dict[str, Any]) -> Entry:
    """Return the entry for a URL; raises `bad_request` where it is none that may be written."""
    from pydantic import ValidationError

    from pennyreel.errors import Code, error
    from pennyreel_comfy.models import Entry

    try:
        parts = urlsplit(url)
        query = parse_qs(parts.query)
    except ValueError:
        raise error(Code.BAD_REQUEST, "that is no http(s) URL") from None
    if any(word in query for word in _SECRETS):
        raise error(
            Code.BAD_REQUEST,
            "the URL holds a key, and would be written down",
            hint="Take it out of the URL, and set HF_TOKEN or CIVITAI_API_KEY instead.",
        )
    if parts.hostname == "huggingface.co":  # what the browser shows is a page about the file
        url = url.replace("/blob/", "/resolve/", 1)
    try:
        return Entry(url=url, name=name or unquote(PurePosixPath(parts.path).name), **given)
    except ValidationError as problem:
        told = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'name'}: {e['msg'].removeprefix('Value error, ')}"
            for e in problem.errors(include_input=False)
        )
        raise error(Code.BAD_REQUEST, told) from None


@contextmanager
def rules_of(
    here: Here, allow: Sequence[str], timeout_s: float | None, *, quiet: bool
) -> Iterator[Rules]:
    """Yield what a download needs, with its progress shown; say after Ctrl-C what stays."""
    from pennyreel.errors import Code, error
    from pennyreel_comfy.models import Rules
    from pennyreel_comfy.waiting import CancelToken, Deadline

    hosts = here.hosts(allow)
    try:
        with interrupts(), _view(quiet=quiet) as show:
            yield Rules(hosts, NO_LIMIT, Deadline(timeout_s), CancelToken(), progress=show)
    except KeyboardInterrupt:
        raise error(
            Code.CANCELLED,
            "the download was interrupted; what has come is kept",
            hint="Run it again: it resumes. Or clear it out: pennyreel models prune",
        ) from None


@contextmanager
def _view(*, quiet: bool) -> Iterator[Callable[[Progress], None]]:
    """Show downloads as bars on a terminal, as lines elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield _Lines(quiet=quiet)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        TaskID,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        *(BarColumn(24), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()),
    )
    tasks: dict[str, TaskID] = {}
    guard = threading.Lock()
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:

        def show(event: Progress) -> None:
            with guard:
                if event.label not in tasks:
                    tasks[event.label] = bars.add_task(event.label, total=event.total)
            bars.update(tasks[event.label], completed=event.done, total=event.total)

        yield show


class _Lines:
    """Tells of downloads in plain lines, now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet, self._told, self._guard = quiet, 0.0, threading.Lock()

    def __call__(self, event: Progress) -> None:
        with self._guard:
            if self._quiet or time.monotonic() - self._told < LINE_S:
                return
            self._told = time.monotonic()
        percent = f"{100 * event.done / event.total:3.0f}%" if event.total else "    "
        say(f"{percent} {event.label}, {event.done / 1e9:.2f} GB")


def raise_failed(failed: Sequence[Pulled], of: int) -> None:
    """Raise what went wrong: the first one's error, with the others named."""
    from pennyreel.errors import Code, error

    problems = [one.problem for one in failed if one.problem is not None]
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    first = problems[0]
    raise error(
        Code(first.code),
        f"{len(problems)} of {of} models did not come: " + "; ".join(str(p) for p in problems),
        hint=first.hint,
        retryable=any(p.retryable for p in problems),
        detail={"models": [one.entry.key for one in failed]},
    )
