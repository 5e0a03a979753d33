"""What the commands of the router print: for a person, for a program, for a mistake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.routing.conftest import Ran, spooled
from client.support import GRAPH
from fakes.comfyui import FakeComfy
from pennyreel.money.caps import Scope
from pennyreel.money.ledger import Ledger
from pennyreel.routing.machine import Ask
from pennyreel_emulators.replicate import Behaviour, ReplicatePlatform

Cli = Callable[..., Ran]
HOSTED = ("generate", "a paper boat", "--backend", "replicate", "--max-cost", "0.10")
SIMULATED = ("generate", "a paper boat", "--backend", "simulated")


@pytest.fixture
def done(cli: Cli, ledger: Ledger) -> str:
    """A job that is done."""
    assert cli(*SIMULATED).code == 0
    return ledger.jobs()[0].job_id


@pytest.fixture
def failed(cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> str:
    """A job that failed in its run."""
    monkeypatch.setenv("PENNYREEL_SIMULATED", "fail=1")
    assert cli(*SIMULATED).code == 3
    return ledger.jobs()[0].job_id


def test_without_gpu_and_key_the_ways_are_told_once_and_cheapest_first(cli: Cli) -> None:
    ran = cli("generate", "a paper boat")
    assert ran.code == 4
    lines = ran.err.splitlines()
    assert lines[0] == "error[not_configured]: nothing here can make it yet"
    assert "cheapest first" in lines[1]
    assert "pennyreel setup animatediff-v3 (installs ComfyUI, 2 node packs, 2 models: " in lines[2]
    assert "--allow-slow" in lines[2]
    assert "5.56 h" in lines[2] or " h" in lines[2], "it says how long that takes"
    assert [w for w in ("deposit", "set-up", "a clip") if w in lines[3]]
    ways = [line.strip() for line in lines[4:-1]]
    assert ways[0].startswith("free")
    assert ways[-1].startswith("unknown")
    assert len(ways) == len(set(ways)) >= 5
    assert lines[-1].strip().startswith("what each lacks: pennyreel why ")
    for key in ("REPLICATE_API_TOKEN", "GEMINI_API_KEY", "HF_TOKEN"):
        assert ran.err.count(key) == 1
    told = cli("why", lines[-1].split()[-1])
    assert told.code == 0
    assert "no RunPod API key is set" in told.out


def test_a_quote_says_nothing_twice(cli: Cli) -> None:
    ran = cli("quote", "a paper boat")
    assert ran.code == 0
    for key in ("REPLICATE_API_TOKEN", "GEMINI_API_KEY", "HF_TOKEN", "RUNPOD_API_KEY"):
        assert ran.out.count(key) == 1, key
    assert ran.out.count("no RunPod API key is set") == 1
    assert "or use another backend" not in ran.out
    assert "no backend can do this job now: 7 unavailable" in ran.out
    body = cli("quote", "a paper boat", "--json").json
    assert body["outcome"] == "none"
    assert {c["backend"] for c in body["candidates"]} >= {"comfyui", "runpod", "replicate"}


def test_who_wants_one_backend_is_told_of_that_alone(cli: Cli) -> None:
    ran = cli(*HOSTED)
    assert ran.code == 4
    assert "REPLICATE_API_TOKEN" in ran.err
    assert "GEMINI_API_KEY" not in ran.err


def test_a_price_above_the_limit_names_the_flag_that_allows_it(
    cli: Cli, replicate: ReplicatePlatform, ledger: Ledger
) -> None:
    ran = cli("generate", "a boat", "--backend", "replicate", "--json")
    assert ran.code == 2
    problem = ran.json["error"]
    assert problem["code"] == "consent_required"
    assert problem["detail"]["decision"]["candidates"]
    flag = problem["hint"].split("Allow it: ")[1].split("  ")[0].split()
    assert flag[0] == "--max-cost"
    assert cli("generate", "a boat", "--backend", "replicate", *flag).code == 0
    first, second = sorted(ledger.jobs(), key=lambda j: j.created_ms)
    assert (first.outcome, second.outcome) == ("consent_required", "done")
    assert first.attempts == ()


def test_a_budget_that_is_spent_names_its_scope_and_when_it_resets(
    cli: Cli, replicate: ReplicatePlatform, ledger: Ledger
) -> None:
    ledger.set_budget(Scope.parse("backend:replicate"), "day", 1000)
    ran = cli(*HOSTED)
    assert ran.code == 5, ran.err
    assert "error[budget_exceeded]" in ran.err
    assert "backend:replicate" in ran.err
    assert "pennyreel budget set backend:replicate --day" in ran.err
    assert "T00:00" in cli("why", ledger.jobs()[0].job_id).out + ran.err, "when it resets"


def test_generate_tells_its_course_and_prints_paths(cli: Cli, out: Path) -> None:
    ran = cli(*SIMULATED)
    (line,) = ran.out.splitlines()
    assert Path(line).parent == out
    told = ran.err.splitlines()
    assert told[0].startswith("goes to simulated:here: ")
    assert told[1].startswith("submitted simulated:here/")
    assert len([t for t in told if "SIMULATED" in t]) == 1


def test_the_list_shows_each_job_once_and_can_be_narrowed(cli: Cli, done: str, failed: str) -> None:
    ran = cli("jobs", "list")
    rows = ran.out.splitlines()
    assert rows[0].split() == ["job", "created", "state", "where", "what", "cost"]
    assert sorted(row.split()[0] for row in rows[1:]) == sorted([done[:12], failed[:12]])
    assert [
        j["job_id"] for j in cli("jobs", "list", "--state", "failed", "--json").json["jobs"]
    ] == [failed]
    assert len(cli("jobs", "list", "--limit", 1, "--json").json["jobs"]) == 1
    assert cli("jobs", "list", "--state", "nonsense").code == 2


def test_an_empty_list_says_what_makes_a_job(cli: Cli) -> None:
    ran = cli("jobs", "list")
    assert (ran.code, ran.out) == (0, "")
    assert ran.err == 'no jobs yet: pennyreel generate "a paper boat"\n'
    assert cli("jobs", "list", "--state", "open").err == "no job is open\n"
    assert cli("jobs", "list", "--json").json == {"jobs": []}


def test_who_is_to_send_a_job_again_is_told_the_command(
    cli: Cli, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "fail=1")
    ran = cli(*SIMULATED)
    again = f"pennyreel jobs retry {ledger.jobs()[0].job_id[:12]}"
    assert f"Send it again: {again}" in ran.err
    assert again in cli("jobs", "show", ledger.jobs()[0].job_id).err
    monkeypatch.delenv("PENNYREEL_SIMULATED")
    assert cli(*again.split()[1:]).code == 0


def test_show_tells_attempts_money_and_why(cli: Cli, failed: str) -> None:
    ran = cli("jobs", "show", failed[:8])
    assert ran.code == 0
    assert failed in ran.out
    assert "simulated:here: the simulated job ended: execution_failed" in ran.out
    body = cli("jobs", "show", failed, "--json").json
    assert body["state"] == "failed"
    assert body["decision"]["chosen"] == "simulated:here"
    assert [a["code"] for a in body["attempts"]] == ["execution_failed"]


@pytest.mark.parametrize("words", [["show"], ["resume"], ["cancel"], ["fetch"], ["retry"]])
@pytest.mark.parametrize("job", ["nonsense", "", "%", "../x"])
def test_a_job_that_is_none_is_told(words: list[str], job: str, cli: Cli, done: str) -> None:
    ran = cli("jobs", *words, job, "--json")
    assert ran.code == 2
    assert "there is no such job" in ran.json["error"]["message"]
    assert ran.json["error"]["hint"] == "See: pennyreel jobs list"


def test_what_has_ended_is_neither_resumed_nor_cancelled_again(cli: Cli, done: str) -> None:
    ran = cli("jobs", "resume", done)
    assert ran.code == 2
    assert f"job {done} has ended: done" in ran.err
    told = cli("jobs", "cancel", done, "--json").json
    assert told == {"job_id": done, "confirmed_stopped": True, "outcome": "done"}
    nothing = cli("jobs", "resume")
    assert (nothing.code, nothing.err) == (0, "no job is open\n")


def test_fetch_gets_the_files_again_where_they_were_to_go(
    cli: Cli, done: str, out: Path, tmp_path: Path
) -> None:
    (first,) = out.iterdir()
    first.unlink()
    ran = cli("jobs", "fetch", done, "--json")
    assert ran.code == 0, ran.err
    assert Path(ran.json["artifacts"][0]["path"]).exists()
    there = cli("jobs", "fetch", done, "-o", tmp_path / "there")
    assert Path(there.out.strip()).parent == tmp_path / "there"


def test_of_what_made_nothing_nothing_is_fetched(cli: Cli, failed: str) -> None:
    refused = cli("jobs", "fetch", failed)
    assert refused.code == 2
    assert f"pennyreel jobs show {failed[:12]}" in refused.err


def test_files_that_cannot_be_saved_are_fetched_later_and_not_paid_again(
    cli: Cli, ledger: Ledger, out: Path, home: Path
) -> None:
    out.write_text("a file where a folder should be")
    ran = cli(*SIMULATED)
    assert ran.code == 3, ran.err
    job = ledger.jobs()[0]
    assert f"pennyreel jobs fetch {job.job_id}" in ran.err
    assert (job.state, job.reserved) == ("failed", 0)
    assert spooled(home) == [".json"], "its request is kept"
    assert f"pennyreel jobs fetch {job.job_id[:12]}" in cli("jobs", "show", job.job_id).err
    out.unlink()
    again = cli("jobs", "fetch", job.job_id)
    assert again.code == 0, again.err
    assert Path(again.out.strip()).parent == out
    assert ledger.job(job.job_id).outcome == "done"
    assert len(ledger.job(job.job_id).attempts) == 1
    assert spooled(home) == []


def test_a_retry_is_a_new_job_by_the_same_terms(
    cli: Cli, failed: str, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.delenv("PENNYREEL_SIMULATED")
    ran = cli("jobs", "retry", failed, "--json", "--project", "second")
    assert ran.code == 0, ran.err
    assert ran.json["backend"] == "simulated", "as the first was told to"
    assert ran.json["job_id"] != failed
    assert ledger.job(ran.json["job_id"]).project == "second"
    assert ledger.job(failed).state == "failed"


def test_a_deadline_that_passes_before_anything_is_sent_sends_nothing(
    cli: Cli, replicate: ReplicatePlatform, ledger: Ledger
) -> None:
    ran = cli(*HOSTED, "--timeout", "0.0001", "--json")
    assert ran.code == 6, ran.err
    assert ran.json["error"]["detail"]["confirmed_stopped"] is True
    (job,) = ledger.jobs()
    assert (job.spent, job.reserved) == (0, 0)
    assert not [r for r in replicate.requests if r.method == "POST"]


def test_a_deadline_stops_what_runs(cli: Cli, replicate: ReplicatePlatform, ledger: Ledger) -> None:
    replicate.configure(behaviour=Behaviour(hangs=True))
    ran = cli(*HOSTED, "--timeout", "1.5", "--json")
    assert ran.code == 6, ran.err
    assert ran.json["error"]["code"] == "timeout"
    assert ran.json["error"]["detail"]["confirmed_stopped"] is True
    assert ledger.jobs()[0].reserved == 0


def test_a_persons_no_is_asked_for_once_and_kept_to(
    cli: Cli, replicate: ReplicatePlatform, monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    asked: list[Ask] = []

    def no(question: Ask) -> bool:
        asked.append(question)
        return False

    monkeypatch.setattr("pennyreel.cli.generate.asker", lambda **_: no)
    ran = cli("generate", "a boat", "--backend", "replicate")
    assert ran.code == 2
    assert "error[consent_required]" in ran.err
    assert len(asked) == 1
    assert "nothing runs without a yes" not in ran.err.splitlines()[0]
    assert ledger.jobs()[0].attempts == ()


def test_run_of_a_workflow_is_booked_and_timed(
    cli: Cli, comfy: FakeComfy, tmp_path: Path, ledger: Ledger
) -> None:
    file = tmp_path / "graph.json"
    file.write_text(json.dumps(GRAPH))
    body: Any = cli("run", file, "--json").json
    stages = ("queue", "execute", "fetch")
    assert body["timings"]["total"] == pytest.approx(
        sum(body["timings"][name] for name in stages), abs=0.01
    )
    assert body["cost_microusd"] == 0
    (job,) = ledger.jobs()
    assert job.outcome == "done"
    assert job.job_id == body["job_id"]
    again = cli("quote", file)
    assert again.code == 0
    assert "it would go to comfyui" in again.out
