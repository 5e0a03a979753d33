"""The installed ComfyUI as a server in the background: started, adopted, found again, stopped.

`server.json` beside the installation says which process is ours: its pid and the moment it
started, since a pid alone may belong to somebody else by now. Only that process is ever stopped.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pennyreel.errors import Code, PennyreelError, error

PORT = 8188
START_S = 180.0
STOP_S = 15.0
_LOG_KEEP_BYTES = 5_000_000


@dataclass(frozen=True)
class Server:
    """A ComfyUI that we started."""

    url: str
    pid: int
    started: str
    """When the process began, as its system tells: compared, never read."""
    extra: tuple[str, ...] = ()
    """The arguments that it was given besides."""


@dataclass(frozen=True)
class Started:
    """What `start` did."""

    url: str
    pid: int | None
    adopted: bool
    """It was there already and is not ours: it will not be stopped."""
    was_running: bool
    seconds: float


def log_file(root: Path) -> Path:
    """Where the server's output goes."""
    return root / "logs" / "comfyui.log"


def running(root: Path) -> Server | None:
    """Return the server that we started, if that very process still lives."""
    try:
        data = json.loads((root / "server.json").read_text(encoding="utf-8"))
        extra = tuple(map(str, data.get("extra", ())))
        server = Server(str(data["url"]), int(data["pid"]), str(data["started"]), extra)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return server if process_started(server.pid) == server.started else None


def start(
    root: Path,
    *,
    url: str,
    port: int | None = None,
    extra: Sequence[str] = (),
    report: Callable[[str], None] = lambda _: None,
    start_s: float = START_S,
) -> Started:
    """Start the installed ComfyUI in the background and wait until it answers.

    Args:
        root: the installation's folder.
        url: where a ComfyUI may already answer; it is adopted.
        port: which port to use; None = 8188, or a free one where that is taken.
        extra: more arguments for ComfyUI.
        report: told in a line what happens.
        start_s: how long it may take.

    Raises:
        SetupNeeded: it is not installed, or does not start; the log's tail is in the detail.

    """
    began = time.monotonic()
    with _exclusive(root):
        ours = running(root)
        if ours is not None:
            try:
                _wait(ours, None, root, start_s)
            except _PortLostError:
                raise _taken(urlsplit(ours.url).port or PORT) from None
            return Started(ours.url, ours.pid, False, True, time.monotonic() - began)
        if port is None and answers(url):
            return Started(url, None, True, True, time.monotonic() - began)
        try:
            server = _serve(root, _port(port), extra, report, start_s)
        except _PortLostError:
            if port is not None:
                raise _taken(port) from None
            server = _serve(root, _any_port(), extra, report, start_s)
        return Started(server.url, server.pid, False, False, time.monotonic() - began)


def restart(root: Path, *, report: Callable[[str], None] = lambda _: None) -> Started | None:
    """Stop the server that we started and start it anew, at its port and with its arguments.

    Returns None where none of ours runs. Raises as `start` does.
    """
    server = running(root)
    if server is None:
        return None
    stop(root)
    port = urlsplit(server.url).port
    return start(root, url=server.url, port=port, extra=server.extra, report=report)


def stop(root: Path) -> bool:
    """End the server that we started, and nothing else; return whether there was one."""
    if not root.is_dir():
        return False
    with _exclusive(root):
        server = running(root)
        if server is not None:
            _end(server)
        (root / "server.json").unlink(missing_ok=True)
        return server is not None


def forget(root: Path) -> None:
    """Remove what is left of the server's own files. Call it after `stop`, when all else goes."""
    left = (_lock_file(root), root / "server.json", root / "server.tmp")
    for path in left:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        root.rmdir()  # only where it is empty


def tail(root: Path, lines: int) -> list[str]:
    """Return the last lines of the server's output."""
    try:
        with log_file(root).open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 200 * max(lines, 1)))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


def answers(url: str) -> bool:
    """Whether a ComfyUI answers at this address."""
    return _stats(url) is not None


def _stats(url: str) -> dict[str, Any] | None:
    from pennyreel_comfy.http import ComfyHttp  # noqa: PLC0415 - brings requests along

    try:
        return ComfyHttp(url).system_stats(timeout=2.0)
    except PennyreelError:
        return None


class _PortLostError(Exception):
    """Another ComfyUI took the port between our look at it and our server's."""


def _speaks(url: str, root: Path) -> bool:
    """Whether the ComfyUI of this very installation answers.

    Raises:
        _PortLostError: another one does. Ours will end, for it cannot have the port.

    """
    stats = _stats(url)
    if stats is None:
        return False
    argv = (stats.get("system") or {}).get("argv")
    if argv and Path(argv[0]).resolve() != (root / "comfy" / "main.py").resolve():
        raise _PortLostError
    return True


def process_started(pid: int) -> str | None:
    """Return when a process began, in its system's own words; None where there is none."""
    if sys.platform == "win32":
        return _started_windows(pid)
    stat = Path(f"/proc/{pid}/stat")
    if Path("/proc/self/stat").exists():
        try:
            # The name, in brackets, may hold anything; state and times come after it.
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            return None
        return None if fields[0] == "Z" else fields[19]
    asked = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)],
        env={**os.environ, "LC_ALL": "C", "TZ": "UTC"},  # it would speak the caller's language
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None


