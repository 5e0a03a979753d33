"""The command line: what is printed where, and every exit code."""

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

from client.commands import Ran
from client.support import (
    GRAPH,
    KEY,
    LOADING,
    SLEEPING,
    Reply,
    Script,
    Scripted,
    Worker,
    artifact,
    until,
)
from fakes.comfyui import PNG, FakeComfy
from fakes.ports import dead_port
from pennyreel import Client, localcomfy
from pennyreel.cli.app import COMMANDS
from pennyreel.cli.exits import EXITS, exit_code
from pennyreel.config import load
from pennyreel.money.ledger import Ledger
from pennyreel_contract import Code, error
from pennyreel_emulators.runpod import JobFinished, RunPodPlatform

Servers = Callable[[Script], Scripted]


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """The home's ledger, as another process sees it."""
    with Ledger.open(load()) as opened:
        yield opened


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(GRAPH))
    return path


def test_run_prints_paths_and_nothing_else_on_stdout(
    cli: Callable[..., Ran], comfy: FakeComfy, graph: Path, out: Path
) -> None:
    ran = cli("run", graph)
    assert ran.code == 0
    (line,) = ran.out.splitlines()
    assert Path(line).read_bytes() == PNG
    assert Path(line).parent == out
    assert "submitted comfyui:" in ran.err
    assert "started" in ran.err


def test_run_takes_values_files_a_seed_and_a_folder(
    cli: Callable[..., Ran], comfy: FakeComfy, tmp_path: Path
) -> None:
    (tmp_path / "in.png").write_bytes(PNG)
    (tmp_path / "w.json").write_text(json.dumps({**LOADING, "7": GRAPH["1"]}))
    ran = cli(
        "run", tmp_path / "w.json", "--set", "7.width=99", "--input", f"photo={tmp_path}/in.png",
        "--seed", 5, "-o", tmp_path / "there", "--json",
    )  # fmt: skip
    assert ran.code == 0
    sent = comfy.prompts[0].graph
    assert sent["7"]["inputs"] == {"width": 99, "height": 64, "seed": 5}
    assert sent["1"]["inputs"]["image"].endswith("/in.png")
    assert Path(ran.json["artifacts"][0]["path"]).parent == tmp_path / "there"


def test_json_is_one_object(cli: Callable[..., Ran], comfy: FakeComfy, graph: Path) -> None:
    ran = cli("run", graph, "--json")
    assert ran.err == ""
    assert set(ran.json) >= {
        "job_id", "backend", "handle", "artifacts", "timings", "attempts", "warnings"
    }  # fmt: skip
    assert Path(ran.json["artifacts"][0]["path"]).is_absolute()


def test_json_lines_are_events_and_last_the_result(
    cli: Callable[..., Ran], comfy: FakeComfy, graph: Path
) -> None:
    ran = cli("run", graph, "--json-lines")
    lines = [json.loads(line) for line in ran.out.splitlines()]
    kinds = [line["event"] for line in lines]
    assert kinds[:2] == ["chosen", "submitted"]
    assert kinds[-3:] == ["artifact_saved", "finished", "result"]
    assert lines[-1]["artifacts"]


def test_errors_are_two_lines_on_stderr_and_an_object_on_stdout_with_json(
    cli: Callable[..., Ran], graph: Path
) -> None:
    ran = cli("run", graph, "--set", "9.x=1")
    first, second = ran.err.splitlines()
    assert first.startswith("error[bad_workflow]: ")
    assert second.startswith("  next: ")
    assert ran.out == ""
    assert cli("run", graph, "--set", "9.x=1", "--json").json["error"]["code"] == "bad_workflow"
    lines = cli("run", graph, "--set", "9.x=1", "--json-lines").out.splitlines()
    assert json.loads(lines[-1])["event"] == "error"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["run"], 2),
        (["run", "x.json", "--nonsense"], 2),
        (["nonsense"], 2),
        ([], 2),
        (["run", "missing.json"], 2),
        (["run", "hello-video", "--param", "noequals"], 2),
        (["run", "hello-video"], 4),
        (["run", "hello-video", "--backend", "runpod"], 4),
        (["run", "hello-video", "--backend", "comfyui"], 4),
        (["result", "nonsense"], 2),
        (["doctor"], 4),
        (["comfyui", "start"], 4),
        (["comfyui", "logs"], 4),
        (["comfyui", "install", "--device", "gpu", "--dry-run"], 2),
        (["comfyui", "install", "--source", "nowhere", "--dry-run"], 2),
        (["--help"], 0),
        (["run", "--help"], 0),
        (["--version"], 0),
        (["backends"], 0),
        (["templates"], 0),
        (["comfyui", "stop"], 0),
        (["comfyui", "status"], 0),
        (["comfyui", "uninstall", "--yes"], 0),
    ],
)
def test_exit_codes_of_what_needs_no_server(
    args: list[str], code: int, cli: Callable[..., Ran]
) -> None:
    ran = cli(*args)
    assert ran.code == code, ran.err
    assert "Traceback" not in ran.err


