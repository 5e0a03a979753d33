"""What the commands of `pennyreel models` share: which folder, which lists, and how it looks."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from pennyreel.cli.common import LINE_S, interrupts, say

if TYPE_CHECKING:
    from pennyreel.provision.here import Here
    from pennyreel_comfy.models import Entry, Progress, Rules

_SECRETS = ("token", "api_key", "apikey", "key", "access_token")


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
    from pennyreel.provision.here import NO_LIMIT
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
