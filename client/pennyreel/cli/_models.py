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

_SECRETS = (
    *("token", "api_key", "apikey", "key", "access_token"),
    *("sig", "signature", "x-amz-signature", "x-goog-signature"),
)


def file_url(url: str) -> str:
    """Return the URL of the file itself, where a browser's address was given.

    Raises:
        BadRequest: `bad_request`: it is no URL, holds a key, or leads to a page.

    """
    from pennyreel.errors import Code, error

    try:
        parts = urlsplit(url)
        query = {word.lower(): values for word, values in parse_qs(parts.query).items()}
    except ValueError:
        raise error(Code.BAD_REQUEST, "that is no http(s) URL") from None
    if any(word in query for word in _SECRETS):
        raise error(
            Code.BAD_REQUEST,
            "the URL holds a key, and would be written down",
            hint="Take it out of the URL, and set HF_TOKEN or CIVITAI_API_KEY instead.",
        )
    if parts.hostname == "huggingface.co":  # what the browser shows is a page about the file
        return url.replace("/blob/", "/resolve/", 1)
    if parts.hostname == "civitai.com" and parts.path.startswith("/models/"):
        version = query.get("modelversionid", [""])[0]
        if not version.isdecimal():
            raise error(
                Code.BAD_REQUEST,
                "that is the page about a model, which may have several files",
                hint="Pass the address of its Download button: "
                "https://civitai.com/api/download/models/NUMBER",
            )
        return f"https://civitai.com/api/download/models/{version}"
    return url


def name_of(here: Here, url: str, allow: Sequence[str]) -> str:
    """Return what a file is called: as its URL ends, else as its host says."""
    from pennyreel.errors import Code, error
    from pennyreel_comfy.models.asking import file_name
    from pennyreel_comfy.models.names import PICKLES, SAFE
    from pennyreel_comfy.waiting import CancelToken

    parts = urlsplit(url)
    name = PurePosixPath(unquote(parts.path)).name
    if parts.hostname == "huggingface.co" or name.lower().endswith((*SAFE, *PICKLES)):
        return name
    said = file_name(url, here.hosts(allow), cancel=CancelToken())
    if said is None:
        raise error(
            Code.BAD_REQUEST,
            "neither the URL nor its host says what the file is called",
            hint="Give it a name: --name my-model.safetensors",
        )
    return said


def entry_of(url: str, name: str, given: dict[str, Any]) -> Entry:
    """Return the entry for a URL; raises `bad_request` where it is none that may be written."""
    from pydantic import ValidationError

    from pennyreel.errors import Code, error
    from pennyreel_comfy.models import Entry

    try:
        return Entry(url=url, name=name, **given)
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
