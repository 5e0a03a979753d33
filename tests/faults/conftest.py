"""A site for each module of cases, shared by them as one worker is by its jobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.proof import Lame
from faults.site import BUCKET, Site

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def comfyui_root() -> Path:
    return Path(os.environ.get("PENNYREEL_TEST_COMFYUI", ROOT / "build" / "comfyui"))


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    """moto's S3 in a process of its own, with the bucket."""
    program = ROOT / "tests" / "worker" / "s3_server.py"
    with subprocess.Popen(
        [sys.executable, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        import requests

        with requests.Session() as http:
            http.trust_env = False
            http.put(f"{url}/{BUCKET}", timeout=10).raise_for_status()
        yield url
        server.terminate()


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, comfyui_root: Path, s3_url: str) -> Iterator[Site]:
    """The module's site, with the worker as it is."""
    plan: Any = request.module.cases.PLAN
    with Site(plan, root=comfyui_root, s3_url=s3_url) as made:
        yield made


@pytest.fixture(scope="module")
def lame(
    request: pytest.FixtureRequest,
    comfyui_root: Path,
    s3_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Lame]:
    """The module's site, with a worker whose handlings can be taken out."""
    plan: Any = request.module.cases.PLAN
    switch = tmp_path_factory.mktemp("switch") / "without"
    with Lame(
        lambda file: Site(plan, root=comfyui_root, s3_url=s3_url, switch=file), switch
    ) as made:
        yield made
