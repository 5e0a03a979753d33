"""`pennyreel batch`: a file of wishes, done once each, however often it is started."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from client.commands import Cli, called
from client.support import WRONG
from fakes.waits import eventually
from pennyreel import Client
from pennyreel.cli._batchfile import STATE
from pennyreel.cli.app import run
from pennyreel.dispatch import Dispatch
from pennyreel.money.caps import Scope

PROMPT = "a boat with CANARY sails"
PROGRAM = "import sys; from pennyreel.cli.app import run; sys.exit(run())"
SIMULATED = ("--backend", "simulated")


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`cli(text, *options)`: a batch of that file, on the simulated backend."""
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=0.02")
    head = ("batch", "-", "--backend", "simulated")
    return lambda text, *args: called(capsys, *head, *args, stdin=text)


def jobs() -> list[Any]:
    with Client() as client:
        return client.dispatch.ledger.jobs()


THREE = f'{PROMPT}\n\n{{"prompt": "a cat", "kind": "image", "seed": 3}}\n{PROMPT}\n'


def test_each_line_becomes_files_whose_paths_are_printed(cli: Cli, out: Path) -> None:
    ran = cli(THREE)
    assert ran.code == 0
    paths = [Path(line) for line in ran.out.splitlines()]
    assert sorted(p.suffix for p in paths) == [".gif", ".gif", ".png"]
    assert all(p.is_file() and p.parent == out for p in paths)
    assert "3 done; free" in ran.err


def test_what_is_done_is_not_done_again_and_new_lines_are(cli: Cli) -> None:
    cli(THREE)
    again = cli(THREE + "a dog\n", "--json", "--max-cost", "0.02")
    assert again.code == 0
    assert [(r["line"], r["before"]) for r in again.json["results"]] == [
        (1, True), (3, True), (4, True), (5, False),
    ]  # fmt: skip
    assert again.json["results"][0]["paths"]
    assert len(jobs()) == 4
    cli(THREE, "--again")
    assert len(jobs()) == 7


def test_a_line_with_other_wishes_is_another_line(cli: Cli) -> None:
    cli(PROMPT)
    cli(PROMPT, "--seed", "7")
    cli(PROMPT, "--seed", "7")
    assert len(jobs()) == 2


def test_the_state_file_has_no_prompt(cli: Cli, out: Path) -> None:
    cli(THREE)
    assert "CANARY" not in (out / STATE).read_text()
    assert len((out / STATE).read_text().splitlines()) == 6


def test_failed_lines_are_tried_again_and_the_exit_code_says_that_there_were_some(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "fail=1")
    ran = cli(THREE)
    assert ran.code == 3
    assert "line 3: error[execution_failed]" in ran.err
    assert "0 done, 3 failed" in ran.err
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=0.02")
    ran = cli(THREE, "--json")
    assert (ran.code, ran.json["done"], ran.json["failed"]) == (0, 3, 0)


def test_what_may_be_paid_for_is_not_sent_again_by_itself(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "hang=1")
    cli(PROMPT, "--timeout", "0.2")  # ended for certain: may be sent again
    (first,) = jobs()
    state = next(Path.cwd().rglob(STATE))
    word = json.loads(state.read_text().splitlines()[-1])
    assert (word["state"], word["code"]) == ("failed", "timeout")
    state.write_text(json.dumps({**word, "code": "unknown_outcome"}) + "\n")
    ran = cli(PROMPT)
    assert ran.code == 7
    assert f"pennyreel jobs show {first.job_id}" in ran.err
    assert len(jobs()) == 1
    state.write_text(json.dumps({**word, "state": "started", "job_id": "elsewhere"}) + "\n")
    assert cli(PROMPT).code == 7
    assert len(jobs()) == 1


def test_json_lines_name_the_line_of_each_event(cli: Cli) -> None:
    lines = [json.loads(line) for line in cli(THREE, "--json-lines").out.splitlines()]
    assert {line["line"] for line in lines[:-1]} == {1, 3, 4}
    ends = [line for line in lines if line["event"] == "line_ended"]
    assert [e["outcome"] for e in ends] == ["done"] * 3
    assert lines[-1] == {"event": "batch_ended", "done": 3, "failed": 0, "cost_microusd": 0}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"prompt": "x", "sede": 1}', "line 1 has an unknown 'sede'"),
        ('fine\n{"seed": 1}', "line 2 has no prompt"),
        ('fine\n\n{"prompt"', "line 3 begins like a JSON object and is none"),
        ('{"prompt": "x", "out_dir": "/"}', "line 1 has an unknown 'out_dir'"),
    ],
)
def test_a_line_that_is_wrong_is_named_before_anything_is_sent(
    text: str, told: str, cli: Cli
) -> None:
    ran = cli(text)
    assert (ran.code, told in ran.err) == (2, True)
    assert jobs() == []


def test_all_that_is_wrong_in_a_file_is_told_at_once_and_nothing_is_sent(cli: Cli) -> None:
    told = [(name, value, said) for name, value, said in WRONG if name != "width"]
    lines = [json.dumps({"prompt": "x", name: value}) for name, value, _ in told]
    ran = cli("\n".join(["fine", *lines]))
    assert ran.code == 2
    for number, (_, _, said) in enumerate(told, 2):
        assert f"line {number}: {said}" in ran.err
    assert "internal" not in ran.err
    hint = ran.err.partition("next:")[2]
    assert "seconds" in hint
    assert not {"noted,", "ask,"} & set(hint.split()), "what only a program can give is no wish"
    assert jobs() == []


