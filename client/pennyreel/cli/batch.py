"""`pennyreel batch`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pennyreel.cli._batchfile import HELD, STATE, Before, Line, State, lines
from pennyreel.cli._terms import given, terms_options, wish_options
from pennyreel.cli.common import echo_json, interrupts, output_options, say
from pennyreel.cli.exits import FAILED, exit_code

if TYPE_CHECKING:
    from pennyreel.batch import Following, Outcome
    from pennyreel.client import Client
    from pennyreel.types import JobEvent, RunResult


@click.command("batch")
@click.argument("file", metavar="FILE")
@click.option("--concurrency", type=click.IntRange(min=1), default=4, show_default=True,
              metavar="N", help="How many run at once.")  # fmt: skip
@click.option("--again", is_flag=True, help="Also what was done before.")
@wish_options
@terms_options
@click.option("--yes", is_flag=True, help="Agree to what is asked on the way.")
@output_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    file: str,
    concurrency: int,
    again: bool,
    yes: bool,
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
    **options: Any,
) -> None:
    """Make what FILE wishes, one a line, a few at a time.

    FILE may be - for stdin. A line is a prompt, or a JSON object: {"prompt": "a boat", "seed": 7,
    "max_cost": "0.02"}. Other options are for all lines. Started again, it goes on: lines that are
    done are skipped, and jobs that were left running are waited for. When a budget has nothing
    left, the rest is not sent.
    The exit code is 0 if every line is done.
    """
    from filelock import FileLock, Timeout

    from pennyreel.client import Client
    from pennyreel.errors import Code, error
    from pennyreel.options import GenerateOptions
    from pennyreel.terms import Terms

    text = sys.stdin.read() if file == "-" else _text(file)
    options["timeout_s"] = timeout_s
    usual = given(options)
    known = set(GenerateOptions.__annotations__) - {"ask", "noted", "out_dir"}
    wishes = lines(text, known, usual, aside={*Terms.__annotations__, "timeout_s"})
    usual["ask"] = (lambda _: True) if yes else None
    with Client() as client:
        out = out_dir or client.settings.out_dir
        out.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(out / f"{STATE}.lock", timeout=0), interrupts():
                run = _Run(client, State(out / STATE), {**usual, "out_dir": out}, again=again)
                code = run.all(wishes, concurrency, _Show(len(wishes), as_json, json_lines))
        except Timeout:
            raise error(
                Code.BAD_REQUEST,
                f"another batch is saving into {out}",
                hint="Wait for it, or name another folder with --out.",
            ) from None
    ctx.exit(code)


def _text(file: str) -> str:
    from pennyreel.errors import Code, error

    try:
        return Path(file).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise error(
            Code.BAD_REQUEST,
            f"{file} cannot be read as UTF-8 text ({type(problem).__name__})",
            hint="Name a file with a prompt a line, or - for stdin.",
        ) from None


@dataclass
class _Show:
    """Tells a person or a program how a batch goes."""

    total: int
    as_json: bool
    json_lines: bool
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    advance: Callable[[str], None] | None = None
    """Moves the bar, where there is one."""

    @property
    def quiet(self) -> bool:
        return self.as_json or self.json_lines

    def event(self, line: Line, event: JobEvent) -> None:
        from pennyreel.types import event_json

        if self.json_lines:
            echo_json({"line": line.number, **event_json(event)})

    def end(self, line: Line, row: dict[str, Any]) -> None:
        self.rows[line.number] = row
        if self.json_lines:
            echo_json({"event": "line_ended", **row})
        if self.quiet:
            return
        problem = row.get("error")
        if problem is not None:
            say(f"line {line.number}: error[{problem['code']}]: {problem['message']}")
            if problem["hint"]:
                say("  next: " + problem["hint"].replace("\n", "\n        "))
        if self.advance is not None:
            self.advance(self.counts())
        elif problem is None and not row["before"]:
            _paths(row)

    def counts(self) -> str:
        rows = self.rows.values()
        failed = sum(row["outcome"] != "done" for row in rows)
        before = sum(row["before"] and row["outcome"] == "done" for row in rows)
        told = [f"{len(rows) - failed - before} done"]
        told += [f"{before} done before"] if before else []
        return ", ".join(told + ([f"{failed} failed"] if failed else []))

    def summary(self) -> None:
        from pennyreel.money.amounts import dollars

        rows = [self.rows[number] for number in sorted(self.rows)]
        cost = sum(row["cost_microusd"] or 0 for row in rows)
        failed = sum(row["outcome"] != "done" for row in rows)
        body = {"done": len(rows) - failed, "failed": failed, "cost_microusd": cost}
        if self.json_lines:
            echo_json({"event": "batch_ended", **body})
        elif self.as_json:
            echo_json({"results": rows, **body})
        else:
            if self.advance is not None:
                for row in rows:
                    _paths(row)
            say(f"{self.counts()}; {dollars(cost)}")


def _paths(row: dict[str, Any]) -> None:
    for path in row["paths"]:
        click.echo(path)


class _Run:
    """One run over the lines that are left."""

    def __init__(self, client: Client, state: State, usual: dict[str, Any], *, again: bool) -> None:
        self._client, self._state, self._usual, self._again = client, state, usual, again
        self._stopped: list[bool] = []

    def all(self, wishes: list[Line], concurrency: int, show: _Show) -> int:
        """Make what is left; return the exit code."""
        from pennyreel import batch

        left = [line for line in wishes if not self._settled(line, show)]
        with _bar(show, len(wishes)):
            try:
                batch.run(
                    [self._starter(line) for line in left],
                    concurrency=concurrency,
                    on_event=lambda n, event: show.event(left[n], event),
                    on_end=lambda n, outcome: self._ended(left[n], outcome, show),
                    on_stop=self._stopping,
                )
            except KeyboardInterrupt:
                raise self._interrupted() from None
        show.summary()
        codes = {row["exit"] for row in show.rows.values() if row["outcome"] != "done"}
        return codes.pop() if len(codes) == 1 else (FAILED if codes else 0)

    def _settled(self, line: Line, show: _Show) -> bool:
        """Whether an earlier run has left nothing to do; then that is told."""
        from pennyreel.errors import PennyreelError

        before = None if self._again else self._state.before(line.key)
        if before is not None and before.state == "started":
            before = self._left(line, before)
        if before is None or before.state == "started":
            return False
        if before.state == "done":
            show.end(line, _row(line, before=before))
            return True
        if before.code not in HELD:
            return False
        problem = _held(before)
        assert isinstance(problem, PennyreelError)  # noqa: S101 - for the type checker
        show.end(line, _row(line, problem=problem, before=before))
        return True

    def _left(self, line: Line, before: Before) -> Before:
        """Return how a job ended whose batch was killed before it could note that."""
        from pennyreel.errors import BadRequest, Code

        if self._client.dispatch.never_sent(before.job_id):
            self._state.write(line.key, "failed", before.job_id, code=Code.CANCELLED.value)
            return Before("failed", before.job_id, Code.CANCELLED.value)
        try:
            job = self._client.dispatch.ledger.job(before.job_id)
        except BadRequest:  # it is in another ledger, and may be paid for
            return Before("failed", before.job_id, Code.UNKNOWN_OUTCOME.value)
        if job.outcome is None:
            return before
        state = "done" if job.outcome == "done" else "failed"
        self._state.write(line.key, state, before.job_id, code=job.outcome)
        return Before(state, before.job_id, job.outcome)

    def _starter(self, line: Line) -> Callable[[], Following]:
        def start() -> Following:
            before = None if self._again else self._state.before(line.key)
            if before is not None and before.state == "started":
                return self._client.resume(before.job_id)

            def noted(job_id: str) -> None:
                self._state.write(line.key, "started", job_id)

            options = {**self._usual, **line.options, "noted": noted}
            return self._client.start(line.prompt, **options)

        return start

    def _ended(self, line: Line, outcome: Outcome, show: _Show) -> None:
        from pennyreel.errors import JobCancelled, PennyreelError

        before = self._state.before(line.key)
        job_id = "" if before is None else before.job_id
        if not isinstance(outcome, PennyreelError):
            paths = [str(path.absolute()) for path in outcome.paths]
            self._state.write(line.key, "done", outcome.job_id, paths=paths)
            show.end(line, _row(line, result=outcome))
            return
        if isinstance(outcome, JobCancelled):
            self._stopped.append(outcome.info.detail.get("confirmed_stopped") is True)
        if before is not None and before.state == "started" and self._over(job_id):
            self._state.write(line.key, "failed", job_id, code=outcome.code)
        show.end(line, _row(line, problem=outcome, job_id=job_id))

    def _over(self, job_id: str) -> bool:
        """Whether nothing is left of it that could be waited for."""
        return self._client.dispatch.ledger.job(job_id).outcome is not None

    def _stopping(self) -> None:
        self._stopped.clear()
        say("cancelling; press Ctrl-C again to leave without waiting")

    def _interrupted(self) -> Exception:
        from pennyreel.errors import Code, error

        stopped, open_ = self._stopped.count(True), self._stopped.count(False)
        told = f"interrupted; {stopped} running jobs were stopped"
        told += f", and of {open_} it is not known whether they stopped" if open_ else ""
        return error(
            Code.CANCELLED,
            told,
            hint="Go on with the same command: what is done is skipped.",
            detail={"stopped": stopped, "confirmed_stopped": not open_},
        )


def _held(before: Before) -> Exception:
    from pennyreel.errors import Code, error

    look = "fetch" if before.code == Code.STORAGE_FAILED.value else "show"
    return error(
        Code(before.code),
        f"job {before.job_id} of an earlier run is, or may be, paid for, and was not sent again",
        hint=f"Run: pennyreel jobs {look} {before.job_id}. All lines anew: --again",
    )


def _row(
    line: Line,
    *,
    result: RunResult | None = None,
    problem: Any = None,
    before: Before | None = None,
    job_id: str = "",
) -> dict[str, Any]:
    """Return what is told of a line that has ended."""
    row: dict[str, Any] = {
        "line": line.number,
        "outcome": "done" if problem is None else problem.code,
        "job_id": before.job_id if before is not None else job_id or None,
        "paths": [] if before is None else list(before.paths),
        "cost_microusd": None,
        "before": before is not None,
        "exit": 0 if problem is None else exit_code(problem),
    }
    if result is not None:
        paths = [str(path.absolute()) for path in result.paths]
        row |= {"job_id": result.job_id, "paths": paths, "cost_microusd": result.cost_microusd}
    if problem is not None:
        info = problem.info.model_dump(mode="json")
        row["error"] = {k: v for k, v in info.items() if k != "detail"}
    return row


@contextmanager
def _bar(show: _Show, total: int) -> Iterator[None]:
    """Show a bar on a terminal."""
    if show.quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    # Paths on stdout are for programs: rich would turn them over to stderr.
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, redirect_stdout=False) as progress:
        task = progress.add_task(show.counts(), total=total, completed=len(show.rows))

        def advance(told: str) -> None:
            progress.update(task, completed=len(show.rows), description=told)

        show.advance = advance
        yield
