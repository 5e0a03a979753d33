"""lucataco/hotshot-xl, the one model here: its schema, what it refuses, what it makes.

Inputs as in predict.py of github.com/lucataco/cog-hotshot-xl (commit ef7cadb).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pennyreel_emulators import clips

MODEL = "lucataco/hotshot-xl"
VERSION = "78b3a6257e16e4b241245d65c8b2b81ea2e1ff7ed4c55306b511509ddbfd327a"
FRAMES, FPS = 8, 8

_SIDES = [256, 320, 384, 448, 512, 576, 640, 672, 704, 768, 832, 896, 960, 1024]
_SCHEDULERS = [
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "HeunDiscreteScheduler",
    "KarrasDPM",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "PNDMScheduler",
]
_INPUTS: dict[str, dict[str, Any]] = {
    "prompt": {"type": "string", "default": "a camel smoking a cigarette, hd, high quality"},
    "negative_prompt": {"type": "string", "default": "blurry"},
    "width": {"type": "integer", "enum": _SIDES, "default": 672},
    "height": {"type": "integer", "enum": _SIDES, "default": 384},
    "scheduler": {
        "type": "string",
        "enum": _SCHEDULERS,
        "default": "EulerAncestralDiscreteScheduler",
    },
    "steps": {"type": "integer", "minimum": 1, "maximum": 500, "default": 30},
    "mp4": {"type": "boolean", "default": False},
    "seed": {"type": "integer"},
}
_TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "boolean": (bool,)}


def schema() -> dict[str, Any]:
    """Return the version's `openapi_schema`, as far as the SDK reads it."""
    return {
        "components": {
            "schemas": {
                "Input": {"type": "object", "title": "Input", "properties": _INPUTS},
                "Output": {"type": "string", "title": "Output", "format": "uri"},
            }
        }
    }


def problems(given: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return `invalid_fields`, in the shape that public repositories quote of Replicate's 422.

    An input that the model does not know passes (UNVERIFIED: perhaps refused, perhaps dropped).
    """
    found = []
    for name, value in given.items():
        says = _says(name, value)
        if says:
            kind, words = says
            found.append({"type": kind, "field": f"input.{name}", "description": words})
    return found


def render(given: Mapping[str, Any], seed: int) -> tuple[str, bytes]:
    """Return the output's name and content."""
    whole = {name: spec.get("default") for name, spec in _INPUTS.items()} | dict(given)
    text = json.dumps([whole["prompt"], whole["negative_prompt"], seed, whole["steps"]])
    if whole["mp4"]:
        return "output.mp4", clips.mp4(whole["width"], whole["height"], FRAMES, FPS, text)
    return "output.gif", clips.gif(whole["width"], whole["height"], FRAMES, FPS, text)


def logs(given: Mapping[str, Any], seed: int, share: float) -> str:
    """Return what the model prints when so much of it is done."""
    steps = int(given.get("steps") or 30)
    step = int(steps * share)
    percent = 100 * step // steps
    bar = "█" * (percent // 10)
    return f"Using seed: {seed}\n{percent:3}%|{bar:<10}| {step}/{steps} [00:0{step % 10}<00:00]"


def _says(name: str, value: Any) -> tuple[str, str] | None:
    spec = _INPUTS.get(name)
    if spec is None or (value is None and name == "seed"):
        return None
    wanted = spec["type"]
    if not isinstance(value, _TYPES[wanted]) or (wanted == "integer" and isinstance(value, bool)):
        return "invalid_type", f"Invalid type. Expected: {wanted}, given: {_name(value)}"
    if "enum" in spec and value not in spec["enum"]:
        allowed = ", ".join(json.dumps(v) for v in spec["enum"])
        return "enum", f"{name} must be one of the following: {allowed}"
    if "minimum" in spec and value < spec["minimum"]:
        return "number_gte", f"Must be greater than or equal to {spec['minimum']}"
    if "maximum" in spec and value > spec["maximum"]:
        return "number_lte", f"Must be less than or equal to {spec['maximum']}"
    return None


def _name(value: Any) -> str:
    names = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
    return names.get(type(value).__name__, "null" if value is None else type(value).__name__)
