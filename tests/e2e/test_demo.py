"""README's first command on a clean checkout, as a bare machine would run it."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from e2e.pixels import decode

ROOT = Path(__file__).parents[2]


def make_demo(checkout: Path, home: Path) -> str:
    env = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PENNYREEL", "VIRTUAL_ENV", "RUNPOD", "BUCKET", "COV_"))
    }
    done = subprocess.run(
        ["make", "demo"],
        cwd=checkout,
        env={**env, "PENNYREEL_HOME": str(home), "PENNYREEL_OUT": str(home / "out")},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_make_demo_ends_with_a_video_on_a_clean_checkout_and_again(tmp_path: Path) -> None:
    checkout = tmp_path / "pennyreel"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(checkout)], check=True)
    for turn in range(2):
        said = make_demo(checkout, tmp_path / "home")
        (path,) = re.findall(r"^(/.*\.mp4)$", said, re.MULTILINE)
        seen = decode(Path(path))
        assert seen.codec == "h264"
        assert len(seen.frames) >= 24
        assert all(a != b for a, b in zip(seen.frames, seen.frames[1:], strict=False))
        assert "test pattern" in said
        assert "pennyreel run" in said
        assert "worker: ComfyUI renders" in said, turn
