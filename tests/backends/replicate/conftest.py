"""Replicate, emulated, and the backend against it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from backends.replicate.support import TOKEN
from pennyreel.backends import _replicate_follow as follow_module
from pennyreel.backends.replicate import ReplicateBackend
from pennyreel.config import Secret
from pennyreel_emulators.replicate import (
    Config,
    ReplicatePlatform,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow_module, "POLL_S", (0.005, 0.02))


@pytest.fixture
def platform() -> Iterator[ReplicatePlatform]:
    with ReplicatePlatform(Config(token=TOKEN)) as running:
        yield running


@pytest.fixture
def one(platform: ReplicatePlatform) -> Iterator[ReplicateBackend]:
    backend = ReplicateBackend(
        Secret(TOKEN), base_url=platform.base_url, pause=lambda _: None, confirm_s=2.0
    )
    yield backend
    backend.close()


class _Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def one_slow() -> Iterator[tuple[ReplicatePlatform, ReplicateBackend, Callable[[], float]]]:
    """A platform whose clock stands still until it is moved."""
    clock = _Clock()
    with ReplicatePlatform(Config(token=TOKEN), clock=clock) as platform:
        backend = ReplicateBackend(Secret(TOKEN), base_url=platform.base_url, confirm_s=2.0)
        yield platform, backend, clock
        backend.close()
