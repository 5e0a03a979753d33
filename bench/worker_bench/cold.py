"""Figure 4: from ComfyUI's first answer to the first job-take, over several cold starts."""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from pennyreel_emulators.runpod import JobTaken, WorkerReady, WorkerStarted, WorkerStopped
from worker_bench import graphs
from worker_bench.comfyui import Place, until
from worker_bench.fleet import Fleet

MARKED = Path(__file__).with_name("marked.py")
IDLE_S = 0.2


def measure(place: Place, starts: int) -> dict[str, Any]:
    """Start a worker anew for each job. The job waits before the worker exists."""
    marks = place.root / "sdk.jsonl"
    env = {**place.worker_environment(), "BENCH_SDK_MARKS": str(marks)}
    command = (sys.executable, str(MARKED), "-m", "pennyreel_worker")
    fleet = Fleet(env, command=command, at_once=False, idle_s=IDLE_S)
    with fleet.running():
        rows = [_start(fleet, place, marks, turn) for turn in range(starts)]
    waits = [row["take"] - row["up"] for row in rows]
    return {
        "ready_to_take_s": round(statistics.median(waits), 4),
        "ready_to_take_max_s": round(max(waits), 4),
        "listening_to_take_s": round(
            statistics.median(row["take"] - row["listening"] for row in rows), 4
        ),
        "ready_to_take_all": [round(wait, 4) for wait in waits],
        "sdk_ready_before_comfy": all(row["sdk"] < row["up"] for row in rows),
        "sdk_to_comfy_s": round(min(row["up"] - row["sdk"] for row in rows), 3),
        "taken_before_ready": any(row["taken"] < row["up"] for row in rows),
        "cold_start_s": round(statistics.median(row["take"] - row["started"] for row in rows), 2),
    }


def _start(fleet: Fleet, place: Place, marks: Path, turn: int) -> dict[str, float]:
    job = fleet.submit(graphs.work(0.1))
    fleet.wait([job])
    until(lambda: len(fleet.of(WorkerStopped)) > turn, "the worker's end", 60)
    started: WorkerStarted = fleet.of(WorkerStarted)[turn]
    sdk = [json.loads(line) for line in marks.read_text("utf-8").splitlines()]
    marked = sorted((mark["at"], mark["what"]) for mark in place.marks() if "at" in mark)

    def first(what: str) -> float:
        return next(at for at, name in marked if name == what and at > started.at)

    return {
        "started": started.at,
        "sdk": next(mark["at"] for mark in sdk if mark["pid"] == started.pid),
        "listening": first("listening"),
        "up": first("up"),
        "take": fleet.of(WorkerReady)[turn].at,
        "taken": fleet.of(JobTaken)[turn].at,
    }
