"""Children end with us; their output is told and kept; the picture check sees what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from pennyreel_comfy.install.children import Child, run
from pennyreel_comfy.install.pip import Progress
from pennyreel_comfy.install.verify import Outcome, read_import_probe, render_once
from pennyreel_contract.errors import SetupNeeded

pytestmark = pytest.mark.skipif(os.name == "nt", reason="looks at POSIX processes")

FAKE = Path(__file__).with_name("fake_comfyui.py")
ENV = {"PATH": os.environ["PATH"]}

# Starts a grandchild, tells both process ids, and waits.
PARENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
print(os.getpid(), child.pid, flush=True)
time.sleep(1000)
"""

# An installer in small: has such a child under guard, and tells what the child tells.
INSTALLER = """
import sys
from pathlib import Path
from pennyreel_comfy.install.children import run
tell = lambda line: print(line, flush=True)
try:
    run([sys.executable, "-c", sys.argv[1]], env={}, cwd=Path("."), log=Path(sys.argv[2]),
        on_line=tell, timeout=1000)
except KeyboardInterrupt:
    sys.exit(130)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone_soon(*pids: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if not any(alive(pid) for pid in pids):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_however_the_installer_ends_its_children_end(tmp_path: Path, how: signal.Signals):
    argv = [sys.executable, "-c", INSTALLER, PARENT, str(tmp_path / "log")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as installer:
        assert installer.stdout
        pids = [int(pid) for pid in installer.stdout.readline().split()]
        assert all(alive(pid) for pid in pids)
        installer.send_signal(how)
    assert gone_soon(*pids)
    assert installer.returncode == (130 if how == signal.SIGINT else -how)


def test_closing_a_child_ends_its_children(tmp_path: Path):
    argv = [sys.executable, "-c", PARENT]
    with closing(Child(argv, env=ENV, cwd=tmp_path, log=tmp_path / "log")) as child:
        line = child.line(30)
        assert line
        pids = [int(pid) for pid in line.split()]
    assert gone_soon(*pids)
    child.close()


def test_output_comes_line_by_line_and_into_the_log_without_credentials(tmp_path: Path):
    lines: list[str] = []
    code = "import sys; print('Looking in https://me:s3cret@host/simple'); sys.exit(7)"
    outcome = run(
        [sys.executable, "-c", code],
        env=ENV, cwd=tmp_path, log=tmp_path / "logs" / "a.log", on_line=lines.append, timeout=30,
    )  # fmt: skip
    assert outcome == Outcome(7, "Looking in https://***@host/simple")
    assert lines == ["Looking in https://***@host/simple"]
    assert (tmp_path / "logs" / "a.log").read_text() == "Looking in https://***@host/simple\n"


def test_a_child_ended_by_a_signal_has_a_code_that_says_so(tmp_path: Path):
    code = "import os; os.kill(os.getpid(), 9)"
    outcome = run(
        [sys.executable, "-c", code],
        env=ENV, cwd=tmp_path, log=tmp_path / "log", on_line=print, timeout=30,
    )  # fmt: skip
    assert outcome.code == 137


def test_a_child_that_takes_too_long_is_ended(tmp_path: Path):
    outcome = run(
        [sys.executable, "-c", "import time; time.sleep(1000)"],
        env=ENV, cwd=tmp_path, log=tmp_path / "log", on_line=print, timeout=0.2,
    )  # fmt: skip
    assert outcome.code == -1
    assert "ended after" in outcome.tail


def render(tmp_path: Path, mode: str, seconds: float = 30) -> None:
    render_once(
        lambda port: [sys.executable, str(FAKE), mode, "--port", str(port)],
        env=ENV,
        folder=tmp_path / "scratch",
        log=tmp_path / "log",
        on_text=lambda _: None,
        seconds=seconds,
    )


def test_a_working_comfyui_passes_and_leaves_nothing(tmp_path: Path):
    render(tmp_path, "good")
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("dies-at-start", "code 1 before it had started: Torch not compiled with CUDA"),
        ("dies-at-job", "before it had made a picture: Killed by the kernel"),
        ("refuses", "refused a job.*no such node"),
        ("job-fails", "failed at its first job"),
        ("bad-picture", "cannot be viewed"),
    ],
)
def test_a_broken_comfyui_is_told_at_once_with_the_reason(tmp_path: Path, mode, message):
    started = time.monotonic()
    with pytest.raises(SetupNeeded, match=message) as caught:
        render(tmp_path, mode, seconds=1000)
    assert time.monotonic() - started < 60
    assert "tail" in caught.value.info.detail


@pytest.mark.parametrize("mode", ["hangs", "never-ready"])
def test_a_comfyui_that_never_starts_meets_the_deadline(tmp_path: Path, mode: str):
    with pytest.raises(SetupNeeded, match="had not started in time"):
        render(tmp_path, mode, seconds=1)


def test_an_import_error_is_the_message():
    with pytest.raises(SetupNeeded, match="ImportError: libGL"):
        read_import_probe(Outcome(1, "Traceback:\n  x\nImportError: libGL.so.1: not found"))
    with pytest.raises(SetupNeeded, match="unexpected"):
        read_import_probe(Outcome(0, "hello"))


def test_pips_lines_become_a_fraction_that_never_goes_back():
    told: list[tuple[float | None, str]] = []
    progress = Progress(lambda fraction, text: told.append((fraction, text)), expected=2)
    for line in [
        "Looking in indexes: x",
        "Collecting torch==2.13.0 (from -r x)",
        "  Downloading torch-2.13.0.whl (190 MB)",
        "Progress 0 of 100",
        "Progress 50 of 100",
        "Progress 100 of 100",
        "Collecting b",
        "Collecting c",
        "Collecting d",
        "Installing collected packages: torch, b, c, d",
        "Successfully installed torch",
    ]:
        progress.line(line)
    fractions = [fraction for fraction, _ in told]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert (0.1875, "Downloading torch-2.13.0.whl (190 MB)") not in told[:2]
    assert told[1][1] == "Downloading torch-2.13.0.whl (190 MB)"
