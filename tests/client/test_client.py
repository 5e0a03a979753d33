"""Where a job goes, and what is on disk when."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.support import GRAPH, KEY, Reply, Request, Script, Scripted, until
from fakes.comfyui import FakeComfy
from pennyreel import (
    BadRequest,
    Client,
    JobTimeout,
    OutcomeUnknown,
    SetupNeeded,
    Warned,
    localcomfy,
)
from pennyreel.journal import Journal
from pennyreel_emulators.runpod import RunPodPlatform

Servers = Callable[[Script], Scripted]


def entries(home: Path) -> list[dict[str, Any]]:
    return [json.loads(p.read_text()) for p in (home / "jobs").glob("*.json")]


def runpod_at(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "ep")
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", f"{server.url}/v2")


def test_the_intent_is_on_disk_when_the_request_arrives(
    scripted: Servers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[dict[str, Any]] = []

    def script(request: Request) -> Reply:
        if request.path.endswith("/run"):
            found.extend(entries(home))
            assert found[0]["attempt_id"] == request.json["input"]["attempt_id"]
        return Reply(body={"id": "job-1"})

    runpod_at(scripted(script), monkeypatch)
    with Client(backend="runpod") as client:
        job = client.submit(GRAPH)
    assert [e["state"] for e in found] == ["intent"]
    (entry,) = entries(home)
    assert (entry["state"], entry["handle"]) == ("submitted", str(job.handle))
    assert KEY not in json.dumps(entry)


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_process_killed_in_mid_submit_leaves_its_intent(
    scripted: Servers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child: list[subprocess.Popen[bytes]] = []

    def script(request: Request) -> Reply | None:
        until(lambda: child)
        child[0].send_signal(signal.SIGKILL)
        child[0].wait(10)
        return None

    server = scripted(script)
    runpod_at(server, monkeypatch)
    program = f"import pennyreel; pennyreel.Client(backend='runpod').submit({GRAPH!r})"
    child.append(subprocess.Popen([sys.executable, "-c", program]))
    assert child[0].wait(30) == -signal.SIGKILL
    (entry,) = entries(home)
    assert entry["state"] == "intent"
    assert entry["attempt_id"] == server.requests[0].json["input"]["attempt_id"]


def test_an_unknown_outcome_and_a_refusal_are_written_down(
    scripted: Servers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Reply | None] = [None, Reply(400)]
    server = scripted(lambda _: answers.pop(0))
    runpod_at(server, monkeypatch)
    with Client(backend="runpod") as client:
        with pytest.raises(OutcomeUnknown):
            client.submit(GRAPH)
        with pytest.raises(BadRequest):
            client.submit(GRAPH)
    assert [(e.state, e.code) for e in Journal(home / "jobs").entries()] == [
        ("unknown", "unknown_outcome"),
        ("refused", "bad_request"),
    ]
    assert len(server.requests) == 2


def test_a_bad_request_is_told_before_anything_is_looked_for(home: Path) -> None:
    with pytest.raises(BadRequest):
        Client().run({})
    assert not home.exists()


def test_with_nothing_there_the_ways_are_listed(home: Path) -> None:
    with pytest.raises(SetupNeeded) as caught:
        Client().run(GRAPH)
    for way in ("comfyui install", "PENNYREEL_COMFYUI_URL", "RUNPOD_API_KEY", "pennyreel dev"):
        assert way in caught.value.hint


def test_a_comfyui_that_answers_comes_first(comfy: FakeComfy, platform: RunPodPlatform) -> None:
    with Client() as client:
        assert client.choose().name == "comfyui"
        assert client.choose().caution == ""


def test_runpod_in_place_of_a_configured_comfyui_is_said_aloud(platform: RunPodPlatform) -> None:
    with Client() as client:
        choice = client.choose()
        assert choice.name == "runpod"
        assert "no ComfyUI answers" in choice.caution
        job = client.submit(GRAPH)
        events = job.events()
        next(events)
        assert "no ComfyUI answers" in next(events).text  # type: ignore[union-attr]
        job.cancel()


def test_the_installed_comfyui_is_used_while_it_runs(comfy: FakeComfy, home: Path) -> None:
    root = home / "comfyui"
    root.mkdir(parents=True)
    started = localcomfy.process_started(os.getpid())
    state = {"url": comfy.url, "pid": os.getpid(), "started": started}
    (root / "server.json").write_text(json.dumps(state))
    elsewhere = "http://127.0.0.1:9"
    with Client(comfyui_url=elsewhere) as client:
        assert client.choose().target == comfy.url
        assert client.run(GRAPH).handle.target == comfy.url
        assert [h.target for h in client.backends() if h.reachable] == [comfy.url]
    with Client(backend="comfyui", comfyui_url=elsewhere) as client:
        assert client.choose().target == comfy.url
    (root / "server.json").write_text(json.dumps({**state, "started": "another time"}))
    with pytest.raises(SetupNeeded):
        Client(comfyui_url=elsewhere).choose()


def test_a_dev_stack_comes_last(platform: RunPodPlatform, home: Path) -> None:
    home.mkdir()
    stack = {"base_url": platform.base_url, "endpoint": "ep", "api_key": KEY, "pid": 1}
    (home / "dev.json").write_text(json.dumps(stack))
    with Client() as client:
        assert client.choose().name == "runpod"
    with Client(runpod_endpoint="") as client:
        assert client.choose().name == "dev"


def test_what_is_not_configured_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    for backend, says in (("runpod", "RUNPOD_API_KEY"), ("dev", "pennyreel dev")):
        with pytest.raises(SetupNeeded) as caught:
            Client(backend=backend).run(GRAPH)
        assert says in caught.value.hint
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    with pytest.raises(SetupNeeded) as caught:
        Client(backend="runpod").run(GRAPH)
    assert "RUNPOD_ENDPOINT_ID" in caught.value.hint
    with pytest.raises(BadRequest) as other:
        Client(backend="runpodd").run(GRAPH)
    assert "runpod" in other.value.hint


def test_every_backend_s_health_is_told_and_none_raises(comfy: FakeComfy) -> None:
    with Client() as client:
        found = {h.backend: h for h in client.backends()}
    assert found["comfyui"].reachable
    assert not found["runpod"].reachable
    assert found["runpod"].hint
    assert json.dumps([h.to_json() for h in found.values()])


def test_a_caller_s_names_are_checked() -> None:
    with pytest.raises(SetupNeeded, match="comfy_url"):
        Client(comfy_url="x")
    with pytest.raises(BadRequest):
        Client().handle("nonsense")


def full_after_the_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the disk be full from the second write on."""
    real, written = Journal._write, []

    def write(self: Journal, entry: Any) -> None:
        if written:
            raise OSError(28, "No space left on device")
        written.append(entry)
        real(self, entry)

    monkeypatch.setattr(Journal, "_write", write)


