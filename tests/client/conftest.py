"""Every test of the client has a home of its own and knows no real key, file or server."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from client.commands import Cli, called
from client.support import KEY, Script, Scripted, Worker
from fakes.comfyui import FakeComfy
from fakes.ports import dead_port
from pennyreel.backends.runpod import RunPodBackend
from pennyreel.config import Secret
from pennyreel_emulators.runpod import EndpointConfig, Limits, PlatformConfig, RunPodPlatform

OURS = ("PENNYREEL_", "RUNPOD_", "AWS_", "GOOGLE_", "GEMINI_", "REPLICATE_", "HF_", "CIVITAI_")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PENNYREEL_HOME, empty; nothing of this machine's own settings is seen."""
    for name in list(os.environ):
        if name.startswith(OURS) or "proxy" in name.lower():
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("PENNYREEL_HOME", str(folder))
    monkeypatch.setenv("PENNYREEL_CONFIG", os.devnull)
    monkeypatch.setenv("PENNYREEL_OUT", str(tmp_path / "out"))
    monkeypatch.setenv("PENNYREEL_COMFYUI_URL", f"http://127.0.0.1:{dead_port()}")
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """`cli("run", graph)`: a command in this process."""
    return partial(called, capsys)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where outputs go."""
    return tmp_path / "out"


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeComfy]:
    """A scripted ComfyUI at the configured address."""
    with FakeComfy(output=tmp_path / "comfy-out", inputs=tmp_path / "comfy-in") as fake:
        monkeypatch.setenv("PENNYREEL_COMFYUI_URL", fake.url)
        yield fake


@pytest.fixture
def scripted() -> Iterator[Callable[[Script], Scripted]]:
    """`scripted(script)`: a server that answers so."""
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(Scripted(script))


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[RunPodPlatform]:
    """The emulated RunPod with one endpoint `ep` and no workers; the environment points at it."""
    config = PlatformConfig(
        endpoints={"ep": EndpointConfig()},
        api_key=KEY,
        poll_hold_s=10.0,
        limits=Limits(run_bytes=200_000),
    )
    with RunPodPlatform(config) as running:
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "ep")
        monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", running.base_url)
        yield running


@pytest.fixture
def worker(platform: RunPodPlatform) -> Iterator[Worker]:
    """One worker of that endpoint."""
    with Worker(platform, "ep") as one:
        yield one


@pytest.fixture
def runpod() -> Iterator[Callable[..., RunPodBackend]]:
    """`runpod(server, **settings)`: the backend against a scripted server, never pausing."""
    opened: list[RunPodBackend] = []

    def make(server: Scripted, **settings: Any) -> RunPodBackend:
        pauses: list[float] = []
        options: dict[str, Any] = {"pause": pauses.append, **settings}
        backend = RunPodBackend("ep", Secret(KEY), base_url=f"{server.url}/v2", **options)
        backend.pauses = pauses  # type: ignore[attr-defined]
        opened.append(backend)
        return backend

    yield make
    for backend in opened:
        backend.close()
