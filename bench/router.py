"""What choosing a backend costs: one decision among twelve candidates, with all facts at hand.

    python bench/router.py [--json] [--decisions N]

`decision_ms` is the median of many decisions, each with its record as JSON, as it is stored;
`choose_ms` is without the record. `ratio` is `decision_ms` over the least that could be done in the
same run: take the cheapest by `min()`, and dump such a record that is there already. Pure
computation: no file, no network. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

from pennyreel.money import catalog, estimates, pricing
from pennyreel.need import Abilities, Need, Span, Unit, Usage
from pennyreel.routing.facts import Facts, Fit, Left, Place, Rules
from pennyreel.routing.policy import decide

LIMIT_MS = 2.0
NEED = Need(
    template="animatediff-v3", width=512, height=512, seconds=2, frames=16, format="mp4", seed=True,
    vram_min_bytes=6_000_000_000, vram_good_bytes=8_000_000_000, profile="animatediff-v3",
)  # fmt: skip
COMFY = Abilities(
    kinds=frozenset({"video", "image"}), workflows=True, prompts=True, image_input=True, lora=True,
    negative_prompt=True, seed=True, cancels=True, looks_up=True, replays=True, private=True,
)  # fmt: skip
API = Abilities(
    kinds=frozenset({"video"}), prompts=True, seconds=Span(these=(4, 6, 8)), image_input=True,
    formats=frozenset({"mp4"}), seed=True, quality=3,
)  # fmt: skip


def main() -> int:
    """Measure; 0 if a decision is within its limit."""
    options = _options()
    facts = candidates()
    stored = [decide(facts, NEED, Rules(), now=0.0).to_json()]
    ours = _median_ms(lambda: _decide(facts), options.decisions)
    least = _median_ms(lambda: _least(facts, stored), options.decisions)
    bare = _median_ms(lambda: decide(facts, NEED, Rules(), now=0.0), options.decisions)
    figures = {
        "decision_ms": round(ours, 4),
        "choose_ms": round(bare, 4),
        "baseline_ms": round(least, 4),
        "ratio": round(ours / least, 2),
        "candidates": len(facts),
        "decisions": options.decisions,
    }
    if not options.json:
        print(f"a decision takes {ours:.3f} ms (limit {LIMIT_MS:g} ms), {ours / least:.1f} x the")
        print(f"{least:.3f} ms of min() and a dump; {len(facts)} candidates")
    report = {
        "bench": "router",
        **figures,
        "baseline": {"limits": {"decision_ms": LIMIT_MS}, "met": ours < LIMIT_MS},
        "machine": {"python": platform.python_version(), "system": platform.system()},
    }
    print(json.dumps(report))
    return 0 if ours < LIMIT_MS else 1


def candidates() -> list[Facts]:
    """Return a crowd with something of everything: this machine, pools, APIs, some of them out."""
    table = catalog.builtin()
    hint = estimates.Hint(20, "RTX 4090")
    found = [
        _facts("comfyui", "local", COMFY, Place.LOCAL, "NVIDIA GeForce RTX 3060", hint, table),
        _facts("simulated", "simulated", COMFY, Place.SIMULATED, "cpu", hint, table),
    ]
    pools = ("AMPERE_16", "AMPERE_24", "ADA_24", "AMPERE_48", "ADA_48_PRO")
    found += [_facts("runpod", f"runpod/{p}", COMFY, Place.RENTED, p, hint, table) for p in pools]
    hosted = (
        "vertex/veo-3.1-generate-001/720p", "vertex/veo-3.1-fast-generate-001/720p",
        "gemini/omni-1.2-flash/360p", "replicate/l40s", "huggingface/fal-ai/wan",
    )  # fmt: skip
    found += [_facts(s.partition("/")[0], s, API, Place.HOSTED, "", hint, table) for s in hosted]
    return found


def _facts(
    backend: str,
    sku: str,
    able: Abilities,
    place: Place,
    gpu: str,
    hint: estimates.Hint,
    table: catalog.Catalog,
) -> Facts:
    row = table.rows.get(sku) or table.rows["huggingface/*"]
    seconds = estimates.expected(gpu, hint=hint, speeds=table.speeds)
    amount = None if row.unit is Unit.GPU_SECOND else 4.0
    return Facts(
        backend=backend,
        target=sku,
        abilities=able,
        price=pricing.price(Usage(sku, row.unit, amount), table, seconds),
        place=place,
        available=backend != "huggingface",
        why="" if backend != "huggingface" else "no token is set",
        fix="Set HF_TOKEN",
        seconds=None if seconds is None else seconds.plus(0, 15, 60),
        fit=Fit.TIGHT if place is Place.LOCAL else Fit.GOOD,
        device=gpu,
        breaker_until=None if backend != "replicate" else 30.0,
        budgets=(Left("all", "day", 2_000_000),),
        success=0.99,
    )


def _decide(facts: list[Facts]) -> str:
    return json.dumps(decide(facts, NEED, Rules(), now=0.0).to_json())


def _least(facts: list[Facts], stored: list[object]) -> str:
    known = [f for f in facts if f.available and f.price.likely is not None]
    min(known, key=lambda f: f.price.likely or 0)
    return json.dumps(stored)


def _median_ms(once: Callable[[], object], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        once()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1000


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--json", action="store_true", help="the JSON line alone")
    parser.add_argument("--decisions", type=int, default=2000, help="how many are measured")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
