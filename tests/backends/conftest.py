"""Every backend's test has a home of its own and knows no real key, file or server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest.register_assert_rewrite("backends.contract", "backends.suite")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """PENNYREEL_HOME, empty; nothing of this machine's own settings is seen."""
    for name in list(os.environ):
        ours = name.startswith(("PENNYREEL_", "RUNPOD_", "REPLICATE_", "GOOGLE_", "GEMINI_", "HF_"))
        if ours or name.startswith("AWS_") or "proxy" in name.lower():
            monkeypatch.delenv(name)
    folder = tmp_path / "home"
    monkeypatch.setenv("PENNYREEL_HOME", str(folder))
    monkeypatch.setenv("PENNYREEL_CONFIG", os.devnull)
    monkeypatch.chdir(tmp_path)
    return folder
