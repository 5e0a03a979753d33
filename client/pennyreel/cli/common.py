"""What several commands share: options, and how a job is shown while it runs."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click

if TYPE_CHECKING:
    from pennyreel.client import Client
    from pennyreel.types import Handle, JobEvent, RunResult

LINE_S = 3.0
"""Without a terminal, progress is told at most this often."""

_F = TypeVar("_F", bound=Callable[..., Any])


def output_options(function: _F) -> _F:
    """Add -o, --json, --json-lines and --timeout."""
    for option in (
        click.option("--json-lines", is_flag=True, help="Events as JSON lines, then the result."),
        click.option("--json", "as_json", is_flag=True, help="The result as one JSON object."),
        click.option(
            "--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), metavar="S",
            help="Seconds until the job is cancelled, queue included. Without it RunPod's "
            "own limit applies: 10 minutes, unless the endpoint says otherwise.",
        ),
        click.option(
            "-o", "--out", "out_dir", type=click.Path(file_okay=False, path_type=Path),
            metavar="DIR", help="Where files are saved.  [default: pennyreel-output]",
        ),
    ):  # fmt: skip
        function = option(function)
    return function


def pairs(values: Iterable[str], option: str) -> dict[str, str]:
    """Split NAME=VALUE texts."""
    found = {}
    for text in values:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"{option} takes NAME=VALUE, not {text!r}")
        found[name] = value
    return found


def echo_json(body: Any) -> None:
    """Print one JSON value on one line, fit for a terminal."""
    from pennyreel_contract.steering import harmless_json

    click.echo(harmless_json(json.dumps(body, ensure_ascii=False)))


def say(text: str) -> None:
    """Tell a person something, on stderr."""
    echo(text, err=True)


def echo(text: str, *, err: bool = False) -> None:
    """Print a text that may hold somebody else's words."""
    click.echo(clean(text), err=err)


def clean(text: str) -> str:
    """Return it without what steers a terminal."""
    from pennyreel_contract.steering import harmless_text

    return harmless_text(text)


class Following(Protocol):
    """A job that is waited for: one on its way through the router, or `jobs.Job`."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def handle(self) -> Handle | None:
        """Of its present attempt, where it was accepted."""

    def accepted(self) -> Handle:
        """Wait until a backend has it."""

    def detach(self) -> None:
        """Leave it there."""

    def events(self) -> Iterator[JobEvent]:
        """What happens."""

    def result(self) -> RunResult:
        """What it made."""

    def cancel(self) -> bool:
        """Stop it."""


def no_wait_option(function: _F) -> _F:
    """Add --no-wait."""
    told = "Print the job's handle as soon as a backend has it, and leave it running."
    return click.option("--no-wait", is_flag=True, help=told)(function)


def leave(job: Following, *, as_json: bool, json_lines: bool) -> None:
    """Show a job until a backend has it, leave it there, and print what finds it again."""
    with interrupts(), view(quiet=as_json or json_lines, json_lines=json_lines) as show:
        try:
            job.detach()
            for event in job.events():
                show(event)
            handle = job.accepted()
        except KeyboardInterrupt:
            _cancelled(job)
            raise AssertionError("unreachable") from None
    body = {"job_id": job.id, "handle": str(handle)}
    if json_lines:
        echo_json({"event": "left", **body})
    elif as_json:
        echo_json(body)
    else:
        click.echo(str(handle))
        say(f"job {job.id}: fetch it with: pennyreel result {job.id[:12]}")


def finish(job: Following, *, as_json: bool, json_lines: bool) -> None:
    """Follow a job to its end, showing it, and print its result. Ctrl-C cancels and confirms."""
    with interrupts(), view(quiet=as_json or json_lines, json_lines=json_lines) as show:
        try:
            for event in job.events():
                show(event)
            result = job.result()
        except KeyboardInterrupt:
            _cancelled(job)
            raise AssertionError("unreachable") from None
    _print(result, as_json=as_json, json_lines=json_lines)


@contextmanager
def interrupts() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C: a job is not left behind by a polite kill."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def sending(client: Client) -> Iterator[None]:
    """Stop what was sent, too, where Ctrl-C or SIGTERM comes before `finish` waits for it."""
    with interrupts():
        try:
            yield
        except KeyboardInterrupt:
            for job in client.dispatch.driven():
                _cancelled(job)
            raise


def _cancelled(job: Following) -> None:
    from pennyreel.errors import Code, error

    say("cancelling; press Ctrl-C again to leave without waiting")
    confirmed = False
    with suppress(KeyboardInterrupt):
        confirmed = job.cancel()
    again = f"pennyreel cancel '{job.handle}'"
    if job.handle is None:
        again = f"pennyreel jobs cancel {job.id}"
    raise error(
        Code.CANCELLED,
        "interrupted; the job was stopped"
        if confirmed
        else "interrupted; it is not known whether the job stopped",
        hint="Nothing of it runs any more: send it again when you like."
        if confirmed
        else f"Try again: {again}",
        detail={"handle": str(job.handle), "confirmed_stopped": confirmed},
    ) from None


def _print(result: RunResult, *, as_json: bool, json_lines: bool) -> None:
    if json_lines:
        echo_json({"event": "result", **result.to_json()})
    elif as_json:
        echo_json(result.to_json())
    else:
        for path in result.paths:
            echo(str(path))
        if not result.paths:
            say("the job ended well and made no files")


@contextmanager
def view(*, quiet: bool, json_lines: bool) -> Iterator[Callable[[JobEvent], None]]:
    """Yield what shows a job's events: JSON lines, a bar on a terminal, or plain lines."""
    from pennyreel.types import event_json

    if json_lines:
        yield lambda event: echo_json(event_json(event))
    elif sys.stderr.isatty() and not quiet:
        with _bar() as show:
            yield show
    else:
        yield _Lines(quiet=quiet)


