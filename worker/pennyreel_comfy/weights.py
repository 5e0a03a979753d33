"""Where a graph's time goes, as far as the graph itself tells. Pure.

The unit is one step of a sampler: those dwarf the nodes around them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeGuard

_WEIGHTS = (("VAEDecode", 4.0), ("Video", 4.0), ("Loader", 3.0))
_STEPS = 20.0
"""Of a sampler that does not say how many it makes."""

_MOST_STEPS = 10_000
_MADE_OF = ("image", "latent", "samples")


def weights(graph: Mapping[str, Any], runs: Collection[str] | None = None) -> dict[str, float]:
    """Return the weight of each node; `runs`: those that an output needs, where that is known."""
    return {key: _weight(graph, key) for key in graph if runs is None or key in runs}


def _weight(graph: Mapping[str, Any], key: str) -> float:
    class_type, inputs = str(graph[key].get("class_type", "")), graph[key].get("inputs")
    if isinstance(inputs, Mapping) and _samples(class_type, inputs):
        return _steps(graph, inputs)
    return next((w for part, w in _WEIGHTS if part in class_type), 1.0)


def _samples(class_type: str, inputs: Mapping[str, Any]) -> bool:
    """Tell what samples from what only chooses how, such as KSamplerSelect and BasicScheduler.

    Upscalers and detailers sample, too, whatever they are called.
    """
    if "Sampler" in class_type:
        return any(n in {"steps", "sigmas"} or n.startswith("latent") for n in inputs)
    return "steps" in inputs and any(n.startswith(_MADE_OF) for n in inputs)


def _steps(graph: Mapping[str, Any], inputs: Mapping[str, Any]) -> float:
    """Return how many steps a sampler makes, by its own inputs or its scheduler's."""
    told, sigmas = inputs.get("steps"), inputs.get("sigmas")
    if told is None and isinstance(sigmas, list) and sigmas and isinstance(sigmas[0], str):
        scheduler = graph.get(sigmas[0], {}).get("inputs")
        told = scheduler.get("steps") if isinstance(scheduler, Mapping) else None
    if not _whole(told):
        return _STEPS
    # KSamplerAdvanced makes a part of them.
    first, last = inputs.get("start_at_step"), inputs.get("end_at_step")
    end = min(told, last) if _whole(last) else told
    return float(min(max(1, end - (first if _whole(first) else 0)), _MOST_STEPS))


def _whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
