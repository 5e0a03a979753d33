"""A graph of which nobody knows how long it runs, on a backend that bills by the second."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from client.routing.conftest import Ran
from client.support import Worker, artifact
from pennyreel.money import catalog
from pennyreel.money.ledger import Ledger
from pennyreel_emulators.runpod import RunPodPlatform

GRAPH = {
    "1": {"class_type": "SomebodysOwn", "inputs": {"text": "x"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def test_the_flag_that_is_told_pays_for_it_and_bounds_it_by_the_servers_clock(
    cli: Callable[..., Ran],
    platform: RunPodPlatform,
    ledger: Ledger,
    worker: Worker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PENNYREEL_RUNPOD_GPU", "AMPERE_24")
    graph = tmp_path / "graph.json"
    graph.write_text(json.dumps(GRAPH))
    refused = cli("run", graph, "--backend", "runpod", "--json")
    assert refused.code != 0
    told = refused.json["error"]
    assert told["code"] == "consent_required"
    flag, _, amount = "--max-cost", *_flag(told)
    took: list[dict[str, object]] = []

    def serve() -> None:
        took.append(job := worker.take())
        worker.succeed(job, artifact("a.png", b"x"))

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    ran = cli("run", graph, "--backend", "runpod", flag, amount, "--json")
    server.join(30)
    assert ran.code == 0, ran.err
    row = catalog.load().row("runpod/AMPERE_24")
    assert row is not None
    assert row.microusd is not None
    seconds = took[0]["policy"]["executionTimeout"] / 1000  # type: ignore[index]
    billed = float(row.microusd) * (seconds + (row.startup_s or 0) + (row.idle_s or 0))
    assert seconds >= 60
    assert billed <= float(amount) * 1e6
    job = ledger.job(ran.json["job_id"])
    assert 0 < job.spent <= float(amount) * 1e6


def _flag(told: dict[str, str]) -> tuple[str, str]:
    words = told["hint"].split()
    at = words.index("--max-cost")
    return words[at], words[at + 1].rstrip(".,;")