def test_a_wrong_option_is_told_as_json_too(cli: Callable[..., Ran]) -> None:
    ran = cli("run", "x.json", "--seed", "many", "--json")
    assert ran.code == 2
    assert "--seed" in ran.json["error"]["message"]


def test_a_failed_job_exits_3(cli: Callable[..., Ran], comfy: FakeComfy, graph: Path) -> None:
    graph.write_text(json.dumps({"1": {"class_type": "FakeError", "inputs": {}}}))
    assert cli("run", graph).code == 3


def test_a_deadline_exits_6(cli: Callable[..., Ran], comfy: FakeComfy, graph: Path) -> None:
    graph.write_text(json.dumps(SLEEPING))
    ran = cli("run", graph, "--timeout", "0.2")
    assert ran.code == 6
    until(lambda: comfy.running is None)


def test_an_unknown_outcome_exits_7(
    cli: Callable[..., Ran], scripted: Servers, graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "ep")
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", f"{scripted(lambda _: None).url}/v2")
    assert cli("run", graph, "--backend", "runpod").code == 2, "its price is not known"
    assert cli("run", graph, "--backend", "runpod", "--allow-unknown-price").code == 7


def test_a_bug_exits_1_in_one_line_and_shows_its_traceback_when_asked(
    cli: Callable[..., Ran], graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(Client, "submit", broken)
    ran = cli("run", graph, "--json")
    assert ran.code == 1
    assert "ZeroDivisionError" in ran.err
    assert "oops" not in ran.err  # an exception's words may quote a key
    assert "PENNYREEL_DEBUG=1" in ran.err
    assert "Traceback" not in ran.err
    assert ran.json["error"]["code"] == "internal"
    monkeypatch.setenv("PENNYREEL_DEBUG", "1")
    told = cli("run", graph).err
    assert "Traceback" in told
    assert "ZeroDivisionError: oops" in told


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_cancels_confirms_and_exits_130(
    number: signal.Signals, comfy: FakeComfy, graph: Path, out: Path
) -> None:
    graph.write_text(json.dumps(SLEEPING))
    command = [sys.executable, "-m", "pennyreel", "run", str(graph)]
    with subprocess.Popen(command, stdout=-1, stderr=-1, text=True) as child:
        until(lambda: comfy.running)
        assert child.stderr is not None
        seen = ""
        while "started" not in seen:
            seen = child.stderr.readline()
        child.send_signal(number)
        printed, said = child.communicate(timeout=30)
    assert child.returncode == 130
    assert printed == ""
    assert "error[cancelled]: interrupted; the job was stopped" in said
    assert "Traceback" not in said
    until(lambda: comfy.running is None)
    assert not out.exists() or not list(out.iterdir())


RUNPOD = ("--backend", "runpod", "--allow-unknown-price")


def test_a_job_left_by_no_wait_is_fetched_by_its_handle_and_by_its_id(
    cli: Callable[..., Ran],
    platform: RunPodPlatform,
    worker: Worker,
    graph: Path,
    ledger: Ledger,
) -> None:
    left = cli("run", graph, "--no-wait", *RUNPOD)
    handle = left.out.strip()
    (job,) = ledger.jobs()
    assert left.err.splitlines()[-1] == (
        f"job {job.job_id}: fetch it with: pennyreel result {job.job_id[:12]}"
    )
    assert [a.handle for a in job.attempts] == [handle]
    worker.succeed(worker.take(), artifact("a.png", b"x"))
    for name in (handle, job.job_id, job.job_id[:10]):
        ran = cli("result", name)
        assert ran.code == 0, ran.err
        assert Path(ran.out.strip()).read_bytes() == b"x"
        done = ledger.job(job.job_id)
        assert (done.outcome, done.reserved) == ("done", 0)
        assert [e.kind for e in ledger.entries(done.attempts[0].attempt_id)] == [
            "reserve", "settle"
        ], "it is booked once"  # fmt: skip


def test_no_wait_has_json_of_both_kinds(
    cli: Callable[..., Ran], platform: RunPodPlatform, graph: Path, ledger: Ledger
) -> None:
    told = cli("run", graph, "--no-wait", "--json", *RUNPOD)
    assert told.json == {
        "job_id": ledger.jobs()[0].job_id,
        "handle": ledger.open_attempts()[0].handle,
    }
    lines = cli("run", graph, "--no-wait", "--json-lines", *RUNPOD).out.splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events[:2] == ["chosen", "submitted"]
    assert events[-2:] == ["detached", "left"]


def test_no_wait_sends_nothing_where_the_budget_has_nothing_left(
    cli: Callable[..., Ran], platform: RunPodPlatform, graph: Path, ledger: Ledger
) -> None:
    assert cli("budget", "set", "all", "--day", "0").code == 0
    ran = cli("run", graph, "--no-wait", "--json", *RUNPOD)
    assert ran.code != 0
    assert ran.json["error"]["code"] == "budget_exceeded", ran.err
    assert not platform.events
    assert ledger.open_attempts() == []


def test_cancel_by_its_handle_stops_a_job_and_books_its_end(
    cli: Callable[..., Ran], platform: RunPodPlatform, graph: Path, ledger: Ledger
) -> None:
    handle = cli("run", graph, "--no-wait", "--json", *RUNPOD).json["handle"]
    assert cli("cancel", handle, "--json").json == {"handle": handle, "stopped": True}
    assert [e.status for e in platform.events if isinstance(e, JobFinished)] == ["CANCELLED"]
    (job,) = ledger.jobs()
    assert (job.outcome, job.reserved) == ("cancelled", 0)
    assert ledger.open_attempts() == []
    assert cli("cancel", job.job_id).out == "stopped\n", "twice is once"
    gone = cli("result", handle)
    assert gone.code != 0
    assert "Traceback" not in gone.err


def test_result_by_the_id_of_a_job_that_made_nothing_says_so(
    cli: Callable[..., Ran], comfy: FakeComfy, graph: Path, ledger: Ledger
) -> None:
    graph.write_text(json.dumps({"1": {"class_type": "FakeError", "inputs": {}}}))
    assert cli("run", graph).code == 3
    (job,) = ledger.jobs()
    ran = cli("result", job.job_id)
    assert ran.code == 2
    assert "has made nothing" in ran.err


def test_doctor_is_well_when_one_backend_can_run_a_job(
    cli: Callable[..., Ran], comfy: FakeComfy
) -> None:
    ran = cli("doctor")
    assert ran.code == 0
    assert "jobs can run: comfyui runs workflows and templates" in ran.out
    assert "pennyreel quote" in ran.out
    body = cli("doctor", "--json").json
    assert body["ready"] is True
    assert {c["name"] for c in body["checks"]} >= {"home", "disk", "comfyui", "runpod", "verdict"}


def test_doctor_names_a_backend_that_can_where_the_chosen_one_cannot(
    cli: Callable[..., Ran], comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_BACKEND", "runpod")
    ran = cli("doctor")
    assert ran.code == 0
    assert "but comfyui can run a job" in ran.out


def test_doctor_says_that_a_dev_stack_alone_has_to_be_named(
    cli: Callable[..., Ran],
    platform: RunPodPlatform,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RUNPOD_API_KEY")
    home.mkdir()
    stack = {"base_url": platform.base_url, "endpoint": "ep", "api_key": KEY, "pid": 1}
    (home / "dev.json").write_text(json.dumps(stack))
    ran = cli("doctor")
    assert ran.code == 0
    assert "only the dev stack answers" in ran.out
    assert "--backend dev" in ran.out
    monkeypatch.setenv("PENNYREEL_BACKEND", "dev")
    assert "jobs go to dev alone, as it is configured, and it can run one" in cli("doctor").out


def test_a_backend_that_does_not_exist_is_told(
    cli: Callable[..., Ran], comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_BACKEND", "runpd")
    ran = cli("backends")
    assert "there is no backend 'runpd'" in ran.err
    assert "Did you mean runpod?" in ran.err


def test_ctrl_c_ends_a_followed_log_and_an_installation_in_their_own_ways(
    cli: Callable[..., Ran], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    log = localcomfy.log_file(home / "comfyui")
    log.parent.mkdir(parents=True)
    log.write_text("a line\n")
    monkeypatch.setattr("pennyreel.cli.comfyui.time.sleep", stop)
    ran = cli("comfyui", "logs", "-f")
    assert (ran.code, ran.out, ran.err) == (0, "a line\n", "")
    monkeypatch.setattr("pennyreel_comfy.install.install", stop)
    ran = cli("comfyui", "install")
    assert ran.code == 130
    assert "Run it again: it resumes." in ran.err


def test_doctor_s_failing_lines_say_what_to_do_and_it_makes_nothing(
    cli: Callable[..., Ran], home: Path
) -> None:
    body = cli("doctor", "--json").json
    assert body["ready"] is False
    assert all(c["next"] for c in body["checks"] if c["state"] != "ok")
    assert not home.exists()


def test_doctor_asks_runpod_when_it_is_configured(
    cli: Callable[..., Ran], platform: RunPodPlatform
) -> None:
    ran = cli("doctor")
    assert ran.code == 0
    assert "endpoint ep: no worker yet" in ran.out


def test_doctor_warns_where_results_go_before_a_job_is_resumed(
    cli: Callable[..., Ran], platform: RunPodPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "keeps results for 30 minutes" in cli("doctor").out
    monkeypatch.setenv("PENNYREEL_S3_BUCKET", "results")
    assert "keeps results" not in cli("doctor").out
    monkeypatch.setenv("REPLICATE_API_TOKEN", "r8_made_up")
    monkeypatch.setenv("REPLICATE_BASE_URL", "http://127.0.0.1:9/v1")
    assert "Replicate keeps results for an hour" in cli("doctor").out


def test_doctor_has_a_line_for_each_hosted_backend_with_a_key_and_none_for_others(
    cli: Callable[..., Ran],
    scripted: Callable[[Script], Scripted],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keyed = {"replicate", "gemini", "veo", "veo-fast", "huggingface"}

    def told() -> dict[str, Any]:
        checks = cli("doctor", "--json").json["checks"]
        return {c["name"]: c for c in checks if c["name"] in keyed}

    assert told() == {}
    dead = f"http://127.0.0.1:{dead_port()}"
    for name in ("GOOGLE_GEMINI_BASE_URL", "HF_ENDPOINT", "PENNYREEL_HF_ROUTER_URL"):
        monkeypatch.setenv(name, dead)
    monkeypatch.setenv("GOOGLE_VERTEX_BASE_URL", dead)
    monkeypatch.setenv("GEMINI_API_KEY", "key")
    assert set(told()) == {"gemini"}
    monkeypatch.setenv("HF_TOKEN", "hf_key")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "project-1")
    monkeypatch.setenv("PENNYREEL_VERTEX_TOKEN", "ya29.key")
    found = told()
    assert set(found) == keyed - {"replicate"}
    assert all(c["state"] == "no" and c["detail"] and c["next"] for c in found.values())
    answers = scripted(lambda _: Reply(body={"name": "models/x", "id": "x"}))
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", answers.url)
    assert told()["gemini"]["state"] == "ok"


def test_backends_and_templates_have_json(cli: Callable[..., Ran], comfy: FakeComfy) -> None:
    body = cli("backends", "--json").json
    (ours,) = [b for b in body["backends"] if b["backend"] == "comfyui"]
    assert ours["runs"] == ["workflows", "templates"]
    assert all(b["runs"] == [] for b in body["backends"] if not b["reachable"])
    assert body["configured"] is None
    assert "hello-video" in [t["name"] for t in cli("templates", "--json").json["templates"]]
    assert cli("templates", "hello-video", "--json").json["parameters"]
    assert "seed" in cli("templates", "hello-video").out


def test_help_shows_every_command_and_every_exit_code(cli: Callable[..., Ran]) -> None:
    text = cli("--help").out
    for name in COMMANDS:
        assert f"  {name} " in text
    for entry in EXITS:
        assert f"  {entry.code} " in text
        assert entry.meaning in text


@pytest.mark.parametrize(
    ("code", "exit_"),
    [
        (Code.BAD_REQUEST, 2), (Code.EXECUTION_FAILED, 3), (Code.NOT_INSTALLED, 4),
        (Code.RATE_LIMITED, 5), (Code.TIMEOUT, 6), (Code.UNKNOWN_OUTCOME, 7), (Code.CANCELLED, 130),
        (Code.INTERNAL, 1),
    ],
)  # fmt: skip
def test_each_kind_of_error_has_its_exit_code(code: Code, exit_: int) -> None:
    assert exit_code(error(code, "x")) == exit_
    assert exit_code(ValueError()) == 1


def test_python_dash_m_is_the_same_program(comfy: FakeComfy, graph: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pennyreel", "run", str(graph), "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout)["backend"] == "comfyui"