def test_a_line_with_a_value_that_makes_no_sense_is_told_before_anything_is_sent(cli: Cli) -> None:
    ran = cli('fine\n{"prompt": "x", "policy": "cheapets"}\n{"prompt": "x", "seconds": -1}')
    assert ran.code == 2
    assert "line 2: the policy 'cheapets'" in ran.err
    assert "Did you mean cheapest?" in ran.err
    assert "line 3: seconds must be above 0" in ran.err
    assert jobs() == []


def test_a_file_that_is_not_there_or_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"\x89PNG\xff")
    for name in ("none.txt", "x.png"):
        assert run(["batch", str(tmp_path / name)]) == 2


def test_a_budget_that_is_spent_leaves_the_rest_unsent(cli: Cli, home: Path) -> None:
    home.mkdir()
    (home / "prices.toml").write_text("[prices.simulated]\nusd = 0.02\n")
    with Client() as client:
        client.dispatch.ledger.set_budget(Scope("all"), "day", 50_000)
    text = "one\ntwo\nthree\nfour\n"
    ran = cli(text, "--concurrency", "1")
    assert ran.code != 0
    assert "2 done, 2 failed; $0.04" in ran.err
    assert "not sent, as the budget refused a job" in ran.err
    assert len(jobs()) == 3
    with Client() as client:
        client.dispatch.ledger.set_budget(Scope("all"), "day", 1_000_000)
    ran = cli(text, "--json")
    assert (ran.code, ran.json["cost_microusd"]) == (0, 40_000)


def test_a_state_file_that_was_cut_off_is_read_up_to_there(cli: Cli, out: Path) -> None:
    cli(PROMPT)
    state = out / STATE
    state.write_text(state.read_text() + '{"key": "abc", "sta')
    cli(PROMPT + "\nanother")
    assert len(jobs()) == 2
    cli(PROMPT + "\nanother")
    assert len(jobs()) == 2


Begin = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def begin(tmp_path: Path, out: Path) -> Iterator[Begin]:
    """`begin(text)`: a batch in a process of its own, when its two jobs run."""
    opened: list[subprocess.Popen[str]] = []

    def start(text: str) -> subprocess.Popen[str]:
        file = tmp_path / "wishes.txt"
        file.write_text(text)
        opened.append(
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, "batch", str(file), "--json", *SIMULATED],
                env={**os.environ, "PENNYREEL_SIMULATED": "run_s=2.5"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        eventually(lambda: (out / STATE).is_file() and two_lines(out / STATE))
        with Client() as client:
            eventually(lambda: len([a for a in client.dispatch.ledger.open_attempts()
                                    if a.state in {"accepted", "running"}]) == 2)  # fmt: skip
        return opened[-1]

    yield start
    for process in opened:
        process.kill()
        process.communicate()


def two_lines(file: Path) -> bool:
    return file.read_text().count("\n") == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_all_jobs_and_says_so(number: signal.Signals, begin: Begin) -> None:
    started = begin("one\ntwo\n")
    started.send_signal(number)
    out, err = started.communicate(timeout=30)
    assert started.returncode == 130
    assert "interrupted; 2 running jobs were stopped" in err
    assert json.loads(out)["error"]["detail"] == {"stopped": 2, "confirmed_stopped": True}
    assert {job.outcome for job in jobs()} == {"cancelled"}


def test_jobs_of_a_batch_that_was_killed_are_waited_for_not_sent_again(
    cli: Cli, begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = begin("one\ntwo\n")
    started.kill()
    started.communicate(timeout=30)
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=2.5")
    ran = cli("one\ntwo\nthree\n", "--json")
    assert ran.code == 0, ran.err
    assert [r["outcome"] for r in ran.json["results"]] == ["done"] * 3
    assert len(jobs()) == 3
    assert all(len(job.attempts) == 1 for job in jobs())


def test_a_batch_that_ended_before_its_job_was_booked_sends_it_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """As kill -9 is: nothing is tidied up."""

    def killed(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as during:
        during.setattr(Dispatch, "_record", killed)
        with pytest.raises(Killed):
            cli(PROMPT)
    assert jobs() == []
    assert cli(PROMPT).code == 0
    assert [job.outcome for job in jobs()] == ["done"]


def test_two_batches_into_one_folder_do_not_send_twice(cli: Cli, begin: Begin) -> None:
    started = begin("one\ntwo\n")
    ran = cli("one\ntwo\n")
    assert (ran.code, "another batch is saving into" in ran.err) == (2, True)
    started.send_signal(signal.SIGINT)
    started.communicate(timeout=30)
    assert len(jobs()) == 2


def test_a_terminal_has_a_bar_and_stdout_has_paths_alone(tmp_path: Path) -> None:
    import pty

    file = tmp_path / "wishes.txt"
    file.write_text(THREE)
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "batch", str(file), *SIMULATED],
        env={**os.environ, "PENNYREEL_SIMULATED": "run_s=0.2", "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    ) as started:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # Linux's way to say that the other side is closed
            pass
        finally:
            os.close(ours)
        assert started.stdout is not None
        paths = started.stdout.read().splitlines()
    assert started.returncode == 0
    assert b"3/3" in seen
    assert b"3 done" in seen
    assert len(paths) == 3
    assert all(Path(path).is_file() for path in paths)
