"""Who serves a model on Hugging Face: the Hub's mapping, kept for an hour, and the choice from it.

The mapping's order is the user's own where they have set one (huggingface.co, settings,
inference-providers): the first that fits is taken, as huggingface_hub's `provider="auto"` does.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pennyreel.errors import Code, PennyreelError, error

KEPT_S = 3600.0
"""So long a mapping is believed, in all processes: what was quoted is what is then used."""

TASKS = {"video": "text-to-video", "image": "text-to-image"}
AUTO = "auto"
_A = {"video": "a video", "image": "an image"}


@dataclass(frozen=True)
class Offer:
    """One provider's entry for a model."""

    model: str
    provider: str
    provider_id: str
    """The model's name at the provider."""
    task: str
    status: str
    adapter: str | None = None
    """A LoRA's file in the model's own repository, which the provider is told to load."""


def read(model: str, body: object) -> tuple[Offer, ...]:
    """Read the Hub's answer; entries that are not understood are left out."""
    mapping = body.get("inferenceProviderMapping") if isinstance(body, dict) else None
    entries: Iterable[tuple[Any, Any]] = ()
    if isinstance(mapping, dict):
        entries = mapping.items()
    elif isinstance(mapping, list):  # the other form that huggingface_hub reads
        entries = [(e.get("provider"), e) for e in mapping if isinstance(e, dict)]
    found = []
    for provider, entry in entries:
        if isinstance(entry, dict) and isinstance(entry.get("providerId"), str):
            adapter = entry.get("adapterWeightsPath")
            found.append(
                Offer(
                    model,
                    str(provider),
                    entry["providerId"],
                    str(entry.get("task")),
                    str(entry.get("status")),
                    adapter if isinstance(adapter, str) else None,
                )
            )
    return tuple(found)


def choose(
    offers: Iterable[Offer],
    kind: str,
    order: tuple[str, ...],
    usable: Callable[[str, str], bool],
) -> Offer | None:
    """Return the offer to use: the user's order, else the mapping's; only live ones.

    Args:
        offers: of one model.
        kind: video or image.
        order: providers' names, or () for auto.
        usable: whether a provider may be chosen for a kind without being named.

    """
    fit = [o for o in offers if o.task == TASKS[kind] and o.status == "live"]
    if not order:
        return next((o for o in fit if usable(o.provider, kind)), None)
    return next((o for name in order for o in fit if o.provider == name), None)


def nobody(
    model: str, kind: str, offers: Iterable[Offer], order: tuple[str, ...]
) -> PennyreelError:
    """Return the error that says why nobody is chosen."""
    known = [f"{o.provider} ({o.task}, {o.status})" for o in offers]
    wanted = f" of {', '.join(order)}" if order else ""
    name = "PENNYREEL_HF_VIDEO_MODEL" if kind == "video" else "PENNYREEL_HF_IMAGE_MODEL"
    return error(
        Code.NOT_CONFIGURED,
        f"no provider{wanted} makes {_A[kind]} with {model} for us now; Hugging Face knows of: "
        f"{', '.join(known) or 'none'}",
        hint=f"Choose another model ({name}) from huggingface.co/models?"
        f"inference_provider=all&pipeline_tag={TASKS[kind]}, or another PENNYREEL_HF_PROVIDER.",
    )


class Kept:
    """Mappings by model, in memory and in a file that all processes share."""

    def __init__(self, file: Path, clock: Callable[[], float] = time.time) -> None:
        """Keep the place; nothing is read yet."""
        self._file = file
        self._clock = clock
        self._memory: dict[str, tuple[float, tuple[Offer, ...]]] = {}

    def get(self, model: str) -> tuple[Offer, ...] | None:
        """Return a mapping that is not too old, or None."""
        at, offers = self._memory.get(model) or self._stored(model)
        fresh = 0 <= self._clock() - at < KEPT_S
        return offers if fresh else None

    def put(self, model: str, offers: tuple[Offer, ...]) -> None:
        """Keep a mapping. A full disk only means that it is asked for again."""
        self._memory[model] = (self._clock(), offers)
        stored = self._all()
        stored[model] = {"at": self._clock(), "offers": [asdict(o) for o in offers]}
        with suppress(OSError):
            write_private(self._file, json.dumps(stored))

    def forget(self, model: str) -> None:
        """It was wrong: a provider does not know the model."""
        self._memory[model] = (0.0, ())

    def _stored(self, model: str) -> tuple[float, tuple[Offer, ...]]:
        entry: Any = self._all().get(model)
        try:
            found = (float(entry["at"]), tuple(Offer(**o) for o in entry["offers"]))
        except (TypeError, KeyError, ValueError):
            return 0.0, ()
        self._memory[model] = found
        return found

    def _all(self) -> dict[str, Any]:
        try:
            stored = json.loads(self._file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return dict(stored) if isinstance(stored, Mapping) else {}


def write_private(file: Path, text: str) -> None:
    """Write a file that only its user reads, whole or not at all; raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            out.write(text)
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
