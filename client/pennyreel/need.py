"""What a job requires, what a backend can do, and what it bills by: the facts to choose by.

Plain data and pure functions. Nothing here holds a prompt, a file or a key, so that all of it may
be stored with the decision that was made by it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class Need:
    """What a job requires of who runs it. None = no wish."""

    kind: str = "video"
    """What is to come out: video, image, audio, …"""
    workflow: bool = False
    """It is a ComfyUI graph; else a prompt, which a ComfyUI runs by `template`."""
    template: str | None = None
    """The graph that a ComfyUI runs for it, by name."""
    no_template: str = ""
    """Why no template can do it, where it is a prompt without one."""
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    """Of the video, at least."""
    frames: int | None = None
    """Of the video, at least."""
    fps: float | None = None
    format: str | None = None
    """The file's ending: mp4, gif, webm, png, …"""
    audio: bool = False
    """With sound."""
    image_input: bool = False
    lora: bool = False
    negative_prompt: bool = False
    seed: bool = False
    """The same seed has to give the same output."""
    steps: int | None = None
    models: tuple[tuple[str, str], ...] = ()
    """(folder, name) of the model files that the graph names; folder "" = not known."""
    node_packs: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    """The graph's node classes, sorted, each once."""
    vram_min_bytes: int | None = None
    """Below it the graph cannot run, or only by swapping."""
    vram_good_bytes: int | None = None
    profile: str = ""
    """By what its GPU seconds are learned: the template's name, or the graph's own kind."""
    size: float = 1.0
    """Its work as a multiple of the profile's usual: pixels x frames x steps."""


@dataclass(frozen=True)
class Lacks:
    """What a place is known to lack of what a job requires. Empty: nothing."""

    classes: tuple[str, ...] = ()
    """Node classes."""
    models: tuple[tuple[str, str], ...] = ()
    """(folder, name) of model files."""
    unsure: tuple[tuple[str, str], ...] = ()
    """The same, of which it cannot be told: what would load them is not there, or unknown."""

    def __bool__(self) -> bool:
        """Whether anything is known to be missing."""
        return bool(self.classes or self.models)


@dataclass(frozen=True)
class Span:
    """Numbers that are allowed: from `least` to `most`, or only `these`."""

    least: float | None = None
    most: float | None = None
    these: tuple[float, ...] = ()

    def at_least(self, wanted: float) -> float | None:
        """Return the least allowed number that is not below `wanted`, or None."""
        if self.these:
            return min((n for n in self.these if n >= wanted), default=None)
        if self.most is not None and wanted > self.most:
            return None
        return wanted if self.least is None else max(self.least, wanted)


ANY = Span()


@dataclass(frozen=True)
class Abilities:
    """What a backend can do."""

    kinds: frozenset[str]
    workflows: bool = False
    """It runs ComfyUI graphs."""
    prompts: bool = False
    """It takes a prompt without a graph."""
    sizes: tuple[tuple[int, int], ...] = ()
    """(width, height) that it makes; () = any."""
    seconds: Span = ANY
    frames: Span = ANY
    formats: frozenset[str] = frozenset()
    """Files' endings that it makes; empty = any."""
    audio: bool = False
    image_input: bool = False
    lora: bool = False
    negative_prompt: bool = False
    seed: bool = False
    ends_late: bool = False
    """It ends by itself what runs longer than the work's `timeout_s`: so long is billed at most."""
    cancels: bool = False
    """A cancel is confirmed, and ends the bill."""
    looks_up: bool = False
    """An attempt whose outcome is unknown can be found by its id."""
    replays: bool = False
    """The same attempt sent again gives its stored result, and is not billed again."""
    private: bool = False
    """Nothing leaves the user's own machines and accounts."""
    quality: int = 1
    """For the policy `best`: 0 a test pattern, 1 draft, 2 good, 3 the best there is."""


def misfits(need: Need, able: Abilities) -> Iterator[str]:
    """Yield, for a person, each reason why a backend cannot do a job."""
    if need.kind not in able.kinds:
        yield f"makes no {need.kind}"
    if need.workflow and not able.workflows:
        yield "runs no ComfyUI workflows"
    if not need.workflow and not able.prompts and not (able.workflows and need.template):
        yield need.no_template or "takes no bare prompt"
    if need.width and need.height and able.sizes and (need.width, need.height) not in able.sizes:
        yield f"makes no {need.width}x{need.height}"
    for name, wanted, span in (
        ("s", need.seconds, able.seconds),
        (" frames", need.frames, able.frames),
    ):
        if wanted is not None and span.at_least(wanted) is None:
            most = max(span.these) if span.these else span.most
            yield f"makes at most {most:g}{name}, not {wanted:g}"
    if need.format and able.formats and need.format not in able.formats:
        yield f"makes no .{need.format}"
    for wanted, has, what in (
        (need.audio, able.audio, "makes no sound"),
        (need.image_input, able.image_input, "takes no image"),
        (need.lora, able.lora, "takes no LoRA"),
        (need.negative_prompt, able.negative_prompt, "takes no negative prompt"),
        (need.seed, able.seed, "takes no seed"),
    ):
        if wanted and not has:
            yield what


class Unit(str, Enum):
    """What a price is of."""

    GPU_SECOND = "gpu_second"
    RUN = "run"
    OUTPUT_SECOND = "output_second"
    IMAGE = "image"


@dataclass(frozen=True)
class Usage:
    """What a job will be, or was, billed for. `money.pricing` turns it into micro-dollars."""

    sku: str
    """The row of the price catalogue: runpod/AMPERE_24, vertex/veo-3.1-fast/720p, local, …"""
    unit: Unit
    amount: float | None
    """So many units; None = not known before it has run (GPU seconds)."""
    startup_s: float = 0.0
    """Seconds of a cold start that are billed besides, at most."""
    idle_s: float = 0.0
    """Seconds of idling afterwards that are billed besides, at most."""
