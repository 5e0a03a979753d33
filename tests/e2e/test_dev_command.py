"""`pennyreel dev` and `run` as a user has them: processes, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from e2e.pixels import decode
from fakes.waits import eventually
from pennyreel_comfy.install import Installation

pytestmark = [pytest.mark.real, pytest.mark.timeout(240)]


class Dev:
    """A running `pennyreel dev`."""

    def __init__(self, root: Path, home: Path) -> None:
        self.home = home
        self.env = {
            "PATH": os.environ["PATH"],
            "PENNYREEL_HOME": str(home),
            "PENNYREEL_CONFIG": os.devnull,
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),  # one that is killed leaves its files
        }
        (home / "tmp").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pennyreel", "dev", "--json", "--comfyui", str(root)],
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready: dict[str, Any] = json.loads(self.process.stdout.readline())

    def family(self) -> list[psutil.Process]:
        """Every process that it started, and it."""
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pennyreel", "run", "--backend", "dev", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )


@pytest.fixture
def dev(comfyui: Installation, tmp_path: Path) -> Iterator[Dev]:
    started = Dev(comfyui.layout.root, tmp_path)
    yield started
    if started.process.poll() is None:
        started.process.send_signal(signal.SIGINT)
    started.process.communicate(timeout=60)


def gone(processes: list[psutil.Process]) -> bool:
    return all(not p.is_running() or p.status() == psutil.STATUS_ZOMBIE for p in processes)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_process_is_left_whatever_ends_it(dev: Dev, end: signal.Signals) -> None:
    out = dev.home / "out"
    made = dev.run("hello-video", "--param", "frames=4", "-o", str(out), "--json")
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    assert {"job_id", "backend", "artifacts", "timings", "attempts"} <= set(result)
    assert len(decode(Path(result["artifacts"][0]["path"])).frames) == 4
    family = dev.family()
    assert any("main.py" in " ".join(p.cmdline()) for p in family), "a ComfyUI is running"
    dev.process.send_signal(end)
    dev.process.communicate(timeout=60)
    eventually(lambda: gone(family), 30)
    if end is not signal.SIGKILL:
        assert not (dev.home / "dev.json").exists()
        assert dev.process.returncode == 0


def test_a_second_stack_is_refused_and_a_stale_one_is_replaced(
    dev: Dev, comfyui: Installation
) -> None:
    again = subprocess.run(
        [sys.executable, "-m", "pennyreel", "dev", "--comfyui", str(comfyui.layout.root)],
        env=dev.env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert again.returncode == 4
    assert "a dev stack runs already" in again.stderr
    family = dev.family()
    dev.process.kill()
    dev.process.communicate(timeout=60)
    eventually(lambda: gone(family), 30)
    second = Dev(comfyui.layout.root, dev.home)
    second.process.send_signal(signal.SIGINT)
    second.process.communicate(timeout=60)
    assert second.process.returncode == 0


def test_events_come_as_json_lines_and_the_result_is_the_last(dev: Dev) -> None:
    made = dev.run("hello-video", "--param", "frames=8", "-o", str(dev.home), "--json-lines")
    assert made.returncode == 0, made.stderr
    lines = [json.loads(line) for line in made.stdout.splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[:2] == ["chosen", "submitted"]
    assert kinds[-1] == "result"
    assert "progressed" in kinds
    percents = [line["percent"] for line in lines if line["event"] == "progressed"]
    assert percents == sorted(percents)


def test_ctrl_c_cancels_the_job_on_the_way_out(dev: Dev, tmp_path: Path) -> None:
    from e2e.test_stop import chained

    workflow = tmp_path / "long.json"
    workflow.write_text(json.dumps(chained(400, 1400)))
    running = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pennyreel",
            "run",
            str(workflow),
            "--backend",
            "dev",
            "--json-lines",
        ],
        env=dev.env,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    for line in running.stdout:
        if '"executing"' in line:
            break
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "the job was stopped" in said
