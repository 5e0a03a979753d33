"""Where a job goes, and what is in the books when."""

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

from client.support import GRAPH, KEY, WRONG, Reply, Request, Script, Scripted, until
from fakes.comfyui import FakeComfy
from pennyreel import (
    BadRequest,
    Client,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    SetupNeeded,
    localcomfy,
)
from pennyreel.config import load
from pennyreel.money.ledger import Ledger
from pennyreel.options import GenerateOptions, RouteOptions
from pennyreel_emulators.runpod import RunPodPlatform

Servers = Callable[[Script], Scripted]
YES = {"allow_unknown_price": True}
"""Nobody knows what a scripted endpoint's GPU costs."""


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    """The home's ledger, as another process sees it."""
    with Ledger.open(load()) as opened:
        yield opened


def runpod_at(server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", KEY)
    monkeypatch.setenv("RUNPOD_ENDPOINT_ID", "ep")
    monkeypatch.setenv("RUNPOD_ENDPOINT_BASE_URL", f"{server.url}/v2")


def test_the_intent_and_its_money_are_in_the_books_when_the_request_arrives(
    scripted: Servers, ledger: Ledger, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Any] = []

    def script(request: Request) -> Reply:
        if request.path.endswith("/run"):
            found.extend(ledger.open_attempts())
            assert found[0].attempt_id == request.json["input"]["attempt_id"]
        return Reply(body={"id": "job-1", "status": "IN_QUEUE"})

    runpod_at(scripted(script), monkeypatch)
    with Client(backend="runpod") as client:
        job = client.submit(GRAPH, **YES)
        job.detach()
        handle = job.accepted(20)
    assert [(a.state, a.reserved) for a in found] == [("sent", 50_000)]
    (attempt,) = ledger.open_attempts()
    assert (attempt.state, attempt.handle) == ("accepted", str(handle))
    assert not (home / "jobs").exists(), "there is one book"


@pytest.mark.parametrize(("name", "value", "told"), WRONG)
def test_a_word_of_a_wrong_kind_is_a_bad_request_of_every_call(
    name: str, value: Any, told: str
) -> None:
    given: dict[str, Any] = {name: value}
    with Client(backend="simulated") as client:
        calls: list[tuple[Any, Callable[[], object]]] = [
            (GenerateOptions, lambda: client.generate("x", **given)),
            (GenerateOptions, lambda: client.start("x", **given)),
            (GenerateOptions, lambda: client.quote("x", **given)),
            (RouteOptions, lambda: client.submit(GRAPH, **given)),
            (RouteOptions, lambda: client.quote_workflow(GRAPH, **given)),
        ]
        for taken, call in calls:
            with pytest.raises(BadRequest) as caught:
                call()
            known = name in taken.__annotations__
            assert (told if known else f"there is no option {name!r}") in str(caught.value)
        assert client.dispatch.ledger.jobs() == []


def test_a_journal_of_a_former_version_is_left_as_it_is(comfy: FakeComfy, home: Path) -> None:
    old = home / "jobs" / "a.json"
    old.parent.mkdir(parents=True)
    old.write_text('{"job_id": "a", "state": "submitted"}')
    with Client() as client:
        assert client.run(GRAPH).paths
    assert old.read_text() == '{"job_id": "a", "state": "submitted"}'


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_process_killed_in_mid_submit_leaves_its_intent(
    scripted: Servers, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    child: list[subprocess.Popen[bytes]] = []

    def script(request: Request) -> Reply | None:
        if not request.path.endswith("/run"):
            return Reply(body={"workers": {"idle": 1}, "jobs": {}})
        until(lambda: child)
        child[0].send_signal(signal.SIGKILL)
        child[0].wait(10)
        return None

    server = scripted(script)
    runpod_at(server, monkeypatch)
    program = f"import pennyreel; pennyreel.Client(backend='runpod').run({GRAPH!r}, **{YES!r})"
    child.append(subprocess.Popen([sys.executable, "-c", program]))
    assert child[0].wait(30) == -signal.SIGKILL
    (attempt,) = ledger.open_attempts()
    assert attempt.state == "sent"
    assert attempt.attempt_id == server.seen("/run")[0].json["input"]["attempt_id"]


def test_an_unknown_outcome_and_a_refusal_are_written_down(
    scripted: Servers, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Reply | None] = [None, Reply(400)]

    def script(request: Request) -> Reply | None:
        return answers.pop(0) if request.path.endswith("/run") else Reply(body={})

    server = scripted(script)
    runpod_at(server, monkeypatch)
    with Client(backend="runpod") as client:
        with pytest.raises(OutcomeUnknown):
            client.run(GRAPH, **YES)
        with pytest.raises(BadRequest):
            client.run(GRAPH, **YES)
    told = [(j.state, j.outcome, j.spent, j.reserved) for j in ledger.jobs()[::-1]]
    assert told == [("unknown", "unknown_outcome", 0, 50_000), ("failed", "bad_request", 0, 0)]
    assert len(server.seen("/run")) == 2


def test_a_bad_request_is_told_before_anything_is_looked_for(home: Path) -> None:
    with pytest.raises(BadRequest):
        Client().run({})
    assert not home.exists()


def test_with_nothing_there_the_ways_are_listed(home: Path) -> None:
    with pytest.raises(SetupNeeded) as caught:
        Client().run(GRAPH)
    for way in ("pennyreel setup WORKFLOW.json", "RUNPOD_API_KEY", "pennyreel why"):
        assert way in caught.value.hint


def test_a_comfyui_on_a_gpu_comes_first(
    comfy: FakeComfy, platform: RunPodPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_DEVICES", "RTX 4090:24GB")
    with Client() as client:
        assert client.quote_workflow(GRAPH).decision.order == (f"comfyui:{comfy.url}",)
        assert client.run(GRAPH).backend == "comfyui"


def test_a_comfyui_on_a_cpu_comes_first_where_nothing_else_is(
    comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENNYREEL_DEVICES", "none")
    with Client() as client:
        assert client.run(GRAPH).backend == "comfyui"


def test_where_no_comfyui_answers_runpod_is_asked_for_a_yes_to_its_price(
    platform: RunPodPlatform,
) -> None:
    with Client() as client:
        with pytest.raises(BadRequest, match="its price is not known") as caught:
            client.submit(GRAPH)
        assert caught.value.code == "consent_required"
        assert "--allow-unknown-price" in caught.value.hint
        job = client.submit(GRAPH, **YES)
        assert job.accepted(20).backend == "runpod"
        assert job.cancel()


def test_the_installed_comfyui_is_used_while_it_runs(comfy: FakeComfy, home: Path) -> None:
    root = home / "comfyui"
    root.mkdir(parents=True)
    started = localcomfy.process_started(os.getpid())
    state = {"url": comfy.url, "pid": os.getpid(), "started": started}
    (root / "server.json").write_text(json.dumps(state))
    elsewhere = "http://127.0.0.1:9"
    with Client(comfyui_url=elsewhere) as client:
        assert client.run(GRAPH).handle.target == comfy.url
        assert [h.target for h in client.backends() if h.reachable] == [comfy.url]
    with Client(backend="comfyui", comfyui_url=elsewhere) as client:
        assert f"comfyui:{comfy.url}" in client.quote_workflow(GRAPH).decision.order
    (root / "server.json").write_text(json.dumps({**state, "started": "another time"}))
    with pytest.raises(SetupNeeded):
        Client(comfyui_url=elsewhere).run(GRAPH)


def test_a_dev_stack_has_to_be_named_and_may_be_the_configured_one(
    platform: RunPodPlatform, home: Path
) -> None:
    home.mkdir()
    stack = {"base_url": platform.base_url, "endpoint": "ep", "api_key": KEY, "pid": 1}
    (home / "dev.json").write_text(json.dumps(stack))
    with Client(runpod_endpoint="") as client:
        with pytest.raises(PennyreelError):
            client.submit(GRAPH)
        assert client.quote_workflow(GRAPH, backend="dev").decision.order == ("dev:ep",)
    with Client(backend="dev") as client:
        job = client.submit(GRAPH)
        assert job.accepted(20).backend == "dev"
        assert job.cancel()


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


def test_what_is_neither_a_handle_nor_a_job_is_told(comfy: FakeComfy) -> None:
    with Client() as client:
        for text in ("nonsense", "runpod:nonsense", ""):
            with pytest.raises(BadRequest):
                client.handle(text)
            with pytest.raises(BadRequest):
                client.cancel(text)


def test_a_job_that_cannot_be_kept_beforehand_is_not_sent(
    scripted: Servers, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(lambda _: Reply(body={"id": "job-1"}))
    runpod_at(server, monkeypatch)
    home.mkdir()
    (home / "spool").write_text("in the way")
    with Client(backend="runpod") as client, pytest.raises(SetupNeeded, match="not sent"):
        client.submit(GRAPH, **YES)
    assert server.seen("/run") == []


def test_a_job_whose_time_is_up_before_it_is_sent_is_not_sent(
    scripted: Servers, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scripted(lambda r: Reply(429 if r.path.endswith("/run") else 200, {}))
    runpod_at(server, monkeypatch)
    with Client(backend="runpod") as client:
        with pytest.raises(JobTimeout) as caught:
            client.run(GRAPH, **YES, timeout_s=1e-6)
        assert caught.value.info.detail["confirmed_stopped"] is True
        assert not server.seen("/run")
        with pytest.raises(JobTimeout):
            client.run(GRAPH, **YES, timeout_s=0.2)
    assert [j.spent + j.reserved for j in ledger.jobs()] == [0, 0]