class _Lines:
    """Tells a job's course in plain lines, now and then."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._told = 0.0

    def __call__(self, event: JobEvent) -> None:
        from pennyreel import types

        if isinstance(event, types.Warned):
            say(f"warning: {event.text}")
        if isinstance(event, types.Told):
            say(event.text)
        if self._quiet:
            return
        if isinstance(event, types.Chosen):
            say(f"goes to {event.why}")
        elif isinstance(event, types.Submitted):
            say(f"submitted {event.handle}")
        elif isinstance(event, types.Queued):
            say("queued")
        elif isinstance(event, types.Started):
            say("started")
        elif isinstance(event, types.Progressed) and time.monotonic() - self._told >= LINE_S:
            self._told = time.monotonic()
            say(f"{event.percent:3.0f}% {describe(event)}")


def describe(event: Any) -> str:
    """Say where a job is: node class, step, time left."""
    parts = [event.node_class or event.stage]
    if event.step is not None and event.steps:
        parts.append(f"step {event.step}/{event.steps}")
    if event.eta_s is not None and event.eta_s >= 1:
        parts.append(f"about {event.eta_s:.0f} s left")
    return ", ".join(parts)


@contextmanager
def _bar() -> Iterator[Callable[[JobEvent], None]]:
    """Show a bar on the terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from pennyreel import types

    columns = (
        BarColumn(30),
        TextColumn("{task.percentage:3.0f}%"),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("submitting", total=100)

        def tell(text: str) -> None:
            console.print(clean(text), markup=False, highlight=False)

        def show(event: JobEvent) -> None:
            if isinstance(event, types.Chosen):
                tell(f"goes to {event.why}")
            elif isinstance(event, types.Told):
                tell(event.text)
            elif isinstance(event, types.Submitted):
                tell(f"submitted {event.handle}")
            elif isinstance(event, types.Queued):
                progress.update(task, description="queued")
            elif isinstance(event, types.Started):
                progress.update(task, description="started")
            elif isinstance(event, types.Progressed):
                told = clean(describe(event))
                progress.update(task, completed=event.percent, description=told)
            elif isinstance(event, types.ArtifactSaved):
                told = clean(f"saved {event.artifact.name}")
                progress.update(task, completed=100, description=told)
            elif isinstance(event, types.Warned):
                tell(f"warning: {event.text}")

        yield show
