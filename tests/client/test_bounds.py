"""What a server tells has an end: ids, files, words, events."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from client.support import GRAPH, KEY, Reply, Scripted, artifact
from pennyreel import JobFailed, OutcomeUnknown, Progressed, Queued, Started, Warned, heard
from pennyreel.backends.base import Work, told_id
from pennyreel.backends.runpod import RunPodBackend
from pennyreel.backends.simulated import SimulatedBackend
from pennyreel.config import Secret
from pennyreel.fetching import Fetching
from pennyreel.types import ArtifactSaved, Finished, Handle, JobEvent
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, ErrorInfo, Result, parse_progress, parse_result

ATTEMPT = "a" * 32
OPERATION = "projects/p/locations/us-central1/publishers/google/models/veo-3.1/operations/1b2-c"


@pytest.mark.parametrize("job", ["4d6-e1", OPERATION, "v1_Chd.x~y:z=", "x" * 400])
def test_what_vendors_give_for_an_id_is_one(job: str) -> None:
    assert told_id(job) == job


@pytest.mark.parametrize(
    "job",
    ["", "x" * 401, "a b", "a\nb", "../../v2/other", "a/../b", "a//b", "/a", "a?b=c", "a#b", "a%2e",
     "a\x1b[2J", "\u202ea", "\u00e9", None, 7, ["a"]],
)  # fmt: skip
def test_what_is_no_id_is_none(job: object) -> None:
    assert told_id(job) is None


@pytest.mark.parametrize("job", ["x" * 1_000_000, "../cancel/other", "j1\x1b[2J"])
def test_a_submit_that_is_answered_with_no_id_is_unknown_and_quotes_none(
    job: str, scripted: Callable[..., Scripted]
) -> None:
    server = scripted(lambda _: Reply(200, {"id": job, "status": "IN_QUEUE"}))
    backend = RunPodBackend("ep", Secret(KEY), base_url=server.url)
    with pytest.raises(OutcomeUnknown) as caught:
        backend.submit(Work(ATTEMPT, GRAPH))
    assert job[:8] not in str(caught.value)
    backend.close()


def test_a_handle_of_the_users_leads_to_no_other_path(scripted: Callable[..., Scripted]) -> None:
    server = scripted(lambda _: Reply(404))
    backend = RunPodBackend("ep", Secret(KEY), base_url=server.url)
    backend.cancel(Handle("runpod", "ep", "../../other/run?x=1", ATTEMPT))
    assert {r.path for r in server.requests} == {"/ep/cancel/..%2F..%2Fother%2Frun%3Fx%3D1"}
    backend.close()


def body(**more: Any) -> dict[str, Any]:
    return {"attempt_id": ATTEMPT, "artifacts": [artifact("a.png", b"a")], **more}


def test_a_result_with_too_many_files_is_refused_before_one_is_fetched(tmp_path: Path) -> None:
    many = [artifact(f"{n}.png", b"a") for n in range(10_001)]
    with pytest.raises(JobFailed, match="10001 files") as caught:
        parse_result(body(artifacts=many))
    assert caught.value.code == "result_refused"
    told = Artifact(name="a.png", kind="image", mime="image/png", bytes=1, sha256="")
    made = Result(attempt_id=ATTEMPT, artifacts=(told,) * 10_001)
    handle = Handle("simulated", "", "1", ATTEMPT)
    fetching = Fetching(
        SimulatedBackend(), handle, tmp_path, Deadline(None), CancelToken(), "pennyreel"
    )
    with pytest.raises(JobFailed, match="10000 are taken"):
        fetching.all(made)
    assert list(tmp_path.iterdir()) == []


def test_words_of_a_result_are_cut() -> None:
    long = "x" * 100_000
    found = parse_result(
        body(
            artifacts=[artifact(f"{long}.png", b"a", kind=long, mime=long)],
            warnings=[long] * 5_000,
            timings={str(n): 1.0 for n in range(5_000)},
        )
    )
    (one,) = found.artifacts
    assert max(map(len, (one.name, one.kind, one.mime))) <= 500
    assert len(found.warnings) == len(found.timings) == 1_000
    assert len(found.warnings[0]) == 5_000


def test_words_of_an_error_and_of_progress_are_cut() -> None:
    long = "x" * 300_000
    ours = {"code": long, "message": long, "hint": long, "detail": {"log": long}}
    found = ErrorInfo.decode({"pennyreel_error": ours})
    assert found.code == "execution_failed"
    assert len(found.message) == len(found.hint) == 5_000
    assert len(str(found.detail)) < 25_000
    progress = {"percent": 1, "stage": long, "node": long, "preview": long * 20}
    told = parse_progress({"pennyreel_progress": progress})
    assert told is not None
    assert (len(told.stage), len(told.node or ""), told.preview) == (200, 200, None)


def test_a_newer_workers_code_is_kept() -> None:
    info = ErrorInfo.decode({"pennyreel_error": {"code": "quota_of_2030", "message": "no"}})
    assert info.code == "quota_of_2030"


def test_events_have_an_end_and_the_last_is_always_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heard, "MAX_EVENTS", 50)
    events: list[JobEvent] = []
    for n in range(5_000):
        heard.keep(events, Progressed(n / 50, "executing"))
        heard.keep(events, Warned("again"))
        heard.keep(events, Queued())
        heard.keep(events, Started())
    heard.keep(events, Finished("done"))
    assert len(events) < 50 + 101
    assert events[-1] == Finished("done")
    percents = [e.percent for e in events if isinstance(e, Progressed)]
    assert percents[-1] > 98
    assert not any(isinstance(e, ArtifactSaved) for e in events)


def test_percent_never_falls_and_the_newest_picture_is_the_only_one() -> None:
    events: list[JobEvent] = []
    for n, percent in enumerate((10.0, 30.0, 20.0)):
        heard.keep(events, Progressed(percent, "executing", preview=f"data:{n}"))
    told = [(e.percent, e.preview) for e in events if isinstance(e, Progressed)]
    assert told == [(10.0, None), (30.0, None), (30.0, "data:2")]
