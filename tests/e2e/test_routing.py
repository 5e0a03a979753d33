"""The router on the real ComfyUI: a workflow goes there by itself, and survives its client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from e2e.pixels import decode
from pennyreel.config import load
from pennyreel.money.ledger import Ledger
from pennyreel_comfy.process import ComfyProcess

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]
RUN = ("run", "hello-video", "--param", "frames=64", "--json")


@pytest.fixture
def env(server: ComfyProcess, tmp_path: Path) -> dict[str, str]:
    """A user who has that ComfyUI and nothing else."""
    ours = ("PENNYREEL_", "RUNPOD_", "REPLICATE_", "GOOGLE_", "GEMINI_", "HF_", "AWS_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    return {
        **kept,
        "PENNYREEL_HOME": str(tmp_path / "home"),
        "PENNYREEL_CONFIG": os.devnull,
        "PENNYREEL_OUT": str(tmp_path / "out"),
        "PENNYREEL_COMFYUI_URL": server.url,
    }


def started(env: dict[str, str], *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pennyreel", *args]
    return subprocess.Popen(command, env=env, stdout=-1, stderr=-1, text=True)


def called(env: dict[str, str], *args: str) -> Any:
    with started(env, *args) as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out)


def prompts(server: ComfyProcess) -> set[str]:
    """The jobs that the server has run."""
    return set(requests.get(f"{server.url}/history", timeout=30).json())


def test_a_workflow_goes_to_the_comfyui_that_is_there_and_is_booked(env: dict[str, str]) -> None:
    quoted = called(env, "quote", "hello-video", "--json")
    assert quoted["chosen"].startswith("comfyui:")
    body = called(env, *RUN)
    assert body["cost_microusd"] == 0
    (job,) = called(env, "jobs", "list", "--json")["jobs"]
    assert (job["job_id"], job["state"]) == (body["job_id"], "done")
    with Ledger.open(load(env)) as ledger:
        assert ledger.learned("hello-video", "cpu"), "its seconds are known from now on"


def test_a_job_whose_client_was_killed_is_resumed_and_run_once(
    env: dict[str, str], server: ComfyProcess
) -> None:
    before = prompts(server)
    with Ledger.open(load(env)) as ledger, started(env, *RUN) as client:
        limit = time.monotonic() + 120
        while not [a for a in ledger.open_attempts() if a.state == "accepted"]:
            assert client.poll() is None, "it ended before it was killed"
            assert time.monotonic() < limit
            time.sleep(0.01)
        client.kill()
    body = called(env, "jobs", "resume", "--json")
    (artifact,) = body["artifacts"]
    assert len(decode(Path(artifact["path"])).frames) == 64
    assert len(prompts(server) - before) == 1, "it was run once"
    (job,) = called(env, "jobs", "list", "--json")["jobs"]
    assert (job["state"], len(job["attempts"])) == ("done", 1)
