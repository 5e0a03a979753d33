"""A pip, a release and a ComfyUI that take milliseconds, for the installer's tests.

Run as a program, it drives the real `install()` with these:
`python installer_fakes.py ROOT [STAGE:start|STAGE:middle]` blocks for ever at the place named.
"""

from __future__ import annotations

import io
import json
import sys
import tarfile
import time
from pathlib import Path

from pennyreel_comfy.install import (
    Event,
    Note,
    StageDone,
    StageProgress,
    StageStarted,
    Tools,
    install,
)
from pennyreel_comfy.install.children import Outcome
from pennyreel_comfy.install.devices import Facts
from pennyreel_comfy.install.lock import read_lock
from pennyreel_comfy.install.pip import required_name
from pennyreel_contract.errors import PennyreelError

LINUX = Facts("Linux", "x86_64")


def tar_gz(files: dict[str, bytes]) -> bytes:
    """Return a release: a tar.gz of files below one folder."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(f"ComfyUI-0/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def comfy_files(version: str = "") -> dict[str, bytes]:
    """Return the few files that make a tree a ComfyUI to the installer."""
    version = version or read_lock().comfyui.version
    return {
        "main.py": b"print('hello')\n",
        "nodes.py": b"",
        "comfyui_version.py": f'__version__ = "{version}"\n'.encode(),
        "requirements.txt": b"comfyui-frontend-package==1.2.3\nblake3\ntorch\nnumpy>=1\n",
        "models/checkpoints/put_checkpoints_here": b"",
    }


def add_distribution(site: Path, name: str, version: str, *, complete: bool = True) -> Path:
    """Make a distribution look installed, wholly or only as far as a killed pip came."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    lines = [f"{info.name}/METADATA,,"] + ([f"{info.name}/INSTALLER,,"] if complete else [])
    (info / "RECORD").write_text("\n".join(lines) + "\n")
    return info


class FakeWorld:
    """Tools that pretend, and note what they were asked to do."""

    def __init__(self, root: Path, block: str = "") -> None:
        self.venv = root / "venv"
        self.site = self.venv / "lib" / "python3.99" / "site-packages"
        self.block = block
        self.runs: list[list[str]] = []
        self.fail: dict[str, Outcome] = {}
        self.free = 100 * 10**9
        self.online = True
        self.torch = {
            "torch": "2.13.0+cpu",
            "cuda": None,
            "hip": None,
            "gpu": False,
            "mps": False,
        }

    def tools(self, facts: Facts = LINUX) -> Tools:
        """Return the tools to give to `install`."""
        return Tools(
            run=self.run,
            fetch=self.fetch,
            facts=lambda: facts,
            reachable=lambda _: self.online,
            free_bytes=lambda _: self.free,
            render=self.render,
            interpreter="/usr/bin/python3",
        )

    def fetch(self, url: str, target: Path) -> None:
        """Pretend to download a release."""
        self.runs.append(["fetch", url])
        self._middle("source")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(tar_gz(comfy_files()))

    def run(self, argv, *, env, cwd, log, on_line, timeout):
        """Pretend to be venv, pip and the environment's Python."""
        stage = log.stem
        self.runs.append(list(argv))
        if stage in self.fail:
            return self.fail[stage]
        if stage == "venv":
            (self.venv / "bin").mkdir(parents=True)
            self._middle(stage)
            (self.venv / "bin" / "python").write_text("")
            add_distribution(self.site, "pip", "24.2")
        elif "install" in argv:
            self._pip_install(stage, argv, on_line)
        elif stage == "verify-import":
            self._middle(stage)
            return Outcome(0, "a warning\n" + json.dumps(self.torch))
        else:
            self._middle(stage)
        return Outcome(0, "")

    def render(self, command, *, env, folder, log, on_text, seconds):
        """Pretend to render."""
        self.runs.append(["render", *command(1234)])
        self._middle("verify-render")

    def _pip_install(self, stage, argv, on_line) -> None:
        assert "~left" not in [path.name for path in self.site.iterdir()], "sweep comes first"
        names = [required_name(a) for a in argv[argv.index("--constraint") + 2 :] if a[0] != "-"]
        half = self.site / "half-1.dist-info"
        assert not half.exists(), "sweep comes first"
        for number, name in enumerate(names):
            on_line(f"Collecting {name}")
            if number == 1 and self.block == f"{stage}:middle":
                add_distribution(self.site, "half", "1", complete=False)
                (self.site / "~left").mkdir()
                self._middle(stage)
            add_distribution(self.site, name, "2.13.0+cpu" if name == "torch" else "1.0")
        on_line("Installing collected packages: " + ", ".join(names))

    def _middle(self, stage: str) -> None:
        if self.block == f"{stage}:middle":
            _block()


def _block() -> None:
    sys.stdout.write("BLOCKED\n")
    sys.stdout.flush()
    time.sleep(1000)


def main(root: Path, block: str) -> int:
    """Install with fakes, telling each stage on a line of JSON."""

    def report(event: Event) -> None:
        if isinstance(event, StageStarted) and block == f"{event.name}:start":
            _block()
        if isinstance(event, StageDone):
            sys.stdout.write(json.dumps([event.name, event.skipped]) + "\n")
        assert isinstance(event, (Note, StageDone, StageProgress, StageStarted))

    try:
        install(root, report=report, tools=FakeWorld(root, block).tools())
    except PennyreelError as problem:
        sys.stdout.write(f"ERROR {problem}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
