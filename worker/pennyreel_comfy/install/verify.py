"""Proof that an installation works: its imports, and one picture made by the real server."""

from __future__ import annotations

import json
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from pennyreel_comfy.install.children import Child, Outcome
from pennyreel_contract.errors import Code, PennyreelError, error

SHIM_PROBE = "import torchvision; print('torchvision', torchvision.__version__)"
MISSING_OPERATOR = "operator torchvision::"

# Run inside ComfyUI's environment. Its last line is what we read.
IMPORT_PROBE = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
for name in ("torch", "torchvision", "torchsde", "numpy", "einops", "transformers", "tokenizers",
             "sentencepiece", "safetensors", "aiohttp", "yarl", "yaml", "PIL", "scipy", "tqdm",
             "psutil", "alembic", "sqlalchemy", "av", "pydantic", "pydantic_settings",
             "comfy_execution.utils", "folder_paths"):
    importlib.import_module(name)
import torch
mps = getattr(torch.backends, "mps", None)
print(json.dumps({
    "torch": torch.__version__, "cuda": torch.version.cuda, "hip": torch.version.hip,
    "gpu": torch.cuda.is_available(), "mps": bool(mps and mps.is_available()),
}))
"""

GRAPH: dict[str, Any] = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0x336699},
    },
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "verify"}},
}

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class TorchFacts:
    """What the import probe found out."""

    torch: str
    cuda: str | None
    hip: str | None
    gpu: bool
    mps: bool

    def has_build_for(self, device: str) -> bool:
        """Say whether this torch was built for a device."""
        return {"cuda": bool(self.cuda), "rocm": bool(self.hip)}.get(device, True)

    def sees(self, device: str) -> bool:
        """Say whether the device is there now (a GPU is not, while an image is built)."""
        return {"cuda": self.gpu, "rocm": self.gpu, "mps": self.mps}.get(device, True)


def read_import_probe(outcome: Outcome) -> TorchFacts:
    """Read what IMPORT_PROBE printed; raise where an import failed."""
    if outcome.code != 0:
        raise error(
            Code.INSTALL_FAILED,
            f"ComfyUI's packages do not import: {_last_line(outcome.tail)}",
            detail={"tail": outcome.tail},
        )
    try:
        data = json.loads(_last_line(outcome.tail))
        return TorchFacts(**data)
    except (TypeError, ValueError) as problem:
        raise error(
            Code.INSTALL_FAILED,
            "The check of ComfyUI's packages said something unexpected.",
            detail={"tail": outcome.tail},
        ) from problem


def render_once(
    command: Callable[[int], list[str]],
    *,
    env: Mapping[str, str],
    folder: Path,
    log: Path,
    on_text: Callable[[str], None],
    seconds: float,
) -> None:
    """Start ComfyUI, have it make one picture, look at the picture, and end it for sure.

    `command` gives the argv for a port. What it writes goes to a folder under `folder`, which is
    removed. Raises within `seconds`, and at once when ComfyUI dies.
    """
    deadline = time.monotonic() + seconds
    port = _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as name:
        base = Path(name)
        argv = [*command(port), "--disable-all-custom-nodes", "--disable-api-nodes"]
        argv += scratch(base)
        with closing(Child(argv, env=env, cwd=base, log=log)) as child, requests.Session() as http:
            http.trust_env = False  # no proxy between us and ourselves
            server = _Server(http, f"http://127.0.0.1:{port}", child, deadline)
            on_text("Starting ComfyUI")
            server.until(lambda: server.get("/system_stats"), "started")
            on_text("Making a picture")
            prompt = server.submit(GRAPH)
            entry = server.until(lambda: server.history(prompt), "made a picture")
            server.check_picture(entry)


class _Server:
    """A ComfyUI that is ours, with one deadline for all that is asked of it."""

    def __init__(self, http: requests.Session, base: str, child: Child, deadline: float) -> None:
        self._http = http
        self._base = base
        self._child = child
        self._deadline = deadline

    def until(self, ask: Callable[[], Any], what: str) -> Any:
        """Ask again and again until there is an answer, the child dies, or time is up."""
        while True:
            code = self._child.ended()
            if code is not None:
                raise self.failed(f"ended with code {code} before it had {what}")
            if time.monotonic() > self._deadline:
                raise self.failed(f"had not {what} in time")
            answer = ask()
            if answer:
                return answer
            time.sleep(0.1)

    def get(self, path: str, **params: str) -> requests.Response | None:
        """Return the answer to a GET, or None where there is none yet."""
        try:
            response = self._http.get(self._base + path, params=params, timeout=10)
        except requests.RequestException:
            return None
        return response if response.status_code == 200 else None

    def submit(self, graph: dict[str, Any]) -> str:
        """Send a graph; return its prompt id."""
        try:
            response = self._http.post(self._base + "/prompt", json={"prompt": graph}, timeout=10)
            body = response.json()
        except requests.RequestException as problem:
            raise self.failed(f"refused a job: {problem}") from problem
        if response.status_code != 200 or body.get("node_errors"):
            raise self.failed(f"refused a job: {str(body)[:500]}")
        return str(body["prompt_id"])

    def history(self, prompt: str) -> dict[str, Any] | None:
        """Return a job's history entry, or None while there is none."""
        response = self.get(f"/history/{prompt}")
        entry = response.json().get(prompt) if response is not None else None
        return entry if isinstance(entry, dict) else None

    def check_picture(self, entry: dict[str, Any]) -> None:
        """Fetch the picture that a history entry names, and see that it is one."""
        images = [
            image for output in entry.get("outputs", {}).values() for image in output["images"]
        ]
        status = entry.get("status", {})
        if status.get("status_str") != "success" or len(images) != 1:
            raise self.failed(f"failed at its first job: {str(status)[:500]}")
        image = {name: str(images[0][name]) for name in ("filename", "subfolder", "type")}
        response = self.get("/view", **image)
        if response is None or not response.content.startswith(_PNG):
            raise self.failed("made a picture that cannot be viewed")

    def failed(self, what: str) -> PennyreelError:
        """Return the error for what went wrong, with the log's tail."""
        return error(
            Code.INSTALL_FAILED,
            f"ComfyUI was installed, but it {what}: {_last_line(self._child.tail)}",
            hint="Read the tail of its log in this error's detail.",
            detail={"tail": self._child.tail},
        )


def scratch(base: Path) -> Sequence[str]:
    """Make folders under `base`; return the options with which ComfyUI writes nowhere else."""
    arguments = ["--database-url", "sqlite:///:memory:"]
    for name in ("input", "output", "temp", "user"):
        (base / name).mkdir()
        arguments += [f"--{name}-directory", str(base / name)]
    return arguments


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "it said nothing"
