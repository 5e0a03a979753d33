"""A home whose jobs go to emulated backends, and the command line in processes of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from client.commands import Ran
from pennyreel.config import load
from pennyreel.money.ledger import Ledger
from pennyreel_emulators.replicate import Config, ReplicatePlatform

TOKEN = "r8_SECRET_never_shown_0123456789"
KILLED = Path(__file__).with_name("killed.py")
_STARTED: list[subprocess.Popen[str]] = []


def started(*args: object, kill_at: int | None = None) -> subprocess.Popen[str]:
    """A command in a process of its own; `kill_at`: see killed.py."""
    head = ["-m", "pennyreel"] if kill_at is None else [str(KILLED), str(kill_at)]
    command = [sys.executable, *head, *map(str, args)]
    process = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=dict(os.environ))
    _STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    """A test that fails leaves no process to the next one."""
    yield
    while _STARTED:
        with _STARTED.pop() as process:
            process.kill()


def ended(process: subprocess.Popen[str], seconds: float = 60.0) -> Ran:
    """Wait for it."""
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            raise
    return Ran(process.returncode, out, err)


def was_killed(ran: Ran) -> bool:
    return ran.code == -signal.SIGKILL


@pytest.fixture
def replicate(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReplicatePlatform]:
    """The emulated Replicate; the environment points at it."""
    with ReplicatePlatform(Config(token=TOKEN)) as platform:
        monkeypatch.setenv("REPLICATE_API_TOKEN", TOKEN)
        monkeypatch.setenv("REPLICATE_BASE_URL", platform.base_url)
        yield platform


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """The home's ledger, as another process sees it."""
    with Ledger.open(load()) as opened:
        yield opened


def spooled(home: Path) -> list[str]:
    """What lies in the spool, by its ending."""
    folder = home / "spool"
    return sorted(f.suffix for f in folder.iterdir()) if folder.exists() else []
