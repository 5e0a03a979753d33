"""What a person sees while something runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.comfyui import FakeComfy
from pennyreel import (
    Artifact,
    ArtifactSaved,
    Finished,
    Handle,
    Progressed,
    Queued,
    Started,
    Submitted,
    Warned,
)
from pennyreel.cli import common
from pennyreel.cli.app import run
from pennyreel.cli.comfyui import install_reporter
from pennyreel.types import event_json
from pennyreel_comfy.install import Note, StageDone, StageProgress, StageStarted

EVENTS: list[Any] = [
    Submitted(Handle("b", "t", "1", "a")),
    Queued(),
    Started(),
    Progressed(12.5, "executing", "3", "KSampler", 4, 20, 61.2),
    Warned("look [bold]here"),
    ArtifactSaved(Artifact("a.png", "image", "image/png", 3, "0" * 64, Path("/x/a.png"))),
    Finished("done"),
]


def test_without_a_terminal_there_are_plain_lines_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with common.view(quiet=False, json_lines=False) as show:
        for event in EVENTS:
            show(event)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.splitlines() == [
        "submitted b:t/1@a",
        "queued",
        "started",
        " 12% KSampler, step 4/20, about 61 s left",
        "warning: look [bold]here",
    ]


def test_on_a_terminal_there_is_a_bar_and_texts_are_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with common.view(quiet=False, json_lines=False) as show:
        for event in EVENTS:
            show(event)
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "warning: look [bold]here" in seen.err


def test_quiet_still_warns(capsys: pytest.CaptureFixture[str]) -> None:
    with common.view(quiet=True, json_lines=False) as show:
        for event in EVENTS:
            show(event)
    assert capsys.readouterr().err == "warning: look [bold]here\n"


def test_events_as_json_are_named_and_leave_out_what_is_absent() -> None:
    bodies = [event_json(e) for e in EVENTS]
    assert [b["event"] for b in bodies] == [
        "submitted", "queued", "started", "progressed", "warned", "artifact_saved", "finished"
    ]  # fmt: skip
    assert bodies[0] == {"event": "submitted", "handle": "b:t/1@a"}
    assert bodies[5]["artifact"]["path"] == str(Path("/x/a.png").absolute())
    assert "preview" not in bodies[3]


@pytest.mark.parametrize("terminal", [False, True])
def test_an_installation_is_told_either_way(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    with install_reporter() as report:
        report(Note("the CPU build, because no GPU was found"))
        report(StageStarted("torch", 1, 2))
        report(StageProgress("torch", 0.5, "half"))
        report(StageProgress("torch", None, "unknown"))
        report(StageDone("torch", 1.5, skipped=False))
        report(StageDone("venv", 0.0, skipped=True))
    seen = capsys.readouterr()
    assert seen.out == ""
    assert "because no GPU was found" in seen.err
    assert "torch: done in 1.5 s" in seen.err
    assert "venv: was complete" in seen.err


EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\x7f\u202egnp.exe\r"
STEERING = set("\x1b\x07\x9b\x7f\u202e\r")


def test_json_on_a_terminal_steers_nothing_and_says_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    common.echo_json({"told": EVIL, EVIL: ["\u00e9\u6f22"]})
    out = capsys.readouterr().out
    assert not set(out) & STEERING
    assert json.loads(out) == {"told": EVIL, EVIL: ["\u00e9\u6f22"]}
    assert "\u00e9\u6f22" in out, "what steers nothing is as it was"


@pytest.mark.parametrize("terminal", [False, True])
def test_what_a_server_says_of_a_job_steers_no_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal, raising=False)
    saved = Artifact(EVIL, "image", "image/png", 3, "0" * 64, Path("/x"))
    with common.view(quiet=False, json_lines=False) as show:
        for event in (Warned(EVIL), Progressed(1.0, EVIL, "1", EVIL), ArtifactSaved(saved)):
            show(event)
        before = capsys.readouterr()
    told = before.err + capsys.readouterr().err
    assert "gnp.exe" in told
    assert not {"\x9b", "\u202e", "\x07"} & set(told), "rich's own are ESC [ alone"
    assert "]0;owned" not in told.replace("\ufffd]0;owned", "")


def test_a_server_cannot_steer_by_what_it_says_of_itself(
    comfy: FakeComfy, capsys: pytest.CaptureFixture[str]
) -> None:
    comfy.version = f"1.0{EVIL}"
    for command in (["backends"], ["doctor"], ["backends", "--json"]):
        run(command)
        seen = capsys.readouterr()
        assert "gnp.exe" in seen.out + seen.err
        assert not STEERING & set(seen.out + seen.err)
