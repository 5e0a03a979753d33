"""Any ComfyUI, by its URL: its files, its progress, its ends."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from client.support import GRAPH, LOADING, SLEEPING, Reply, Script, Scripted, until
from fakes.comfyui import PNG, FakeComfy, Prompt, play
from pennyreel import (
    ArtifactSaved,
    BadRequest,
    Chosen,
    Client,
    Finished,
    Handle,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    Progressed,
    Queued,
    SetupNeeded,
    Started,
    Submitted,
)
from pennyreel.backends.base import Work
from pennyreel.backends.comfyui import ComfyBackend, prompt_id_of
from pennyreel.config import load
from pennyreel.saving import PartFile
from pennyreel_comfy.waiting import CancelToken
from pennyreel_contract import Artifact


@pytest.fixture
def client(comfy: FakeComfy) -> Any:
    with Client(backend="comfyui") as one:
        yield one


def test_a_workflow_s_files_are_saved_and_told(client: Client, comfy: FakeComfy, out: Path) -> None:
    events: list[Any] = []
    backend: Any = client.backend("comfyui")
    backend._session.poll_s = 60  # else a poll may tell of the end before the start is heard of
    result = client.run(GRAPH, on_event=events.append, seed=11)
    (saved,) = result.artifacts
    assert saved.path == out / "clip_00002_.png" or saved.path.parent == out
    assert saved.path.read_bytes() == PNG
    assert (saved.bytes, saved.node, saved.kind) == (len(PNG), "2", "image")
    assert result.backend == "comfyui"
    assert result.seed == 11
    assert result.gpu is not None
    assert result.gpu["name"] == "fake"
    assert set(result.timings) == {"queue", "execute", "fetch", "total"}
    assert [a.outcome for a in result.attempts] == ["done"]
    kinds = [type(e) for e in events]
    assert kinds[:2] == [Chosen, Submitted]
    assert kinds[-2:] == [ArtifactSaved, Finished]
    assert Started in kinds
    percents = [e.percent for e in events if isinstance(e, Progressed)]
    assert percents == sorted(percents)
    sent = comfy.prompts[0]
    assert sent.graph["1"]["inputs"]["seed"] == 11
    assert sent.graph["2"]["inputs"]["filename_prefix"].startswith("pennyreel/")
    assert sent.id == str(uuid.UUID(hex=result.handle.attempt_id))


def test_inputs_are_uploaded_into_a_folder_of_the_job_s_own(
    client: Client, comfy: FakeComfy, tmp_path: Path, scripted: Callable[[Script], Scripted]
) -> None:
    (tmp_path / "new pic.png").write_bytes(b"from disk")
    server = scripted(lambda _: Reply(body=b"from the web"))
    for given, content in (
        (tmp_path / "new pic.png", b"from disk"),
        (("b.png", b"from memory"), b"from memory"),
        (f"{server.url}/c.png?sig=1", b"from the web"),
    ):
        result = client.run(LOADING, inputs={"photo": given})
        name = comfy.prompts[-1].graph["1"]["inputs"]["image"]
        assert name.startswith(f"pennyreel/{result.handle.attempt_id}/")
        assert (tmp_path / "comfy-in" / name).read_bytes() == content


def test_an_input_that_cannot_be_fetched_is_told_before_anything_runs(
    client: Client, comfy: FakeComfy, scripted: Callable[[Script], Scripted]
) -> None:
    server = scripted(lambda _: Reply(404))
    with pytest.raises(JobFailed) as caught:
        client.run(LOADING, inputs={"1": f"{server.url}/c.png?sig=SECRET"})
    assert caught.value.code == "input_unreachable"
    assert "SECRET" not in str(caught.value)
    assert not comfy.prompts


def test_an_s3_input_asks_for_its_bucket(client: Client) -> None:
    with pytest.raises(SetupNeeded, match="S3"):
        client.run(LOADING, inputs={"1": "s3://bucket/a.png"})


def test_texts_and_websocket_images_are_artifacts_too(
    client: Client, comfy: FakeComfy, out: Path
) -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "execution_start")
        await fake.send(prompt, "executing", node="9")
        image = (1).to_bytes(4, "big") + (2).to_bytes(4, "big") + PNG
        await fake.send_raw(prompt.client, image)
        prompt.outputs["5"] = {"text": ["a text"]}
        await fake.send(prompt, "execution_success")
        fake.finish(prompt)
        await fake.send(prompt, "executing", node=None)

    comfy.script = script
    graph = {"9": {"class_type": "SaveImageWebsocket", "inputs": {}}}
    result = client.run(graph)
    assert {a.kind: a.path.read_bytes() for a in result.artifacts} == {
        "text": b"a text",
        "image": PNG,
    }
    again = client.handle(result.handle).result()
    assert [a.kind for a in again.artifacts] == ["text"]
    assert "SaveImageWebsocket" in again.warnings[0]


def test_previews_files_come_only_when_asked_for(client: Client, comfy: FakeComfy) -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await play(fake, prompt)
        name = fake.history[prompt.id]["outputs"]["2"]["images"][0]
        fake.history[prompt.id]["outputs"]["2"]["images"] = [{**name, "type": "temp"}]

    comfy.script = script
    assert client.run(GRAPH).artifacts == ()
    assert len(client.run(GRAPH, temp=True).artifacts) == 1


def test_a_handle_finds_its_job_from_another_client(comfy: FakeComfy, out: Path) -> None:
    with Client() as first:
        left = first.submit(GRAPH)
        left.detach()
        handle = str(left.accepted(20))
    with Client() as second:
        job = second.handle(handle)
        assert [p.read_bytes() for p in job.result().paths] == [PNG]
        assert str(job.handle) == handle


def test_a_job_that_the_server_has_forgotten_is_an_expired_result(
    client: Client, comfy: FakeComfy
) -> None:
    handle = client.run(GRAPH).handle
    comfy.history.clear()
    with pytest.raises(JobFailed, match="does not know") as caught:
        client.handle(handle).result()
    assert caught.value.code == "result_expired"


@pytest.mark.parametrize("jobs_api", [False, True])
def test_a_deadline_stops_the_job_on_the_server(
    client: Client, comfy: FakeComfy, jobs_api: bool
) -> None:
    comfy.jobs_api = jobs_api
    with pytest.raises(JobTimeout):
        client.run(SLEEPING, timeout_s=0.3)
    until(lambda: comfy.running is None)


def test_a_cancel_stops_only_its_own_job(client: Client, comfy: FakeComfy) -> None:
    job = client.submit(SLEEPING)
    events = job.events()
    seen = [type(next(events)) for _ in range(3)]
    assert seen in ([Chosen, Submitted, Queued], [Chosen, Submitted, Started])
    until(lambda: comfy.running)
    other = client.submit(SLEEPING)
    other.accepted(20)
    assert other.cancel()
    assert comfy.interrupts == []
    assert job.cancel()
    with pytest.raises(JobCancelled):
        job.result()
    assert job.handle is not None
    assert comfy.interrupts == [job.handle.remote_id]
    assert isinstance(list(job.events())[-1], Finished)


def test_a_node_that_fails_is_named(client: Client) -> None:
    with pytest.raises(JobFailed, match="FakeError") as caught:
        client.run({"1": {"class_type": "FakeError", "inputs": {}}})
    assert caught.value.code == "execution_failed"


def test_a_graph_that_is_refused_runs_nowhere(
    client: Client, comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = {"1": {"class_type": "Nope", "inputs": {}}}
    with pytest.raises(SetupNeeded, match="lacks the node class Nope"):
        client.run(unknown)
    assert ("POST", "/prompt") not in comfy.requests
    monkeypatch.setattr("pennyreel.backends.comfyui.LACKS_S", 0.0)  # it does not say what it lacks
    with pytest.raises(BadRequest, match="Nope"):
        client.run(unknown)
    assert not comfy.prompts


def test_no_server_means_that_nothing_was_accepted() -> None:
    with pytest.raises(SetupNeeded, match="no ComfyUI answers"):
        Client(backend="comfyui").run(GRAPH)


def test_an_accepted_job_with_no_answer_is_found_by_its_id(
    client: Client, comfy: FakeComfy, out: Path
) -> None:
    def accept_and_stumble(body: dict[str, Any]) -> web.Response | None:
        if comfy.prompts:
            return None
        comfy.prompts.append(Prompt(body, 0))
        comfy.pending.append(comfy.prompts[0])
        comfy._wake.set()
        return web.Response(text="this is not JSON")

    comfy.answer_prompt = accept_and_stumble
    assert len(client.run(GRAPH).artifacts) == 1
    assert len(comfy.prompts) == 1


def test_a_lost_submit_names_the_handle_that_would_find_it(
    scripted: Callable[[Script], Scripted],
) -> None:
    server = scripted(lambda r: None if r.path == "/prompt" else Reply(body={}))
    backend = ComfyBackend(server.url)
    with pytest.raises(OutcomeUnknown) as caught:
        backend.submit(Work("a" * 32, GRAPH))
    backend.close()
    assert f"pennyreel result 'comfyui:{server.url}/" in caught.value.hint
    assert len(server.seen("/prompt")) == 1


def test_the_credential_goes_to_its_own_origin_only(
    scripted: Callable[[Script], Scripted],
) -> None:
    stats = {"system": {"comfyui_version": "1"}, "devices": []}
    mine, other = scripted(lambda _: Reply(body=stats)), scripted(lambda _: Reply(body=stats))
    settings = load(comfyui_url=mine.url, comfyui_auth="Basic SECRET")
    for target in (None, other.url):
        backend = ComfyBackend.open(settings, target)
        assert backend.health().reachable
        backend.close()
    assert mine.requests[0].headers["Authorization"] == "Basic SECRET"
    assert "Authorization" not in other.requests[0].headers
    with pytest.raises(SetupNeeded, match="https"):
        ComfyBackend.open(load(comfyui_url="http://example.com", comfyui_auth="Basic SECRET"))


@pytest.mark.parametrize("url", ["http://me:pw@host:1", "http://host:1/?token=pw"])
def test_a_url_with_a_secret_in_it_is_refused_since_handles_print_it(url: str) -> None:
    with pytest.raises(SetupNeeded, match="printed in handles") as caught:
        ComfyBackend(url)
    assert "pw" not in str(caught.value)


def test_an_attempt_s_prompt_id_is_a_canonical_uuid_and_always_the_same() -> None:
    for attempt in ("0" * 32, "not-hex-at-all"):
        assert (
            prompt_id_of(attempt) == prompt_id_of(attempt) == str(uuid.UUID(prompt_id_of(attempt)))
        )


def test_health_tells_versions_and_devices(client: Client, comfy: FakeComfy) -> None:
    health = client.health("comfyui")
    assert health.reachable
    assert health.versions["comfyui"] == "0.0-fake"
    assert health.devices[0]["vram_bytes"] == 1 << 30


def test_a_file_is_asked_for_again_when_its_transfer_breaks(
    scripted: Callable[[Script], Scripted], tmp_path: Path
) -> None:
    replies = [Reply(503), Reply(body=PNG, cut_at=5), None, Reply(body=PNG)]
    server = scripted(lambda _: replies.pop(0))
    made = Artifact(
        name="a.png", kind="image", mime="image/png", bytes=0, sha256="",
        url=f"{server.url}/view?filename=a%26b.png&subfolder=x&type=output",
    )  # fmt: skip
    handle = Handle("comfyui", server.url, "1", "a" * 32)
    backend = ComfyBackend(server.url, headers={"Authorization": "Basic x"})
    with PartFile(tmp_path, "a.png") as part:
        backend.fetch(handle, made, part, CancelToken())
        assert part.commit().read_bytes() == PNG
    assert {r.path for r in server.requests} == {"/view?filename=a%26b.png&subfolder=x&type=output"}
    assert {r.headers["Authorization"] for r in server.requests} == {"Basic x"}
    replies.append(Reply(404))
    with PartFile(tmp_path, "a.png") as part, pytest.raises(JobFailed) as caught:
        backend.fetch(handle, made, part, CancelToken())
    assert caught.value.code == "output_missing"
    replies.append(Reply(403))
    with PartFile(tmp_path, "a.png") as part, pytest.raises(SetupNeeded, match="403"):
        backend.fetch(handle, made, part, CancelToken())


def test_what_nobody_follows_is_forgotten_in_the_end(
    client: Client, comfy: FakeComfy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pennyreel.backends.comfyui.MAX_UNFOLLOWED", 2)
    backend: Any = client.backend("comfyui", comfy.url)
    handles = [backend.submit(Work(f"{n}" * 32, GRAPH)) for n in range(5)]
    assert len(backend._jobs) == len(backend._session._runs) == 2
    for handle in handles:
        assert client.handle(handle).result().paths
    assert not backend._jobs
