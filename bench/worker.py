"""What the worker costs: GPU time between jobs, handler's overhead, uploads, cold start.

    python bench/worker.py COMFY_DIR [--json] [--only idle overhead s3 cold] [--stock HANDLER]
    python bench/worker.py COMFY_DIR --handler HANDLER    another worker's idle time

Everything is compared with a plain equivalent in the same run, on this machine. bench/README.md
says how. COMFY_DIR is what `python -m pennyreel_comfy.install` made, or a ComfyUI folder (with
--python, ComfyUI's own). Nothing is sent beyond loopback. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worker_bench import cold, idle, overhead, uploads
from worker_bench.comfyui import Place

LIMITS: dict[str, float | bool] = {
    "idle_ms_long": 40,
    "idle_ms_short": 15,
    "held_max": 2,
    "behind_held_max": 2,
    "waited_behind_long": 0,
    "overhead_ms": 3,
    "peak_mb_over_idle": 48,
    "s3_time_ratio": 1.25,
    "ready_to_take_s": 0.1,
    "sdk_ready_before_comfy": True,
    "taken_before_ready": False,
}
"""Numbers: at most this. Booleans: exactly this."""

PARTS = ("idle", "behind", "overhead", "s3", "cold")


def main() -> int:
    """Measure what the command line asks for; 0 if all is within its limits."""
    options = _options()
    figures: dict[str, Any] = {}
    for name, part in _parts(options).items():
        print(f"measuring: {name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(prefix="pennyreel-bench-") as root:
            figures |= part(Place.make(Path(root), options.comfy_dir, options.python))
    within = {name: _within(name, figures[name]) for name in LIMITS if name in figures}
    if not options.json:
        _table(figures, within)
    report = {
        "bench": "worker",
        "handler": options.handler or "pennyreel_worker",
        "figures": figures,
        "baseline": {"limits": LIMITS, "met": all(within.values())},
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cpus": os.cpu_count(),
            "load": round(os.getloadavg()[0], 2),
        },
    }
    print(json.dumps(report))
    return 0 if all(within.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("comfy_dir", type=Path, help="an installed ComfyUI")
    parser.add_argument("--python", help="ComfyUI's Python, where COMFY_DIR is a bare folder")
    parser.add_argument("--json", action="store_true", help="print the JSON line alone")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--handler", help="idle time of another handler: a file or a module")
    parser.add_argument("--stock", help="overhead of another handler beside ours: a file")
    parser.add_argument(
        "--real-sampler", action="store_true", help="idle: a KSampler on the CPU, not a timed node"
    )
    parser.add_argument("--long-jobs", type=int, default=6)
    parser.add_argument("--short-jobs", type=int, default=25)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--tries", type=int, default=4, help="long jobs to wait behind")
    parser.add_argument("--pairs", type=int, default=80)
    parser.add_argument("--files", type=int, default=20)
    parser.add_argument("--file-mb", type=int, default=50)
    parser.add_argument("--uploads", type=int, default=5)
    parser.add_argument("--starts", type=int, default=5)
    return parser.parse_args()


def _parts(options: argparse.Namespace) -> dict[str, Callable[[Place], dict[str, Any]]]:
    sizes = idle.Sizes(options.long_jobs, options.short_jobs, options.repetitions, options.tries)
    parts: dict[str, Callable[[Place], dict[str, Any]]] = {
        "idle": lambda place: idle.measure(
            place, sizes, handler=options.handler, real=options.real_sampler
        ),
        "behind": lambda place: idle.behind(place, sizes),
        "overhead": lambda place: overhead.measure(place, options.pairs, stock=options.stock),
        "s3": lambda place: uploads.measure(
            place,
            files=options.files,
            file_mb=options.file_mb,
            repetitions=options.uploads,
        ),
        "cold": lambda place: cold.measure(place, options.starts),
    }
    wanted = ("idle",) if options.handler else options.only
    return {name: part for name, part in parts.items() if name in wanted}


def _within(name: str, value: float | bool) -> bool:
    limit = LIMITS[name]
    return value is limit if isinstance(limit, bool) else value <= limit


def _table(figures: dict[str, Any], within: dict[str, bool]) -> None:
    print(f"{'figure':<26}{'value':>12}{'limit':>9}")
    for name, value in figures.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        limit = str(LIMITS[name]) if name in LIMITS else ""
        print(f"{name:<26}{shown:>12}{limit:>9}{'' if within.get(name, True) else '  over'}")


if __name__ == "__main__":
    sys.exit(main())
