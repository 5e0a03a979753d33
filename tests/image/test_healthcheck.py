"""The image's HEALTHCHECK tells a worker that serves from one that does not."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import pytest

MARK = "a-mark-of-this-test"
WAIT = "import sys; sys.stdin.read()"
FILE = Path(__file__).parents[2] / "worker" / "image" / "healthcheck.py"
WORKER = ["/usr/bin/python", "-m", "pennyreel_worker", ""]
TINI = ["/usr/bin/tini", "-s", "--", "python", ""]
SHELL = ["sh", ""]


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("healthcheck", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def comfyui() -> Iterator[ThreadingHTTPServer]:
    """A ComfyUI that answers /system_stats with `status`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.path == "/system_stats"
            self.send_response(getattr(self.server, "status", 200) if good else 404)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def processes(
    check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[list[str], list[str]]]:
    """The command lines that the check finds, each with its parent's."""
    found: list[tuple[list[str], list[str]]] = []
    monkeypatch.setattr(check, "running", lambda _: iter(found))
    return found


def serving(port: int) -> list[str]:
    return ["/c/venv/bin/python", "child.py", "/c/comfy/main.py", "--port", str(port), "--cpu", ""]


def test_a_worker_whose_comfyui_answers_is_well(
    check: ModuleType,
    processes: list[tuple[list[str], list[str]]],
    comfyui: ThreadingHTTPServer,
) -> None:
    # The worker itself is not among them: it hides what tells that it is in this container.
    processes += [(SHELL, TINI), (serving(1), SHELL), (serving(comfyui.server_port), WORKER)]
    assert check.main() == 0


@pytest.mark.parametrize(
    ("worker", "comfy", "status", "why"),
    [
        (False, True, 200, "the worker does not run"),
        (True, False, 200, "ComfyUI does not run"),
        (True, True, 500, "does not answer"),
    ],
)
def test_what_is_wrong_is_said(
    check: ModuleType,
    processes: list[tuple[list[str], list[str]]],
    comfyui: ThreadingHTTPServer,
    capsys: pytest.CaptureFixture[str],
    worker: bool,
    comfy: bool,
    status: int,
    why: str,
) -> None:
    comfyui.status = status  # type: ignore[attr-defined]
    parent = WORKER if worker else TINI
    processes += [(serving(comfyui.server_port) if comfy else SHELL, parent)]
    assert check.main() == 1
    assert why in capsys.readouterr().out


def test_a_closed_port_does_not_answer(check: ModuleType, comfyui: ThreadingHTTPServer) -> None:
    port = comfyui.server_port
    comfyui.socket.close()
    assert check.answers(port) is False


@pytest.mark.parametrize(
    ("command", "port"),
    [
        (["python", "main.py", "--port", "8188", ""], 8188),
        (["python", "main.py", "--port", "1", "--port", "2", ""], 2),
        (["python", "main.py", "--port", "x", ""], None),
        (["python", "main.py", "--port"], None),
        (["python", "main.py", ""], None),
        (["python", "other.py", "--port", "8188", ""], None),
        ([""], None),
    ],
)
def test_comfyuis_port_is_read_from_its_command_line(
    check: ModuleType, command: list[str], port: int | None
) -> None:
    assert check.comfyui_port(command) == port


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_sees_the_processes_around_it(check: ModuleType) -> None:
    with subprocess.Popen([sys.executable, "-c", WAIT, MARK], stdin=subprocess.PIPE):
        found = [parent for command, parent in check.running(Path("/proc")) if MARK in command]
    own = Path("/proc/self/cmdline").read_bytes().decode().split("\0")
    assert found == [own]


HIDDEN = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE
argv = [sys.executable, "-c", "import sys; sys.stdin.read()", sys.argv[1]]
with subprocess.Popen(argv, stdin=subprocess.PIPE):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_parent_that_hides_is_still_known_by_its_child(check: ModuleType) -> None:
    argv = [sys.executable, "-c", HIDDEN, MARK, "pennyreel_worker"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as hidden:
        assert hidden.stdout is not None
        assert hidden.stdout.readline() == b"ready\n"
        found = [
            parent for command, parent in check.running(Path("/proc")) if command[3:4] == [MARK]
        ]
    assert any("pennyreel_worker" in parent for parent in found)


@pytest.mark.parametrize("name", ["python", "a b", "x) S 9 (", ") R"])
def test_the_parent_is_found_behind_any_name(check: ModuleType, name: str) -> None:
    assert check.parent_of(f"17 ({name}) S 5 17 17 0 -1") == "5"


def test_it_needs_nothing_but_the_standard_library() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import runpy; runpy.run_path({str(FILE)!r})"],
        check=False,
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
