"""Backends by name: ours, and those of other packages' entry points `pennyreel.backends`.

A backend is a class with the members of `base.Backend`. It is imported when it is used.
"""

from __future__ import annotations

import difflib
import importlib
from contextlib import suppress
from importlib.metadata import entry_points
from typing import Any

from pennyreel.backends.base import Backend
from pennyreel.config import Settings
from pennyreel.errors import Code, error
from pennyreel.need import Abilities

BUILTIN = {
    "comfyui": "pennyreel.backends.comfyui:ComfyBackend",
    "dev": "pennyreel.backends.runpod:DevBackend",
    "gemini": "pennyreel.backends.gemini:GeminiBackend",
    "huggingface": "pennyreel.backends.huggingface:HuggingFaceBackend",
    "replicate": "pennyreel.backends.replicate:ReplicateBackend",
    "runpod": "pennyreel.backends.runpod:RunPodBackend",
    "simulated": "pennyreel.backends.simulated:SimulatedBackend",
    "veo": "pennyreel.backends.veo:VeoBackend",
    "veo-fast": "pennyreel.backends.veo:VeoFastBackend",
}
NAMED_ONLY = frozenset({"simulated"})
"""Nobody gets these without asking for them by name."""

GROUP = "pennyreel.backends"


def names() -> list[str]:
    """Every backend that may be chosen, sorted: those of `NAMED_ONLY` have to be forced."""
    return sorted(_known() - NAMED_ONLY)


def check(name: str) -> None:
    """Raise BadRequest where no backend has this name."""
    known = sorted(_known())
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        raise error(
            Code.BAD_REQUEST,
            f"there is no backend {name!r}",
            hint=f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}",
        )


def open_backend(name: str, settings: Settings, target: str | None = None) -> Backend:
    """Return the backend called `name`.

    Raises:
        BadRequest: there is none.
        SetupNeeded: it is not configured, or its package does not load.

    """
    found: type[Backend]
    if name in BUILTIN:
        module, _, cls = BUILTIN[name].partition(":")
        found = getattr(importlib.import_module(module), cls)
        return found.open(settings, target)
    check(name)
    point = next(iter(entry_points(group=GROUP, name=name)))
    try:
        found = point.load()
    except Exception as problem:
        raise error(
            Code.NOT_CONFIGURED,
            f"backend {name!r} of {point.value} does not load ({type(problem).__name__})",
            hint="Reinstall the package that brings it, or use another backend.",
        ) from problem
    return found.open(settings, target)


def could(name: str) -> Abilities | None:
    """Return what a backend can do once it is set up; None where its class does not tell."""
    found: Any = None
    if name in BUILTIN:
        module, _, cls = BUILTIN[name].partition(":")
        found = getattr(importlib.import_module(module), cls)
    else:
        with suppress(Exception):  # a package that does not load says so when it is opened
            found = next(iter(entry_points(group=GROUP, name=name))).load()
    told = getattr(found, "could", None)
    return told if isinstance(told, Abilities) else None


def _known() -> set[str]:
    return {*BUILTIN, *(point.name for point in entry_points(group=GROUP))}
