"""The ComfyUI that both sides run: one command, one node pack, and what the pack writes down."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import requests

from pennyreel_comfy.install import Installation, child_env
from pennyreel_comfy.process import free_port

PACK = Path(__file__).with_name("comfy_pack.py")
START_S = 180.0


class Ran(NamedTuple):
    """One executed prompt, by ComfyUI's own clock (CLOCK_MONOTONIC)."""

    pid: int
    began: float
    ended: float
    prompt: str


@dataclass(frozen=True)
class Place:
    """A folder for one run of the bench: the pack, its marks, everybody's outputs."""

    root: Path
    command: tuple[str, ...]
    """Starts ComfyUI, but for its port and folders."""

    @classmethod
    def make(cls, root: Path, comfy_dir: Path, python: str | None) -> Place:
        """Lay out the folder for `comfy_dir`: an installation of ours, or any ComfyUI folder."""
        installed = Installation.load(comfy_dir)
        folder = installed.layout.comfy if installed else comfy_dir.resolve()
        python = python or (str(installed.layout.python) if installed else None)
        if python is None or not (folder / "main.py").is_file():
            raise SystemExit(f"{comfy_dir}: give an installed ComfyUI, or its folder and --python")
        for name in ("custom_nodes", "web", "work"):
            (root / name).mkdir()
        shutil.copy(PACK, root / "custom_nodes" / "pennyreel_bench.py")
        (root / "web" / "index.html").write_text("<p>No editor here.</p>", encoding="utf-8")
        paths = root / "paths.yaml"
        paths.write_text("bench:\n  custom_nodes: custom_nodes\n", encoding="utf-8")
        argv = [python, str(folder / "main.py"), "--cpu", "--listen", "127.0.0.1"]
        argv += ["--disable-auto-launch", "--front-end-root", str(root / "web")]
        return cls(root, (*argv, "--extra-model-paths-config", str(paths)))

    def worker_environment(self) -> dict[str, str]:
        """Return what has a worker of ours start this ComfyUI."""
        return {
            "PENNYREEL_COMFYUI_COMMAND": json.dumps(self.command),
            "PENNYREEL_WORK_DIR": str(self.root / "work"),
        }

    def marks(self) -> list[dict[str, Any]]:
        """Return everything that the pack wrote; a line half written is left for the next look."""
        found = []
        for path in self.root.glob("marks-*.jsonl"):
            lines = path.read_text("utf-8").split("\n")[:-1]
            found += [json.loads(line) for line in lines]
        return found

    def ran(self, since: float) -> list[Ran]:
        """Return the prompts that began after `since`, in order."""
        ran = [
            Ran(m["pid"], m["began"], m["ended"], m["prompt"])
            for m in self.marks()
            if m["what"] == "ran" and m["began"] >= since
        ]
        return sorted(ran, key=lambda one: one.began)

    def collected(self, pid: int) -> list[tuple[float, float]]:
        """Return when this ComfyUI collected its garbage, from and to."""
        marks = self.marks()
        return [(m["began"], m["ended"]) for m in marks if m["what"] == "gc" and m["pid"] == pid]


@contextlib.contextmanager
def bare(place: Place) -> Iterator[str]:
    """Start a ComfyUI of our own, with the flags of the worker's; yields its URL."""
    folder = place.root / f"bare-{free_port()}"
    options = ["--database-url", "sqlite:///:memory:", "--temp-directory", str(folder)]
    for kind in ("input", "output", "user"):
        (folder / kind).mkdir(parents=True)
        options += [f"--{kind}-directory", str(folder / kind)]
    port = free_port()
    log = folder / "comfyui.log"
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [*place.command, *options, "--port", str(port)],
            cwd=folder,
            env=child_env(os.environ),
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_up(url, child, log)
        yield url
    finally:
        end(child)


def _wait_until_up(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    def up() -> bool:
        if child.poll() is not None:
            raise SystemExit(f"ComfyUI did not start:\n{log.read_text('utf-8', 'replace')[-3000:]}")
        with contextlib.suppress(requests.RequestException):
            return requests.get(f"{url}/system_stats", timeout=2).ok
        return False

    until(up, "ComfyUI", START_S, every=0.1)


def end(child: subprocess.Popen[Any]) -> None:
    """End a child of ours, by force where it does not listen."""
    child.terminate()
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def until(true: Callable[[], bool], what: str, seconds: float, *, every: float = 0.02) -> None:
    """Wait until something is true."""
    limit = time.monotonic() + seconds
    while not true():
        if time.monotonic() > limit:
            raise SystemExit(f"{what}: not within {seconds:g} s")
        time.sleep(every)
