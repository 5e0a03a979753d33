"""Platforms for the tests: small ones without workers, and one shared with RunPod's own SDK."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

from emulators.runpod.support import (
    STREAMING,
    VERSATILE,
    Bench,
    Client,
    ManualClock,
    SdkClient,
    bench_config,
)
from pennyreel_emulators.runpod import EndpointConfig, PlatformConfig, RunPodPlatform


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """`make_bench(platform={…}, **endpoint settings)`: a platform whose clock stands still."""
    with ExitStack() as stack:

        def make(platform: dict[str, Any] | None = None, **endpoint: Any) -> Bench:
            clock = ManualClock()
            config = bench_config(EndpointConfig(**endpoint), **(platform or {}))
            bench = Bench(stack.enter_context(RunPodPlatform(config, clock=clock)), clock)
            stack.callback(bench.session.close)
            return bench

        yield make


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    """A platform with default limits, no fleet, and a clock that stands still."""
    return make_bench()


@pytest.fixture(scope="session")
def sdk_platform() -> Iterator[RunPodPlatform]:
    """One platform whose workers run RunPod's own loop; importing the SDK takes them 2 s."""
    config = PlatformConfig(
        endpoints={
            "work": EndpointConfig(
                command=VERSATILE,
                # The SDK sleeps a second whenever it is full: fewer slots make slow tests.
                env={"SLOTS": "25"},
                workers_max=1,
                idle_timeout_s=600,
                ping_interval_ms=1000,
            ),
            "stream": EndpointConfig(command=STREAMING, workers_max=1, idle_timeout_s=600),
        },
        poll_hold_s=5.0,
    )
    with RunPodPlatform(config) as platform:
        yield platform


@pytest.fixture(scope="session")
def session() -> Iterator[requests.Session]:
    """Connections shared by the tests' clients."""
    with requests.Session() as shared:
        yield shared


@pytest.fixture
def work(sdk_platform: RunPodPlatform, session: requests.Session) -> Client:
    """A client of the shared endpoint whose worker does what its input says, many at a time."""
    return Client(sdk_platform, "work", session)


@pytest.fixture
def stream(sdk_platform: RunPodPlatform, session: requests.Session) -> Client:
    """A client of the shared endpoint whose handler is a generator."""
    return Client(sdk_platform, "stream", session)


@pytest.fixture(scope="session")
def sdk(sdk_platform: RunPodPlatform) -> Iterator[SdkClient]:
    """RunPod's own client, unchanged."""
    client = SdkClient(sdk_platform.base_url, sdk_platform.config.api_key)
    yield client
    client.close()