def _started_windows(pid: int) -> str | None:
    command = f"(Get-Process -Id {pid} -ErrorAction Stop).StartTime.Ticks"
    asked = subprocess.run(
        ["powershell", "-NoProfile", "-NonInteractive", "-Command", command],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip() or None


def _serve(
    root: Path, port: int, extra: Sequence[str], report: Callable[[str], None], start_s: float
) -> Server:
    """Start it at this port and wait until it answers; of one that does not, nothing is left."""
    server, child = _spawn(root, port, extra)
    try:
        _write(root / "server.json", json.dumps(asdict(server)))
        report(f"starting ComfyUI at {server.url}; log: {log_file(root)}")
        _wait(server, child, root, start_s)
    except BaseException:
        _end(server)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(STOP_S)
        with contextlib.suppress(OSError):
            (root / "server.json").unlink(missing_ok=True)
        raise
    return server


def _spawn(root: Path, port: int, extra: Sequence[str]) -> tuple[Server, subprocess.Popen[bytes]]:
    from pennyreel_comfy.install import Installation  # noqa: PLC0415 - only to start

    installation = Installation.load(root)
    if installation is None:
        raise error(Code.NOT_INSTALLED, f"ComfyUI is not installed in {root}")
    log = log_file(root)
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size > _LOG_KEEP_BYTES:
        log.replace(log.with_suffix(".old.log"))
    with log.open("ab") as out:
        child = _detached(installation.command(port, extra=extra), installation.env(), out.fileno())
    began = process_started(child.pid) or ""
    return Server(f"http://127.0.0.1:{port}", child.pid, began, tuple(extra)), child


def _detached(argv: list[str], env: dict[str, str], out: int) -> subprocess.Popen[bytes]:
    """Start a process that outlives this one and hears none of its terminal's signals."""
    try:
        if sys.platform == "win32":
            flags = subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.DETACHED_PROCESS
            return subprocess.Popen(
                argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, creationflags=flags
            )
        return subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    except OSError as problem:
        raise error(
            Code.COMFY_START_FAILED,
            f"ComfyUI cannot be started: {problem.strerror}",
            hint="Run: pennyreel comfyui install",
        ) from None


def _wait(server: Server, child: subprocess.Popen[bytes] | None, root: Path, limit: float) -> None:
    began = time.monotonic()
    pause = 0.05
    while not _speaks(server.url, root):
        ended = child.poll() if child is not None else None
        if ended is not None or running(root) is None:
            how = f" (exit code {ended})" if ended is not None else ""
            raise error(
                Code.COMFY_START_FAILED,
                f"ComfyUI ended while it started{how}",
                hint="Read its log: pennyreel comfyui logs",
                detail={"log": tail(root, 20)},
            )
        if time.monotonic() - began > limit:
            raise error(
                Code.COMFY_START_FAILED,
                f"ComfyUI did not answer within {limit:g} s",
                hint="Read its log: pennyreel comfyui logs",
                detail={"log": tail(root, 20)},
            )
        time.sleep(pause)
        pause = min(pause * 1.3, 0.5)
    if child is not None:
        # It is meant to outlive us; Popen would warn that nobody waits for it.
        child.returncode = 0


def _port(wanted: int | None) -> int:
    """Return the wanted port, or 8188, or a free one where that is taken."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", PORT if wanted is None else wanted))
        except OSError:
            if wanted is not None:
                raise _taken(wanted) from None
            return _any_port()
        port: int = probe.getsockname()[1]
        return port


def _any_port() -> int:
    from pennyreel_comfy.process import free_port  # noqa: PLC0415 - brings requests along

    return free_port()


def _taken(port: int) -> PennyreelError:
    return error(
        Code.COMFY_START_FAILED, f"port {port} is taken", hint="Name another --port, or none."
    )


def _end(server: Server) -> None:
    """SIGTERM to its process group, then SIGKILL; the process is checked before each."""
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        if process_started(server.pid) != server.started:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                subprocess.run(
                    ["taskkill", "/T", "/F", "/PID", str(server.pid)],
                    capture_output=True,
                    check=False,
                )
            else:
                os.killpg(server.pid, number)  # start_new_session made it its group's leader
        limit = time.monotonic() + STOP_S
        while process_started(server.pid) == server.started and time.monotonic() < limit:
            time.sleep(0.05)


def _lock_file(root: Path) -> Path:
    return root.parent / f".{root.name}.server.lock"


@contextlib.contextmanager
def _exclusive(root: Path) -> Iterator[None]:
    """Let one start or stop at a time. The lock lies beside the folder, which may be removed."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - only here

    root.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(_lock_file(root), timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise error(
            Code.COMFY_START_FAILED,
            "another process is starting or stopping this ComfyUI",
            hint="Wait a moment, then: pennyreel comfyui status",
        ) from None
    try:
        yield
    finally:
        lock.release()


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
