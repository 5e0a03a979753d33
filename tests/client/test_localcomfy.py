"""The installed ComfyUI in the background: only what we started is ever stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.support import until
from fakes import comfyui as fake_comfyui
from fakes.comfyui import FakeComfy
from fakes.ports import dead_port, port_for_later
from pennyreel import SetupNeeded, localcomfy
from pennyreel.cli.app import run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a POSIX stand-in for the installation")


def install_fake(root: Path, main: str) -> None:
    """Lay out what Installation.load takes for an installation; main.py is `main`."""
    (root / "comfy").mkdir(parents=True)
    (root / "comfy" / "main.py").write_text(main)
    python = root / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (root / "install.json").write_text(
        json.dumps({"format": 1, "comfyui_version": "0", "device": "cpu", "frontend": True})
    )


@pytest.fixture
def root(home: Path) -> Iterator[Path]:
    folder = home / "comfyui"
    source = Path(fake_comfyui.__file__).read_text()
    install_fake(folder, source)
    yield folder
    localcomfy.stop(folder)


@pytest.fixture
def nowhere() -> str:
    return f"http://127.0.0.1:{dead_port()}"


def test_it_starts_answers_outlives_the_call_and_stops(root: Path, nowhere: str) -> None:
    lines: list[str] = []
    done = localcomfy.start(root, url=nowhere, port=port_for_later(), report=lines.append)
    assert localcomfy.answers(done.url)
    assert done.pid is not None
    assert not done.adopted
    assert str(localcomfy.log_file(root)) in lines[0]
    again = localcomfy.start(root, url=nowhere)
    assert (again.pid, again.was_running) == (done.pid, True)
    server = localcomfy.running(root)
    assert server is not None
    assert server.url == done.url
    assert localcomfy.stop(root)
    assert localcomfy.running(root) is None
    assert not localcomfy.answers(done.url)
    assert not localcomfy.stop(root)
    assert not (root / "server.json").exists()


def test_a_comfyui_that_answers_already_is_adopted_and_never_stopped(root: Path) -> None:
    with FakeComfy() as theirs:
        done = localcomfy.start(root, url=theirs.url)
        assert done.adopted
        assert done.pid is None
        assert not localcomfy.stop(root)
        assert localcomfy.answers(theirs.url)


def test_a_pid_that_is_somebody_else_s_by_now_is_not_stopped(root: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        state = {"url": "http://127.0.0.1:9", "pid": other.pid, "started": "12345"}
        (root / "server.json").write_text(json.dumps(state))
        assert not localcomfy.stop(root)
        assert other.poll() is None
        other.kill()


def test_one_that_dies_at_start_shows_its_log(home: Path, nowhere: str) -> None:
    root = home / "comfyui"
    install_fake(root, "raise SystemExit('no room for torch')")
    with pytest.raises(SetupNeeded) as caught:
        localcomfy.start(root, url=nowhere, port=port_for_later())
    assert caught.value.code == "comfy_start_failed"
    assert "no room for torch" in "\n".join(caught.value.info.detail["log"])  # type: ignore[arg-type]
    assert "pennyreel comfyui logs" in caught.value.hint
    assert not (root / "server.json").exists()


def test_one_that_never_answers_is_ended(home: Path, nowhere: str) -> None:
    root = home / "comfyui"
    pid_file = home / "pid"
    install_fake(
        root,
        f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)",
    )
    with pytest.raises(SetupNeeded, match="did not answer"):
        localcomfy.start(root, url=nowhere, port=port_for_later(), start_s=1.0)
    pid = int(pid_file.read_text())
    until(lambda: localcomfy.process_started(pid) is None)


def test_what_is_not_installed_says_so(home: Path, nowhere: str) -> None:
    with pytest.raises(SetupNeeded) as caught:
        localcomfy.start(home / "comfyui", url=nowhere)
    assert caught.value.code == "not_installed"


def test_a_taken_port_is_refused_when_it_was_asked_for(root: Path, nowhere: str) -> None:
    with FakeComfy() as theirs, pytest.raises(SetupNeeded, match="taken"):
        localcomfy.start(root, url=nowhere, port=int(theirs.url.rpartition(":")[2]))


@pytest.fixture
def overtaken(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeComfy]:
    """Another ComfyUI, which takes the port just after it was found to be free."""
    with FakeComfy() as theirs:
        monkeypatch.setattr(localcomfy, "_port", lambda _: int(theirs.url.rpartition(":")[2]))
        yield theirs


def test_one_that_took_the_port_meanwhile_is_not_thought_ours(
    root: Path, nowhere: str, overtaken: FakeComfy
) -> None:
    done = localcomfy.start(root, url=nowhere)
    assert done.url != overtaken.url
    assert not done.adopted
    assert localcomfy.answers(done.url)
    server = localcomfy.running(root)
    assert server is not None
    assert (server.url, server.pid) == (done.url, done.pid)
    assert localcomfy.stop(root)
    assert localcomfy.answers(overtaken.url)


def test_one_that_took_the_port_that_was_asked_for_is_an_error(
    root: Path, nowhere: str, overtaken: FakeComfy
) -> None:
    with pytest.raises(SetupNeeded, match="taken"):
        localcomfy.start(root, url=nowhere, port=1234)
    assert localcomfy.running(root) is None
    assert localcomfy.answers(overtaken.url)


def test_a_process_is_known_by_its_start() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        started = localcomfy.process_started(child.pid)
        assert started
        assert started == localcomfy.process_started(child.pid)
        child.kill()
        child.wait()
        assert localcomfy.process_started(child.pid) is None


def test_the_log_s_tail_is_the_last_lines(tmp_path: Path) -> None:
    assert localcomfy.tail(tmp_path, 5) == []
    localcomfy.log_file(tmp_path).parent.mkdir()
    localcomfy.log_file(tmp_path).write_text("".join(f"line {n}\n" for n in range(1000)))
    assert localcomfy.tail(tmp_path, 2) == ["line 998", "line 999"]


def test_the_commands_do_the_same(
    root: Path, nowhere: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*args: str) -> tuple[int, str]:
        code = run(["comfyui", *args])
        return code, capsys.readouterr().out

    monkeypatch.setenv("PENNYREEL_COMFYUI_URL", nowhere)
    (root / ".pennyreel-comfyui").write_text("ours")
    port = str(port_for_later())
    code, printed = call("start", "--port", port, "--json")
    started = json.loads(printed)
    assert code == 0
    assert started["url"].endswith(port)
    assert "runs already" in call("start")[1]
    status = json.loads(call("status", "--json")[1])
    assert status["running"]
    assert status["ours"]
    assert status["pid"] == started["pid"]
    assert f"pid {started['pid']}" in call("status")[1]
    assert call("logs", "-n", "5")[0] == 0
    assert call("stop") == (0, "stopped\n")
    assert "not running" in call("status")[1]
    (root / "comfy" / "models").mkdir()
    (root / "comfy" / "models" / "mine.safetensors").write_bytes(b"x")
    assert call("uninstall")[0] == 2  # nobody is there to say yes
    assert root.exists()
    code, printed = call("uninstall", "--yes", "--json")
    assert json.loads(printed)["removed"] is True
    assert not root.exists()
    assert not list(root.parent.glob(".*"))


def test_a_server_that_cannot_be_written_down_is_not_left_running(
    root: Path, nowhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    spawned = []
    real = localcomfy._spawn

    def spawn(*args: Any) -> Any:
        spawned.append(real(*args))
        return spawned[0]

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(localcomfy, "_spawn", spawn)
    monkeypatch.setattr(localcomfy, "_write", full)
    with pytest.raises(OSError, match="No space"):
        localcomfy.start(root, url=nowhere)
    assert spawned[0][1].poll() is not None
    assert localcomfy.running(root) is None
