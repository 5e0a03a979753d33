"""Many short jobs to one worker, by the true SDK loop.

ComfyUI is a fake here: what is proven is the order of our posts. (With the SDK's own
progress_update, a quarter of such jobs ended with IN_PROGRESS as their last post.)
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from pennyreel_contract import new_attempt_id, parse_progress
from pennyreel_emulators.runpod import EndpointConfig, PlatformConfig, RunPodPlatform

FAKE = Path(__file__).parents[1] / "fakes" / "comfyui.py"
PASSED = ("PATH", "PYTHONPATH")  # the worker of this very tree, wherever it stands
JOBS = 150
CLIENTS = 16


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[RunPodPlatform]:
    endpoint = EndpointConfig(
        command=(sys.executable, "-m", "pennyreel_worker"),
        env={
            **{name: os.environ[name] for name in PASSED if name in os.environ},
            "PENNYREEL_COMFYUI_COMMAND": json.dumps([sys.executable, str(FAKE)]),
            "PENNYREEL_WORK_DIR": str(tmp_path),
        },
        inherit_environment=False,
        workers_min=1,
        workers_max=1,
    )
    with RunPodPlatform(PlatformConfig(endpoints={"many": endpoint})) as running:
        yield running


@pytest.mark.timeout(180)
def test_every_last_post_is_final_and_percentages_never_fall(platform: RunPodPlatform) -> None:
    base = f"{platform.base_url}/many"
    headers = {"Authorization": f"Bearer {platform.config.api_key}"}

    def one(n: int) -> str:
        # About as long as nothing is posted of a job: so the first post meets the result.
        sleep = {"class_type": "FakeSleep", "inputs": {"seconds": 0.1 + n % 10 / 100}}
        save = {"class_type": "SaveImage", "inputs": {"filename_prefix": "x"}}
        body = {"contract": 1, "attempt_id": new_attempt_id(), "workflow": {"1": sleep, "2": save}}
        reply = requests.post(f"{base}/runsync", json={"input": body}, headers=headers, timeout=120)
        with reply:
            answer = reply.json()
        assert answer["status"] == "COMPLETED", answer
        return str(answer["id"])

    with ThreadPoolExecutor(CLIENTS) as pool:
        jobs = list(pool.map(one, range(JOBS)))
    assert len(set(jobs)) == JOBS
    seen = 0
    for job in jobs:
        posts = platform.posts(job)
        assert posts[-1].status == "COMPLETED"
        assert [p.status for p in posts].count("COMPLETED") == 1
        percents = []
        for post in posts[:-1]:
            assert post.status == "IN_PROGRESS"
            progress = parse_progress(post.output)
            assert progress is not None
            percents.append(progress.percent)
        assert percents == sorted(percents)
        seen += len(percents)
    assert seen >= JOBS // 5, "progress was posted at all"
