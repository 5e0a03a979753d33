"""`pennyreel jobs`: what the ledger knows of jobs, and going on with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pennyreel.cli._books import money, table
from pennyreel.cli._terms import given, terms_options
from pennyreel.cli.cancel import unconfirmed
from pennyreel.cli.common import echo, echo_json, finish, output_options, say, sending

if TYPE_CHECKING:
    from pennyreel.money.records import Attempt, Job

STATES = ("open", "done", "unknown", "cancelled", "failed")
_json = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
_job = click.argument("job_id", metavar="JOB")


@click.group("jobs")
def command() -> None:
    """List, show, resume, cancel, fetch and retry jobs.

    JOB is a job's id, or its first letters.
    """


@command.command("list")
@click.option("--state", type=click.Choice(STATES), help="Only these.")
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="At most so many.",
)
@_json
def list_(*, state: str | None, limit: int, as_json: bool) -> None:
    """List jobs, the newest first."""
    from pennyreel.client import Client

    with Client() as client:
        found = client.dispatch.ledger.jobs(state=state, limit=limit)
    if as_json:
        echo_json({"jobs": [job.to_json() for job in found]})
        return
    if not found:
        say(f"no job is {state}" if state else 'no jobs yet: pennyreel generate "a paper boat"')
        return
    head = ("job", "created", "state", "where", "what", "cost")
    table(head, [_row(job) for job in found], left=5)
    if any(job.state == "open" for job in found):
        say("go on with open ones: pennyreel jobs resume")


@command.command("show")
@_job
@_json
def show(*, job_id: str, as_json: bool) -> None:
    """Show JOB: its attempts, its money, and where it went."""
    from pennyreel.client import Client
    from pennyreel.errors import PennyreelError
    from pennyreel.kept import look_again
    from pennyreel.routing.explain import headline

    with Client() as client:
        job = client.dispatch.ledger.job(job_id)
        troubles = client.dispatch.troubles(job.job_id)
        made = client.dispatch.made(job.job_id)
        try:
            decision = client.dispatch.decision(job.job_id)
        except PennyreelError:
            decision = None
    if as_json:
        told = None if decision is None else decision.to_json()
        echo_json({**job.to_json(), "decision": told})
        return
    echo(f"{job.job_id}  {job.state}  {money(job.spent)}")
    if decision is not None:
        echo(f"decided: {headline(decision)}")
    if job.attempts:
        head = ("attempt", "backend", "state", "ended", "handle", "reserved", "spent")
        table(head, [_tried(one) for one in job.attempts], left=5)
    else:
        echo("nothing was sent")
    for backend, trouble in troubles:
        echo(f"{backend}: {trouble.text}")
        if trouble.hint:
            echo(f"  next: {trouble.hint}")
    if _may_run(job):
        say(f"it may run still. {look_again(job)}")
    if job.state == "failed" and made:
        say(f"fetch what it made: pennyreel jobs fetch {job.job_id[:12]}")
    elif job.state == "failed" and job.attempts:
        say(f"send it again, paid for anew: pennyreel jobs retry {job.job_id[:12]}")
    say(f"why: pennyreel why {job.job_id[:12]}")


@command.command("resume")
@click.argument("job_ids", metavar="[JOB]…", nargs=-1)
@output_options
def resume(
    *,
    job_ids: tuple[str, ...],
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
) -> None:
    """Go on with jobs whose client ended before they did; without JOB, with all of them at once.

    Jobs that another process drives, or that began on another machine, are left to it.
    """
    from pennyreel.cli._resuming import Resuming, passed_over, told
    from pennyreel.cli.generate import asker
    from pennyreel.client import Client
    from pennyreel.errors import PennyreelError

    ask = asker(yes=False)
    with Client() as client, sending(client):
        client.dispatch.tidy()
        open_ = () if job_ids else client.dispatch.ledger.jobs(state="open", limit=10_000)
        open_ids = [job.job_id for job in reversed(open_)]  # first what expires first
        wanted = tuple(dict.fromkeys(job_ids or open_ids))
        if len(wanted) > 1:
            Resuming(client, timeout_s, out_dir, ask, bool(job_ids), as_json, json_lines).all(
                wanted
            )
            return
        if not wanted:
            say("no job is open")
        for job_id in wanted:
            try:
                job = client.resume(job_id, timeout_s=timeout_s, out_dir=out_dir, ask=ask)
            except PennyreelError as problem:
                if job_ids or not passed_over(problem):
                    raise
                told(job_id, problem)
                return
            finish(job, as_json=as_json, json_lines=json_lines)


@command.command("cancel")
@_job
@_json
def cancel(*, job_id: str, as_json: bool) -> None:
    """Stop JOB, whoever drives it, and say whether that is confirmed."""
    from pennyreel.client import Client

    with Client() as client:
        job = client.dispatch.ledger.job(job_id)
        stopped = client.cancel(job.job_id)
        job = client.dispatch.ledger.job(job.job_id)
    outcome = job.outcome or "not stopped yet"
    told = {"job_id": job.job_id, "confirmed_stopped": stopped, "outcome": outcome}
    if not stopped:
        raise unconfirmed(job, told)
    if as_json:
        echo_json(told)
    else:
        echo(f"{job.job_id}: {outcome}")


@command.command("fetch")
@_job
@output_options
def fetch(
    *,
    job_id: str,
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
) -> None:
    """Fetch the files of JOB again, as long as its backend keeps them. Nothing is run again."""
    from pennyreel.client import Client
    from pennyreel.handles import made_nothing

    with Client() as client:
        job = client.dispatch.ledger.job(job_id)
        if client.dispatch.made(job.job_id) is None:
            raise made_nothing(job)
        following = client.handle(job.job_id, timeout_s=timeout_s, out_dir=out_dir)
        finish(following, as_json=as_json, json_lines=json_lines)


@command.command("retry")
@_job
@click.option("--beside-unknown", is_flag=True, help="Though JOB may run still, and cost as well.")
@terms_options
@output_options
def retry(
    *,
    job_id: str,
    beside_unknown: bool,
    out_dir: Path | None,
    timeout_s: float | None,
    as_json: bool,
    json_lines: bool,
    **options: Any,
) -> None:
    """Send what JOB asked for once more, as a new job. It is paid for anew."""
    from pennyreel.cli.generate import asker
    from pennyreel.client import Client
    from pennyreel.errors import Code, error

    with Client() as client:
        old = client.dispatch.ledger.job(job_id)
        if old.state == "done":
            raise error(
                Code.BAD_REQUEST,
                f"job {old.job_id} is done, and what it asked for is not kept",
                hint="Give the prompt or the workflow again: pennyreel generate, pennyreel run",
            )
        if old.state == "open" or (_may_cost(old) and not beside_unknown):
            raise error(
                Code.BAD_REQUEST,
                f"job {old.job_id} may still run: another would be paid for beside it",
                hint=_first(old),
            )
        wishes = given({**options, "timeout_s": timeout_s, "out_dir": out_dir})
        with sending(client):
            job = client.again(old.job_id, ask=asker(yes=False), **wishes)
            finish(job, as_json=as_json, json_lines=json_lines)


def _first(job: Job) -> str:
    if job.state == "open":
        return f"First: pennyreel jobs resume {job.job_id[:12]}"
    from pennyreel.kept import look_again

    agreed = f"pennyreel jobs retry {job.job_id[:12]} --beside-unknown"
    return f"{look_again(job)}\nor pay for another as well: {agreed}"


def _may_run(job: Job) -> bool:
    return any(one.state == "unknown" for one in job.attempts)


def _may_cost(job: Job) -> bool:
    paid = any(one.state == "unknown" and one.reserved for one in job.attempts)
    return paid or job.state == "unknown"


def _row(job: Job) -> tuple[str, ...]:
    created = str(job.to_json()["created"])[:19].replace("T", " ")
    where = " > ".join(dict.fromkeys(a.backend for a in job.attempts)) or "-"
    what = job.template or str(job.need.get("profile") or job.need.get("kind") or "")
    return job.job_id[:12], created, job.state, where, what, money(job.spent + job.reserved)


def _tried(one: Attempt) -> tuple[str, ...]:
    ended, handle = one.code or "", one.handle or ""
    spent = (money(one.reserved), money(one.spent))
    return one.attempt_id[:12], one.backend, one.state, ended, handle, *spent
