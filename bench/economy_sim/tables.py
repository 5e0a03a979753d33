"""The backends of the simulation: what they can do, and two tables of prices for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pennyreel.money import catalog
from pennyreel.money.catalog import Catalog
from pennyreel.money.estimates import Seconds
from pennyreel.need import Abilities, Span, Unit, Usage
from pennyreel.routing.facts import Place

_VIDEO = frozenset({"video"})
_COMFY: dict[str, Any] = {
    "workflows": True,
    "image_input": True,
    "lora": True,
    "negative_prompt": True,
    "seed": True,
    "cancels": True,
    "looks_up": True,
    "private": True,
}


@dataclass(frozen=True)
class Kind:
    """A backend of the simulation. `seconds` are low, likely, high of one clip's run there."""

    name: str
    place: Place
    abilities: Abilities
    usage: Usage
    seconds: tuple[float, float, float]
    per_minute: int = 600
    """Submits that it takes in a minute; beyond it answers 429."""
    workers: int = 0
    """The most that run at once; 0 = no limit worth naming."""
    cold_s: tuple[float, float] = (0.0, 0.0)
    idle_s: float = 0.0
    bills_failures: bool = False
    engine: str = ""

    @property
    def expected(self) -> Seconds:
        """Its run, as the policy is told of it."""
        return Seconds(*self.seconds)


LOCAL = Kind(
    "comfyui",
    Place.LOCAL,
    Abilities(_VIDEO, **_COMFY, quality=2),
    Usage("local", Unit.GPU_SECOND, None),
    (20.0, 30.0, 45.0),
    workers=1,
    engine="comfyui",
)
RUNPOD = Kind(
    "runpod",
    Place.RENTED,
    Abilities(_VIDEO, **_COMFY, replays=True, quality=2),
    Usage("runpod/AMPERE_24", Unit.GPU_SECOND, None, startup_s=60.0, idle_s=5.0),
    (18.0, 25.0, 40.0),
    workers=10,
    cold_s=(15.0, 60.0),
    idle_s=5.0,
    bills_failures=True,
    engine="comfyui",
)
HOTSHOT = Kind(
    "replicate",
    Place.HOSTED,
    Abilities(_VIDEO, prompts=True, seconds=Span(most=1.0), frames=Span(most=8), cancels=True),
    Usage("sim/hotshot-xl", Unit.RUN, 1),
    (20.0, 35.0, 60.0),
)
VEO = Kind(
    "gemini",
    Place.HOSTED,
    Abilities(_VIDEO, prompts=True, image_input=True, seconds=Span(these=(4, 6, 8)), quality=3),
    Usage("sim/veo", Unit.RUN, 1),
    (40.0, 70.0, 120.0),
    per_minute=50,
)
HUGGINGFACE = Kind(
    "huggingface",
    Place.HOSTED,
    Abilities(_VIDEO, prompts=True, seconds=Span(most=5.0)),
    Usage("sim/huggingface", Unit.RUN, 1),
    (30.0, 60.0, 120.0),
    per_minute=60,
)
KINDS = (LOCAL, RUNPOD, HOTSHOT, VEO, HUGGINGFACE)
FIXED = ("gemini", "replicate", "comfyui", "huggingface")
"""The roadmap's order."""


def _row(usd: float, source: str) -> dict[str, Any]:
    return {"usd": usd, "unit": "run", "certainty": "estimated", "source": source}


_HF = _row(0.05, "assumed: the providers' prices differ, and neither table names one")
TABLES: dict[str, dict[str, Any]] = {
    "roadmap": {
        "sim/hotshot-xl": _row(0.018, "the roadmap"),
        "sim/veo": _row(0.50, "the roadmap"),
        "sim/huggingface": _HF,
    },
    "today": {
        "sim/hotshot-xl": _row(0.034, "Replicate's L40S second x 35 s; UNVERIFIED"),
        "sim/veo": _row(0.40, "4 s of Veo 3.1 fast at $0.10"),
        "sim/huggingface": _HF,
    },
}
"""RunPod's 3090 pool and the local GPU are the catalogue's own rows in both."""


def prices(table: str) -> Catalog:
    """Return the shipped catalogue with a table's rows."""
    return catalog.builtin().merged(TABLES[table], f"the table {table!r}")
