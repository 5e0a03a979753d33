"""From a prompt and wishes to work that either a ComfyUI or a hosted model can do.

A ComfyUI runs a prompt by a template. Where the wishes are beyond the template, only backends that
take bare prompts are left, and the need says why.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue

from pennyreel import sources
from pennyreel.backends.base import Prompt, Work
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Need
from pennyreel.sources import Given
from pennyreel.workload import Order, build, seed_parameter
from pennyreel_comfy import templates
from pennyreel_comfy.templates import Template
from pennyreel_contract import Outputs, new_attempt_id

TEMPLATES = {"video": "animatediff-v3", "image": "sd15-image"}
"""What a ComfyUI runs for a prompt of each kind, unless told otherwise."""

FORMATS = {"video": "mp4", "image": "png"}
"""What the templates of each kind make."""

MOST_PROMPT = 10_000


@dataclass(frozen=True)
class Ask:
    """What a caller wants to see. None = as whoever makes it likes it."""

    prompt: str = field(repr=False)
    kind: str = "video"
    template: str | None = None
    """Run by this template's graph, on a ComfyUI."""
    negative_prompt: str | None = field(default=None, repr=False)
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    frames: int | None = None
    fps: float | None = None
    format: str | None = None
    image: Given | None = field(default=None, repr=False)
    """What a video begins with, or an image is made from."""
    lora: str | None = None
    """Its file in ComfyUI's models/loras."""
    audio: bool = False
    seed: int | None = None
    timeout_s: float | None = None


def make(ask: Ask) -> Work:
    """Return the work, its attempt's id minted.

    Raises:
        BadRequest: naming the wish that is wrong.

    """
    check(ask)
    image = None if ask.image is None else sources.source(ask.image, fallback="image")
    prompt = Prompt(
        text=ask.prompt,
        kind=ask.kind,
        negative=ask.negative_prompt,
        width=ask.width,
        height=ask.height,
        seconds=ask.seconds,
        frames=ask.frames,
        fps=ask.fps,
        format=ask.format,
        image=image,
        audio=ask.audio,
    )
    name = ask.template or TEMPLATES[ask.kind]
    template = templates.load(name)
    values, beyond = _values(ask, template)
    need = _wishes(ask)
    if not beyond:
        try:
            return _by_template(ask, template, values, prompt, need)
        except PennyreelError as problem:
            if ask.template is not None or problem.code != Code.BAD_TEMPLATE.value:
                raise
            beyond = str(problem)
    if ask.template is not None:
        raise error(Code.BAD_TEMPLATE, f"template {name} {beyond}", hint=_see(name))
    return Work(
        attempt_id=new_attempt_id(),
        graph={},
        sources=() if image is None else (image,),
        outputs=Outputs(),
        seed=ask.seed,
        timeout_s=ask.timeout_s,
        prompt=prompt,
        need=Need(**{**need, "no_template": f"its template {name} {beyond}"}),
    )


def check(ask: Ask) -> None:
    """Raise BadRequest, naming the wish that nobody could fulfil."""
    if ask.kind not in TEMPLATES:
        raise error(
            Code.BAD_REQUEST,
            f"kind {ask.kind!r} cannot be made from a prompt",
            hint=f"It may be {' or '.join(sorted(TEMPLATES))}; other kinds need a workflow.",
        )
    if not ask.prompt.strip() or len(ask.prompt) > MOST_PROMPT:
        raise error(
            Code.BAD_REQUEST, f"the prompt is empty, or longer than {MOST_PROMPT} characters"
        )
    numbers = {"width": ask.width, "height": ask.height, "frames": ask.frames}
    numbers |= {"seconds": ask.seconds, "fps": ask.fps}  # type: ignore[dict-item]
    for name, value in numbers.items():
        if value is not None and not (0 < value < 100_000):
            raise error(Code.BAD_REQUEST, f"{name} must be above 0, not {value:g}")
    if (ask.width is None) != (ask.height is None):
        raise error(Code.BAD_REQUEST, "width and height belong together: give both, or neither")


def _wishes(ask: Ask) -> dict[str, Any]:
    return {
        "kind": ask.kind,
        "width": ask.width,
        "height": ask.height,
        "seconds": ask.seconds,
        "frames": ask.frames,
        "fps": ask.fps,
        "format": ask.format,
        "audio": ask.audio,
        "image_input": ask.image is not None,
        "lora": ask.lora is not None,
        "negative_prompt": ask.negative_prompt is not None,
        "seed": ask.seed is not None,
    }


def _values(ask: Ask, template: Template) -> tuple[dict[str, JsonValue], str]:
    """Return the template's parameters, and what is wished beyond them."""
    wishes: dict[str, Any] = {
        "prompt": ask.prompt,
        "negative_prompt": ask.negative_prompt,
        "width": ask.width,
        "height": ask.height,
        "fps": ask.fps,
        "frames": _frames(ask, template),
        "lora": ask.lora,
    }
    values = {name: value for name, value in wishes.items() if value is not None}
    lacks = [name for name in values if name not in template.parameters]
    if ask.image is not None and _image_parameter(template) is None:
        lacks.append("image")
    if lacks:
        return {}, f"has no {', '.join(lacks).replace('_', ' ')}"
    if ask.audio:
        return {}, "makes no sound"
    made = FORMATS[template.kind]
    if ask.format not in {None, made}:
        return {}, f"makes .{made}, not .{ask.format}"
    if template.kind != ask.kind:
        return {}, f"makes {template.kind}, not {ask.kind}"
    return values, ""


def _frames(ask: Ask, template: Template) -> int | None:
    """Return the frames for the length that is wished, where it is wished in seconds."""
    if ask.seconds is None:
        return ask.frames
    usual = template.parameters["fps"].default if "fps" in template.parameters else None
    fps = ask.fps or (usual if isinstance(usual, (int, float)) else None)
    if fps is None:
        return ask.frames
    return max(ask.frames or 0, math.ceil(ask.seconds * fps - 1e-9))


def _image_parameter(template: Template) -> str | None:
    return next((n for n, p in template.parameters.items() if p.type == "image"), None)


def _by_template(
    ask: Ask, template: Template, values: dict[str, JsonValue], prompt: Prompt, need: dict[str, Any]
) -> Work:
    image = _image_parameter(template)
    inputs = {image: ask.image} if image is not None and ask.image is not None else {}
    order = Order(
        workflow=template.name,
        set={},
        set_text={},
        inputs=inputs,
        parameters=values,
        parameters_text={},
        seed=ask.seed if seed_parameter(template) is not None else None,
        timeout_s=ask.timeout_s,
    )
    work = build(order)
    whole = {**need, "workflow": False, "template": template.name}
    return replace(work, prompt=prompt, need=replace(work.need, **whole))


def _see(name: str) -> str:
    return f"See what it has: pennyreel templates {name}"
