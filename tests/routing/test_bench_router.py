"""`bench/router.py` runs, and a decision takes less than its limit by far."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_decision_among_twelve_takes_less_than_two_milliseconds() -> None:
    command = [sys.executable, str(ROOT / "bench" / "router.py"), "--json", "--decisions", "200"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["candidates"] == 12
    assert 0 < figures["decision_ms"] < 2
    assert figures["ratio"] > 1
