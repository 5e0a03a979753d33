"""Hugging Face, emulated, and the backend that is opened against it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backends.huggingface.support import (
    TOKEN,
    Open,
)
from client.support import Scripted
from pennyreel.backends import _hf_follow
from pennyreel.backends.huggingface import HuggingFaceBackend
from pennyreel.config import Secret
from pennyreel_emulators.huggingface import HuggingFace


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hf_follow, "POLL_S", (0.005, 0.02))
    monkeypatch.setattr(_hf_follow, "CONFIRM_S", 1.0)


@pytest.fixture
def hub() -> Iterator[HuggingFace]:
    with HuggingFace() as running:
        yield running


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """`opened(hub, provider="fal-ai")`: the backend against an emulation or a scripted server."""
    with ExitStack() as stack:

        def make(server: HuggingFace | Scripted, **settings: Any) -> HuggingFaceBackend:
            one = HuggingFaceBackend(
                Secret(settings.pop("token", TOKEN)),
                settings.pop("home", tmp_path),
                endpoint=server.url,
                router_url=settings.pop("router_url", server.url),
                **settings,
            )
            stack.callback(one.close)
            return one

        yield make
