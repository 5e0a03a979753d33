"""What the client's calls take besides a prompt or a workflow, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typing_extensions import TypedDict

from pennyreel import spelling
from pennyreel.config import Settings
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.spelling import Finding
from pennyreel.terms import Terms, usual

if TYPE_CHECKING:  # these bring requests along, which costs a tenth of a second
    from pennyreel.prompts import Ask as Wish
    from pennyreel.routing.machine import Ask
    from pennyreel.sources import Given
    from pennyreel.workload import Order, Workflow


class JobOptions(TypedDict, total=False):
    """What is done with a workflow, and where its files go. All may be left out."""

    set: Mapping[str, Any]
    """Inputs of nodes by "NODE.INPUT"; NODE is an id, or a title that only one node has."""
    set_text: Mapping[str, str]
    """The same from text, as typed; the old value tells the type."""
    inputs: Mapping[str, Given]
    """Files by "NODE.INPUT", or NODE where it has one file input, or an image parameter's name:
    a path, an http(s) or s3 URL, bytes, or (name, bytes)."""
    parameters: Mapping[str, Any]
    """Of a template."""
    parameters_text: Mapping[str, str]
    """The same from text, as typed."""
    seed: int | None
    """For every seed in the graph."""
    timeout_s: float | None
    """From now to the result, queue included; then the job is cancelled and JobTimeout raised."""
    out_dir: Path | str | None
    """Where the files go; made when it is missing."""
    nodes: Collection[str] | None
    """Only these nodes' outputs."""
    kinds: Collection[str] | None
    """Only these kinds: image, video, audio, model3d, text, file."""
    temp: bool
    """Also the files of preview nodes."""
    preview: bool
    """Send small pictures with the progress."""
    metadata: Mapping[str, Any] | None
    """Comes back in the result."""


class RouteOptions(JobOptions, Terms, total=False):
    """What `run`, `submit` and `subscribe` take: also what a job may cost and where it may go."""

    ask: Callable[[Ask], bool] | None
    """Asked whether a backend may be tried that needs a yes. Without it, the answer is no."""
    noted: Callable[[str], None] | None
    """Told the job's id when its request is on this disk, before anything is sent or booked."""


class GenerateOptions(Terms, total=False):
    """What `generate` takes besides the prompt: wishes, and what it may cost and where."""

    kind: str
    """video (the default) or image."""
    template: str | None
    """Run by this template's graph, on a ComfyUI."""
    negative_prompt: str | None
    width: int | None
    height: int | None
    seconds: float | None
    frames: int | None
    fps: float | None
    format: str | None
    """The file's ending: mp4, gif, png, …"""
    image: Given | None
    """What the video begins with."""
    lora: str | None
    audio: bool
    seed: int | None
    timeout_s: float | None
    """From now to the result; then the job is cancelled and JobTimeout raised."""
    out_dir: Path | str | None
    ask: Callable[[Ask], bool] | None
    """Asked whether a backend may be tried that needs a yes. Without it, the answer is no."""
    noted: Callable[[str], None] | None
    """Told the job's id when its request is on this disk, before anything is sent or booked."""


def order_of(workflow: Workflow, options: Mapping[str, Any]) -> Order:
    """Return what is wanted of a workflow; raises BadRequest where a word is none, or wrong."""
    spelling.named(options, RouteOptions.__annotations__)
    spelling.check(options)
    from pennyreel.workload import Order  # noqa: PLC0415 - see above

    return Order(
        workflow=workflow,
        set=options.get("set", {}),
        set_text=options.get("set_text", {}),
        inputs=options.get("inputs", {}),
        parameters=options.get("parameters", {}),
        parameters_text=options.get("parameters_text", {}),
        seed=options.get("seed"),
        timeout_s=options.get("timeout_s"),
        nodes=options.get("nodes"),
        kinds=options.get("kinds"),
        temp=options.get("temp", False),
        preview=options.get("preview", False),
        metadata=options.get("metadata"),
    )


def wish_of(prompt: str, options: Mapping[str, Any]) -> Wish:
    """Return what is wanted of a prompt; raises BadRequest where a word is none, or wrong."""
    spelling.named(options, (*GenerateOptions.__annotations__, "prompt"))
    spelling.check({**options, "prompt": prompt})
    from pennyreel.prompts import Ask as Wish  # noqa: PLC0415 - see above

    known = Wish.__dataclass_fields__
    given = {name: value for name, value in options.items() if value is not None}
    given["prompt"] = prompt
    return Wish(**{name: value for name, value in given.items() if name in known})


def terms_of(options: Mapping[str, Any], settings: Settings | None = None) -> Terms:
    """Return what a job may cost and where it may go: as the caller says, else as the settings do.

    Raises:
        BadRequest: a word of the caller's is of a wrong kind.
        SetupNeeded: one of the settings' makes no sense; it says where that is set.

    """
    spelling.check(options)
    found: Any = {name: options[name] for name in Terms.__annotations__ if name in options}
    if settings is not None:
        more = usual(settings, found)
        for name, value in more.items():
            sensible(name, value, settings.said.get(name, name))
        found |= more
    terms: Terms = found
    return terms


def sensible(name: str, value: Any, where: str) -> None:
    """Raise SetupNeeded, naming where it is set, if a setting among the terms makes no sense."""
    from pennyreel import routes  # noqa: PLC0415 - see above

    one: Any = {name: value}
    told = _problem(lambda: routes.rules_of(one))
    if told:
        raise error(
            Code.NOT_CONFIGURED,
            f"{where}: {told}",
            hint=f"Correct it there, or run: pennyreel config set {name} VALUE",
        )


def findings(prompt: str, options: Mapping[str, Any]) -> list[Finding]:
    """Return what is wrong with a wish, as far as that can be told without sending it."""
    from pennyreel import prompts, routes  # noqa: PLC0415 - see above

    found = spelling.wrong({**options, "prompt": prompt})
    if found:
        return found
    asked = _problem(lambda: prompts.check(wish_of(prompt, options)))
    allowed = _problem(lambda: routes.rules_of(terms_of(options)))
    return [Finding("", told) for told in (asked, allowed) if told]


def _problem(check: Callable[[], object]) -> str:
    try:
        check()
    except PennyreelError as problem:
        return f"{problem} ({problem.hint})" if problem.hint else str(problem)
    return ""