def test_a_job_that_was_sent_and_cannot_be_recorded_is_still_handed_over(
    scripted: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(lambda _: Reply(body={"id": "job-1", "status": "FAILED", "error": "x"}))
    runpod_at(server, monkeypatch)
    full_after_the_intent(monkeypatch)
    with Client(backend="runpod") as client:
        job = client.submit(GRAPH)
        told = [e.text for e in job.events() if isinstance(e, Warned)]
    assert job.handle.remote_id == "job-1"
    assert "was sent" in told[0]
    assert str(job.handle) in told[0]
    assert "the job's end cannot be recorded: No space left" in told[1]
    assert len(server.seen("/run")) == 1


def test_a_full_disk_does_not_replace_what_went_wrong_first(
    scripted: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    runpod_at(scripted(lambda _: None), monkeypatch)
    full_after_the_intent(monkeypatch)
    with Client(backend="runpod") as client, pytest.raises(OutcomeUnknown):
        client.submit(GRAPH)


def test_a_job_that_cannot_be_recorded_beforehand_is_not_sent(
    scripted: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(lambda _: Reply(body={"id": "job-1"}))
    runpod_at(server, monkeypatch)

    def write(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "_write", write)
    with Client(backend="runpod") as client, pytest.raises(SetupNeeded, match="not sent"):
        client.submit(GRAPH)
    assert not server.requests


def test_a_job_whose_time_is_up_before_it_is_sent_is_not_sent(
    scripted: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(lambda _: Reply(429))
    runpod_at(server, monkeypatch)
    with Client(backend="runpod") as client:
        with pytest.raises(JobTimeout, match="nothing was sent"):
            client.submit(GRAPH, timeout_s=1e-6)
        assert not server.requests
        with pytest.raises(JobTimeout, match="nothing was sent"):
            client.submit(GRAPH, timeout_s=0.2)
    assert 1 <= len(server.requests) <= 4
