"""Secrets that are unlike anything else, a machine full of them, and what looks for them."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from client.support import Request
from pennyreel.config import FIELDS

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "programs" / "canary_cli.py"

OWNERS: Mapping[str, frozenset[str]] = {
    "comfyui_auth": frozenset({"comfyui_url"}),
    "runpod_api_key": frozenset({"runpod_base_url", "runpod_api_url"}),
    "replicate_api_token": frozenset({"replicate_base_url"}),
    "s3_key": frozenset({"s3_endpoint"}),
    "hf_token": frozenset({"hf_endpoint", "hf_router_url"}),
    "gemini_api_key": frozenset({"gemini_base_url"}),
    "vertex_token": frozenset({"vertex_base_url", "vertex_storage_url"}),
}
"""Which servers may be told a secret, by the setting of their address; any other secret: none."""


@dataclass
class Canaries:
    """Secrets by name. What is looked for is each one's core, in every spelling."""

    cores: dict[str, str] = field(default_factory=dict)

    def plant(self, name: str) -> str:
        """Return a new secret; '+' and '/' make its URL-encoded form another one."""
        core = self.cores[name] = f"k{secrets.token_hex(10)}"
        return f"CANARY+{core}/z"

    def adopt(self, name: str, core: str) -> None:
        """Look for this, too: a secret that has to have a form of its own."""
        self.cores[name] = core

    def found(self, data: bytes, *, but: Iterable[str] = ()) -> set[str]:
        """Return the names of those that are in there, whatever way they are spelt."""
        left = {n: c for n, c in self.cores.items() if n not in set(but)}
        return {name for name, core in left.items() if any(f in data for f in _forms(core))}

    def in_files(self, *folders: Path, but: Iterable[str] = ()) -> dict[str, set[str]]:
        """Return what is in files and their names, by path."""
        told = {}
        for path in (p for folder in folders for p in folder.rglob("*")):
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
            if hits := self.found(str(path).encode() + b"\n" + data, but=but):
                told[str(path)] = hits
        return told

    def in_requests(self, requests: Iterable[Request], *, but: Iterable[str] = ()) -> set[str]:
        """Return what a server was told."""
        return {
            name
            for r in list(requests)
            for name in self.found(f"{r.path}\n{r.headers}\n".encode() + r.body, but=but)
        }


def _forms(core: str) -> set[bytes]:
    raw = core.encode()
    forms = {raw, raw.hex().encode(), raw[::-1], core.upper().encode()}
    for shift in range(3):  # base64 spells a text in three ways, by where it begins
        coded = base64.b64encode(b"\0" * shift + raw)
        # What depends on the neighbours is cut off at both ends.
        inner = coded[2 if shift else 0 :][2 if shift else 0 : -4]
        forms |= {inner, inner.replace(b"+", b"-").replace(b"/", b"_")}
    return forms


@dataclass
class Ran:
    """What one command said."""

    args: tuple[str, ...]
    code: int
    out: bytes
    err: bytes

    @property
    def told(self) -> bytes:
        return self.out + b"\n" + self.err


@dataclass
class Machine:
    """A home, an environment full of canaries, and the commands that were run in it."""

    folder: Path
    canaries: Canaries = field(default_factory=Canaries)
    env: dict[str, str] = field(default_factory=dict)
    ran: list[Ran] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("home", "tmp", "out"):
            (self.folder / name).mkdir(parents=True)
        self.env |= {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "client"), str(ROOT / "worker")]),
            "PENNYREEL_HOME": str(self.folder / "home" / "pennyreel"),
            "PENNYREEL_CONFIG": os.devnull,
            "PENNYREEL_DEBUG": "1",
            "PENNYREEL_DEVICES": "none",
            "GOOGLE_CLOUD_PROJECT": "emulated-project",
            "RUNPOD_ENDPOINT_ID": "ep",
            "PENNYREEL_RUNPOD_GPU": "AMPERE_24",
        }
        for name, one in FIELDS.items():
            if one.kind == "secret" and name not in {"ledger_url", "alert_webhook"}:
                self.env[one.env] = self.canaries.plant(name)
        self.env["PENNYREEL_COMFYUI_AUTH"] = f"Bearer {self.env['PENNYREEL_COMFYUI_AUTH']}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):  # loopback does not go by them
            self.env[name] = f"http://user:{self.canaries.plant(name)}@127.0.0.1:9"

    def command(self, *args: str) -> list[str]:
        """The real command line, with logging at DEBUG."""
        return [sys.executable, str(PROGRAM), *args]

    def run(self, *args: str, timeout: float = 120, **env: str) -> Ran:
        """Run one command to its end."""
        done = subprocess.run(
            self.command(*args),
            env={**self.env, **env},
            cwd=self.folder / "tmp",
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
        ran = Ran(args, done.returncode, done.stdout, done.stderr)
        self.ran.append(ran)
        return ran

    def leaks(self, *, kept: Iterable[str] = ()) -> dict[str, set[str]]:
        """Return every canary that anything said or wrote; `kept` may be in the spool alone."""
        kept = set(kept)
        found = {" ".join(r.args): self.canaries.found(r.told) for r in self.ran}
        found = {f"output of {name[:100]}": hits for name, hits in found.items() if hits}
        for path, hits in self.canaries.in_files(self.folder).items():
            excused = kept if Path(path).parent.name == "spool" else set()
            if hits - excused:
                found[path] = hits - excused
        return found


@contextmanager
def argv_watched(canaries: Canaries, *, but: Iterable[str] = ()) -> Iterator[dict[str, set[str]]]:
    """Look at the command lines of all that runs below this process, until the context ends."""
    found: dict[str, set[str]] = {}
    over = threading.Event()

    def look() -> None:
        me = psutil.Process()
        while not over.wait(0.1):  # what is planted lives longer; to look costs time, too
            for child in me.children(recursive=True):
                try:
                    line = "\0".join(child.cmdline())
                except psutil.Error:
                    continue
                if hits := canaries.found(line.encode(), but=but):
                    found[line[:200]] = hits

    watcher = threading.Thread(target=look, name="argv")
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join(10)
