"""The command group. Commands are imported when they are used, so that --help stays fast."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import click

from pennyreel.cli.exits import BAD_REQUEST, EXITS, exit_code

DEBUG_ENV = "PENNYREEL_DEBUG"


class _Command(NamedTuple):
    module: str
    help: str


COMMANDS = {
    "backends": _Command("backends", "Show where jobs can run, and how each backend is."),
    "batch": _Command("batch", "Make many videos or images from a file of prompts."),
    "budget": _Command("budget", "Show and set how much may be spent."),
    "cancel": _Command("cancel", "Stop a job by its handle or id."),
    "comfyui": _Command("comfyui", "Install, start and stop a ComfyUI on this machine."),
    "config": _Command("config", "Show and change settings, and say where each comes from."),
    "costs": _Command("costs", "Show what was spent, by day, backend, project and more."),
    "demo": _Command("demo", "See the whole path work on this machine, at no cost."),
    "dev": _Command("dev", "Run an emulated RunPod with real workers on this machine."),
    "devices": _Command("devices", "Show this machine's GPUs, and what is free of them."),
    "doctor": _Command("doctor", "Check this machine and say what is missing."),
    "generate": _Command("generate", "Make a video or an image from a prompt, where it is best."),
    "quote": _Command("quote", "Show what a job would cost and take everywhere."),
    "why": _Command("why", "Say why a job went where it went."),
    "jobs": _Command("jobs", "List, show, resume, cancel, fetch and retry jobs."),
    "models": _Command("models", "List, fetch, check and clear out ComfyUI's models."),
    "prices": _Command("prices", "Show what is billed by what, and how sure that is."),
    "result": _Command("result", "Wait for a job by its handle or id and fetch its files."),
    "run": _Command("run", "Run a workflow and save what it makes."),
    "setup": _Command("setup", "Install what a template or a workflow lacks on this machine."),
    "templates": _Command("templates", "List the built-in workflows, or show one's parameters."),
}


class LazyGroup(click.Group):
    """Knows its commands' names and help; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """Every name, sorted."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"pennyreel.cli.{COMMANDS[cmd_name].module}")
        found: click.Command = module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the list without importing anything."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in sorted(COMMANDS.items())])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the table of exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(e.code), e.meaning) for e in EXITS])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=False,
)
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda *a: _version(*a),
    help="Print the version.",
)
def cli() -> None:
    """Make videos and images where it is cheapest: here, on RunPod, or by a hosted model."""


def run(argv: Sequence[str] | None = None) -> int:
    """Run the command line; print errors the one way they are printed; return the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        ended = cli.main(args, prog_name="pennyreel", standalone_mode=False)
        return ended if isinstance(ended, int) else 0
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message(), err=True)
        return BAD_REQUEST
    except click.ClickException as problem:
        problem.show()
        usage = {"code": "bad_request", "message": problem.format_message(), "retryable": False}
        _as_json({**usage, "hint": "See --help.", "detail": {}}, args)
        return BAD_REQUEST
    except (click.Abort, KeyboardInterrupt):
        return _report(KeyboardInterrupt(), args)
    except BrokenPipeError:
        # Whoever read our output has left; keep the interpreter from failing at exit, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as problem:  # noqa: BLE001 - the last one to see it
        return _report(problem, args)


def _report(problem: BaseException, args: Sequence[str]) -> int:
    """Say in two lines what is wrong and what to do next; with --json as JSON, too."""
    from pennyreel.errors import Code, ErrorInfo, PennyreelError

    debug = bool(os.environ.get(DEBUG_ENV))
    if debug:
        import traceback

        traceback.print_exception(problem)
    if isinstance(problem, PennyreelError):
        info = problem.info
    elif isinstance(problem, KeyboardInterrupt):
        info = ErrorInfo.make(
            Code.CANCELLED,
            "interrupted",
            hint="if a job was just being sent it may run all the same: look before you repeat it",
        )
    else:
        info = ErrorInfo.make(
            Code.INTERNAL,
            # Its words may quote a key or a signed URL.
            f"{type(problem).__name__}: {problem}" if debug else type(problem).__name__,
            hint=f"set {DEBUG_ENV}=1 for the traceback, and please report it",
        )
    click.echo(f"error[{info.code}]: {info.message}", err=True)
    for line in _log_of(info.detail):
        click.echo(f"  | {line}", err=True)
    if info.hint:
        click.echo("  next: " + info.hint.replace("\n", "\n        "), err=True)
    _as_json(info.model_dump(mode="json"), args)
    return exit_code(problem)


def _as_json(info: dict[str, Any], args: Sequence[str]) -> None:
    """Print an error for programs, too, where they asked for JSON."""
    if "--json-lines" in args:
        click.echo(json.dumps({"event": "error", "error": info}))
    elif "--json" in args:
        click.echo(json.dumps({"error": info}))


def _log_of(detail: dict[str, Any]) -> list[str]:
    """A failed start's last log lines: they say more than we can."""
    from pennyreel_contract.steering import harmless_text

    log = detail.get("log")
    return [harmless_text(str(line)[:200]) for line in log[-5:]] if isinstance(log, list) else []


def _version(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from pennyreel_contract.version import __version__

        click.echo(f"pennyreel {__version__}")
        ctx.exit()
