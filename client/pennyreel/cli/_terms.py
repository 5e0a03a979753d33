"""Options of commands that send a job by the router: what is wished, and what it may cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_F = TypeVar("_F", bound=Callable[..., Any])

PLACES = ("local", "own", "rented", "hosted")
_TERMS = (
    "policy", "backend", "max_cost", "day_limit", "deadline_s", "places", "forbid",
    "private", "allow_slow", "allow_unknown_price", "project", "user",
)  # fmt: skip


def wish_options(function: _F) -> _F:
    """Add what a prompt is to become."""
    for option in reversed((
        click.option("--kind", type=click.Choice(["video", "image"]), default="video",
                     show_default=True, help="What to make."),
        click.option("--template", metavar="NAME", help="By this template, on a ComfyUI."),
        click.option("--negative", "negative_prompt", metavar="TEXT", help="What to keep out."),
        click.option("--size", metavar="WxH", help="Such as 512x512."),
        click.option("--seconds", type=float, metavar="S", help="Length of the video, at least."),
        click.option("--frames", type=int, metavar="N", help="The same in frames."),
        click.option("--fps", type=float, metavar="N", help="Frames a second."),
        click.option("--format", "format_", metavar="ENDING", help="mp4, gif, png, …"),
        click.option("--image", metavar="FILE|URL", help="What the video begins with."),
        click.option("--lora", metavar="NAME", help="A file in ComfyUI's models/loras."),
        click.option("--audio", is_flag=True, help="With sound."),
        click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="For the same again."),
    )):  # fmt: skip
        function = option(function)
    return function


def terms_options(function: _F) -> _F:
    """Add what a job may cost and where it may go."""
    for option in reversed((
        click.option("--policy", metavar="POLICY",
                     help="cheapest, fastest, best, local-only, or backends in your own order: "
                     "comfyui,runpod.  [default: cheapest]"),
        click.option("--backend", metavar="NAME", help="This one or none."),
        click.option("--max-cost", metavar="USD", help="What the job may cost at most."),
        click.option("--day-limit", metavar="USD", help="What a day may cost.  [default: 2]"),
        click.option("--deadline", "deadline_s", type=float, metavar="S",
                     help="Only backends that are that fast."),
        click.option("--where", "places", multiple=True, type=click.Choice(PLACES),
                     help="Only on such machines. Repeatable."),
        click.option("--forbid", multiple=True, metavar="NAME", help="Not there. Repeatable."),
        click.option("--private/--no-private", default=None,
                     help="Only your own machines and accounts."),
        click.option("--allow-slow", is_flag=True, help="Weak devices may take over 15 minutes."),
        click.option("--allow-unknown-price", is_flag=True, help="Though nobody knows its price."),
        click.option("--project", metavar="NAME", help="Add its cost up under this name."),
        click.option("--user", metavar="NAME", help="The same, by user."),
    )):  # fmt: skip
        function = option(function)
    return function


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Return the library's options for those of the command line."""
    size = options.pop("size", None)
    if size is not None:
        width, by, height = size.lower().partition("x")
        if not (by and width.isdigit() and height.isdigit()):
            raise click.UsageError(f"--size takes WIDTHxHEIGHT, not {size!r}")
        options |= {"width": int(width), "height": int(height)}
    options["places"] = options.get("places") or None
    if "format_" in options:
        options["format"] = options.pop("format_")
    return {name: value for name, value in options.items() if value not in (None, [], ())}


def terms(options: dict[str, Any]) -> dict[str, Any]:
    """Return those that are about cost and place alone."""
    return {name: options[name] for name in _TERMS if name in options}
