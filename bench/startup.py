"""How long pennyreel takes to start: what importing it and asking for help add to bare Python.

    python bench/startup.py [--json] [--runs N]

Figures are seconds above `python -c pass`, medians, runs interleaved so that all share the
machine's moods. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time

CASES = {
    "bare": (["-c", "pass"], None),
    "import_pennyreel": (["-c", "import pennyreel"], 0.1),
    "import_and_client": (["-c", "import pennyreel; pennyreel.Client()"], 0.3),
    "help": (["-m", "pennyreel", "--help"], 0.5),
    "run_help": (["-m", "pennyreel", "run", "--help"], None),
    "version": (["-m", "pennyreel", "--version"], None),
    "templates": (["-m", "pennyreel", "templates"], None),
}


def seconds(arguments: list[str], env: dict[str, str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], env=env, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="only the JSON line")
    parser.add_argument("--runs", type=int, default=11)
    options = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in CASES}
    with tempfile.TemporaryDirectory() as home:
        env = {**os.environ, "PENNYREEL_HOME": home, "PENNYREEL_CONFIG": os.devnull}
        for turn in range(options.runs + 1):
            for name, (arguments, _) in CASES.items():
                spent = seconds(arguments, env)
                if turn:  # the first warms the disk's cache
                    taken[name].append(spent)
    middle = {name: statistics.median(values) for name, values in taken.items()}
    bare = middle.pop("bare")
    figures = {name: round(value - bare, 4) for name, value in middle.items()}
    limits = {name: limit for name, (_, limit) in CASES.items() if limit is not None}
    met = all(figures[name] < limit for name, limit in limits.items())
    if not options.json:
        print(f"{'seconds above bare Python':<28}{'median':>8}{'limit':>8}")
        for name, value in figures.items():
            limit = limits.get(name)
            print(f"{name:<28}{value:>8.3f}{'' if limit is None else f'{limit:>8.1f}'}")
        print(f"bare Python: {bare:.3f} s; {options.runs} runs each")
    print(
        json.dumps(
            {
                "bench": "startup",
                "figures": figures,
                "baseline": {"bare_python": round(bare, 4), "limits": limits, "met": met},
                "machine": {
                    "python": platform.python_version(),
                    "system": platform.platform(),
                    "cpus": os.cpu_count(),
                    "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
                },
            }
        )
    )
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
