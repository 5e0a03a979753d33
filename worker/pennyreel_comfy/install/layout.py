"""Where an installation lies on disk, and how to start what lies there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

FORMAT = 1

_WINDOWS = os.name == "nt"

# What a ComfyUI child may see of our environment. It runs other people's nodes, so it gets what
# programs need in order to run, and no key that happens to be set.
_PASS = frozenset(
    {
        "ALLUSERSPROFILE", "APPDATA", "COMSPEC", "DISPLAY", "HF_HOME", "HOME", "HOMEDRIVE",
        "HOMEPATH", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LOCALAPPDATA",
        "LOGNAME", "NUMBER_OF_PROCESSORS", "OS", "PATH", "PATHEXT", "PROGRAMDATA", "PROGRAMFILES",
        "PROGRAMW6432", "REQUESTS_CA_BUNDLE", "SHELL", "SSL_CERT_DIR", "SSL_CERT_FILE",
        "SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "TERM", "TMP", "TMPDIR", "TZ", "USER", "USERNAME",
        "USERPROFILE", "WINDIR",
    }
)  # fmt: skip
_PASS_PREFIXES = (
    "CUBLAS_", "CUDA", "CUDNN_", "GPU_", "HIP_", "HSA_", "KMP_", "LC_", "MIOPEN_", "MKL_", "NCCL_",
    "NVIDIA_", "OMP_", "OPENBLAS_", "PROCESSOR_", "PYTORCH_", "ROCM_", "ROCR_", "TORCH_",
    "TRITON_", "XDG_",
)  # fmt: skip
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS(WORD|WD|PHRASE)|CREDENTIAL|AUTH|COOKIE|PAT$|PWD|DSN")
_FIXED = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "PYTHONNOUSERSITE": "1",
    "PYTHONUNBUFFERED": "1",
    "PYTHONUTF8": "1",
    "TRANSFORMERS_OFFLINE": "1",
}


@dataclass(frozen=True)
class Layout:
    """The paths inside an installation's folder."""

    root: Path

    @property
    def comfy(self) -> Path:
        """The ComfyUI tree: main.py, nodes, models, custom_nodes."""
        return self.root / "comfy"

    @property
    def venv(self) -> Path:
        """ComfyUI's own virtual environment."""
        return self.root / "venv"

    @property
    def python(self) -> Path:
        """The environment's interpreter."""
        return self.venv / ("Scripts/python.exe" if _WINDOWS else "bin/python")

    @property
    def manifest(self) -> Path:
        """Says that the installation is complete, and what it is. Absent until then."""
        return self.root / "install.json"

    @property
    def state(self) -> Path:
        """Which stages are complete, for resuming."""
        return self.root / "state.json"

    @property
    def downloads(self) -> Path:
        """Files that a stage needs while it runs; empty afterwards."""
        return self.root / "downloads"

    @property
    def logs(self) -> Path:
        """What pip and the first ComfyUI said, one file per stage."""
        return self.root / "logs"

    @property
    def web(self) -> Path:
        """The page shown where the editor is not installed."""
        return self.root / "web"

    @property
    def marker(self) -> Path:
        """Says that we made this folder, so that it may be removed."""
        return self.root / ".pennyreel-comfyui"

    @property
    def lock(self) -> Path:
        """Held by the installer that works here."""
        return self.root / ".lock"

    @property
    def site_packages(self) -> Path:
        """Where the environment's packages lie (a path that may not exist yet)."""
        if _WINDOWS:
            return self.venv / "Lib" / "site-packages"
        found = sorted(self.venv.glob("lib/python3*/site-packages"))
        return found[-1] if found else self.venv / "lib" / "site-packages"


@dataclass(frozen=True)
class Installation:
    """A complete installation of ComfyUI."""

    layout: Layout
    comfyui_version: str
    source: str
    """release, horde, or the folder it was copied from."""
    device: str
    """cpu, cuda, rocm or mps."""
    torch: str
    """The version of torch, with its build, such as 2.13.0+cpu."""
    created: str
    """When, in ISO 8601, UTC."""
    frontend: bool = False
    """Whether ComfyUI's own editor is installed."""

    @classmethod
    def load(cls, root: Path) -> Installation | None:
        """Return the installation in `root`, or None where there is no complete one."""
        layout = Layout(Path(root).absolute())
        try:
            data = json.loads(layout.manifest.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            return None
        if not (layout.comfy / "main.py").is_file() or not layout.python.exists():
            return None
        return cls(
            layout=layout,
            comfyui_version=str(data.get("comfyui_version", "")),
            source=str(data.get("source", "")),
            device=str(data.get("device", "cpu")),
            torch=str(data.get("torch", "")),
            created=str(data.get("created", "")),
            frontend=bool(data.get("frontend", False)),
        )

    def command(self, port: int, *, extra: Sequence[str] = ()) -> list[str]:
        """Return the argv that starts this ComfyUI on 127.0.0.1; `extra` comes last, and wins."""
        argv = [str(self.layout.python), str(self.layout.comfy / "main.py")]
        argv += ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
        if self.device == "cpu":
            argv.append("--cpu")
        if not self.frontend:
            argv += ["--front-end-root", str(self.layout.web)]
        return [*argv, *extra]

    def env(self, source: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return the environment for the child: ours (or `source`) less what it need not see."""
        return child_env(os.environ if source is None else source)


def child_env(source: Mapping[str, str]) -> dict[str, str]:
    """Return what of `source` a ComfyUI child may see, and what it is told on top."""
    kept = {name: value for name, value in source.items() if _may_pass(name.upper())}
    return {**kept, **_FIXED}


def _may_pass(name: str) -> bool:
    if _SECRET.search(name):
        return False
    return name in _PASS or name.startswith(_PASS_PREFIXES)
