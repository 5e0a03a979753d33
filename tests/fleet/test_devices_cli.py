"""`pennyreel devices`: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fleet.machines import load, server
from pennyreel.cli.app import run

COMFY = load("comfyui")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's own settings is seen, and no ComfyUI answers."""
    for name in list(os.environ):
        if name.startswith("PENNYREEL_") or "proxy" in name.lower():
            monkeypatch.delenv(name)
    monkeypatch.setenv("PENNYREEL_HOME", str(tmp_path))
    monkeypatch.setenv("PENNYREEL_CONFIG", os.devnull)
    with server(lambda: (200, {})) as (url, _):
        pass
    monkeypatch.setenv("PENNYREEL_COMFYUI_URL", url)


def test_without_a_gpu_it_says_what_can_be_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENNYREEL_DEVICES", "none")
    assert run(["devices"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "no GPU was found"
    assert lines[1].startswith("CPU  ")
    assert lines[2].startswith("RAM  ")
    assert [line for line in lines if line.startswith("next: pennyreel backends")]


def test_a_gpu_has_a_row_with_its_source(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENNYREEL_DEVICES", "RTX 3090:24GB")
    assert run(["devices"]) == 0
    head, row, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["NAME", "VENDOR", "FREE", "/", "TOTAL", "LOAD", "TOLD", "BY"]
    assert " ".join(row.split()) == "0 RTX 3090 nvidia ? / 24.0 GB override, certain"
    assert not [line for line in rest if line.startswith("next:")]


def test_json_is_one_object_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices", "--json"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    told = json.loads(line)
    assert set(told) == {"devices", "host", "took_s", "problems", "silent"}
    assert told["took_s"] < 2
    assert told["host"]["ram_total_bytes"] > 0


def test_a_word_that_is_not_understood_is_noted_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PENNYREEL_DEVICES", "RTX:24:GB")
    assert run(["devices"]) == 0
    assert "note: devices (PENNYREEL_DEVICES) is passed over" in capsys.readouterr().err


class TestComfyui:
    """A real server on loopback answers /system_stats."""

    def told(self, capsys: pytest.CaptureFixture[str]) -> Any:
        assert run(["devices", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def test_its_gpu_is_in_the_list(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        body = {"system": {}, "devices": COMFY["rtx_3090"]["devices"]}
        with server(lambda: (200, body)) as (url, _):
            monkeypatch.setenv("PENNYREEL_COMFYUI_URL", url)
            told = self.told(capsys)
        (mine,) = (d for d in told["devices"] if d["comfyui"])
        assert (mine["name"], mine["source"]) == ("NVIDIA GeForce RTX 3090", "comfyui")
        assert mine["memory_total_bytes"] == 25769148416

    def test_its_key_goes_to_it_and_into_nothing_else(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("PENNYREEL_COMFYUI_AUTH", "Bearer canary-4711")
        with server(lambda: (401, {})) as (url, seen):
            monkeypatch.setenv("PENNYREEL_COMFYUI_URL", url)
            told = self.told(capsys)
        assert [headers["Authorization"] for headers in seen] == ["Bearer canary-4711"]
        assert [p for p in told["problems"] if p.startswith("comfyui: ") and "401" in p]
        assert "canary" not in json.dumps(told)

    def test_one_that_hangs_is_left_behind(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        leave = threading.Event()

        def hang() -> tuple[int, object]:
            leave.wait(30)
            return 200, {"system": {}, "devices": []}

        with server(hang) as (url, seen):
            monkeypatch.setenv("PENNYREEL_COMFYUI_URL", url)
            told = self.told(capsys)
            leave.set()
        assert seen
        assert told["took_s"] < 2
        assert [p for p in told["problems"] if p.startswith("comfyui")]
        assert not [d for d in told["devices"] if d["comfyui"]]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child")
def test_watching_prints_a_line_a_look_until_ctrl_c() -> None:
    command = [sys.executable, "-m", "pennyreel", "devices", "--watch", "--json"]
    child = subprocess.Popen([*command, "--interval", "0.2"], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        looks = [json.loads(child.stdout.readline()) for _ in range(3)]
        child.send_signal(signal.SIGINT)
        assert child.wait(15) == 0
    finally:
        child.kill()
        child.wait(15)
        if child.stdout is not None:
            child.stdout.close()
    assert all(look["took_s"] < 2 for look in looks)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals of this kind")
def test_on_a_terminal_it_is_drawn_in_place() -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "pennyreel", "devices", "--watch", "--interval", "0.2"]
    env = {**os.environ, "PENNYREEL_DEVICES": "RTX 3090:24GB", "TERM": "xterm", "COLUMNS": "100"}
    child = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    seen = b""
    try:
        # The second drawing goes back up over the first.
        while b"\x1b[1A" not in seen or seen.count(b"RTX 3090") < 2:
            seen += os.read(ours, 4096)
        child.send_signal(signal.SIGINT)
        assert child.wait(15) == 0
    finally:
        child.kill()
        child.wait(15)
        os.close(ours)
