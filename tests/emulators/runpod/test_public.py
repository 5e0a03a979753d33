"""The package's door, and what it does not need."""

from __future__ import annotations

import subprocess
import sys

from pennyreel_emulators import runpod


def test_all_is_sorted_and_complete() -> None:
    assert sorted(runpod.__all__) == runpod.__all__
    assert all(hasattr(runpod, name) for name in runpod.__all__)


def test_the_emulator_imports_neither_ours_nor_runpods_code() -> None:
    script = """
import sys
import pennyreel_emulators.runpod
ours = [m for m in sys.modules if m.split(".")[0].startswith("pennyreel")]
assert all(m.startswith("pennyreel_emulators") for m in ours), ours
assert not {"runpod", "requests", "pydantic", "boto3"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
