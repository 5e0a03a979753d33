"""Polling decides. Each end of a job is told as what it is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from client.support import KEY, Reply, Request, Script, Scripted, artifact
from pennyreel import (
    BadRequest,
    Handle,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    Progressed,
    Queued,
    SetupNeeded,
    Started,
    Warned,
)
from pennyreel.backends import _runpod_follow as following
from pennyreel.backends import runpod as module
from pennyreel.backends.runpod import RunPodBackend
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, ErrorInfo, Progress, Result

Servers = Callable[[Script], Scripted]
Backends = Callable[..., RunPodBackend]
HANDLE = Handle("runpod", "ep", "job-1", "a" * 32)
DONE = {"contract": 1, "attempt_id": "a" * 32, "artifacts": [artifact("x.png", b"png")]}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", (0.002, 0.01))


def statuses(*bodies: Any) -> Callable[[Request], Reply | None]:
    """Answer /status with these, one after the other, the last for ever."""
    left = list(bodies)

    def script(request: Request) -> Reply | None:
        if request.path.endswith("/health"):
            return Reply(body={"workers": {"idle": 0, "throttled": 2}, "jobs": {"inQueue": 1}})
        if "/cancel/" in request.path:
            left[:] = [{"status": "CANCELLED"}]
            return Reply(body={"id": "job-1", "status": "CANCELLED"})
        body = left.pop(0) if len(left) > 1 else left[0]
        return body if isinstance(body, Reply) or body is None else Reply(body=body)

    return script


def follow(
    backend: RunPodBackend,
    *,
    deadline: float | None = 20.0,
    cancel: CancelToken | None = None,
    events: list[Any] | None = None,
) -> Result:
    told: list[Any] = [] if events is None else events
    return backend.follow(
        HANDLE,
        on_event=told.append,
        deadline=Deadline(deadline),
        cancel=cancel or CancelToken(),
    )


def test_a_job_goes_through_the_queue_to_its_result(scripted: Servers, runpod: Backends) -> None:
    half = Progress(
        percent=50, stage="executing", node="3", node_class="KSampler", step=5, steps=10
    )
    server = scripted(
        statuses(
            {"status": "IN_QUEUE"},
            {"status": "IN_QUEUE"},
            {"status": "IN_PROGRESS"},
            {"status": "IN_PROGRESS", "output": half.wire()},
            {"status": "IN_PROGRESS", "output": half.wire()},
            {"status": "IN_PROGRESS", "output": "some other worker's words"},
            {"status": "COMPLETED", "output": DONE, "delayTime": 1500, "executionTime": 2500},
        )
    )
    events: list[Any] = []
    result = follow(runpod(server), events=events)
    assert [a.name for a in result.artifacts] == ["x.png"]
    assert result.timings == {"platform_queue": 1.5, "platform_execute": 2.5}
    progressed = Progressed(50.0, "executing", "3", "KSampler", 5, 10)
    assert events == [Queued(), Started(), progressed]
    assert {r.headers["Authorization"] for r in server.requests} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("status", ["RUNNING", "REBALANCING", "", None])
def test_a_status_that_nobody_knows_means_still_running(
    status: str | None, scripted: Servers, runpod: Backends
) -> None:
    server = scripted(statuses({"status": status}, {"status": "COMPLETED", "output": DONE}))
    assert follow(runpod(server)).artifacts


@pytest.mark.parametrize(
    "trouble",
    [Reply(500), Reply(503, b"x"), Reply(429, headers={"Retry-After": "0"}), None,
     Reply(body=b"<html>"), Reply(404)],
)  # fmt: skip
def test_trouble_in_mid_job_is_looked_through(
    trouble: Reply | None, scripted: Servers, runpod: Backends
) -> None:
    server = scripted(statuses(trouble, trouble, {"status": "COMPLETED", "output": DONE}))
    assert follow(runpod(server)).artifacts


def test_an_api_that_stays_away_leaves_the_outcome_unknown_with_the_handle(
    scripted: Servers, runpod: Backends
) -> None:
    server = scripted(statuses(Reply(502)))
    with pytest.raises(OutcomeUnknown) as caught:
        follow(runpod(server, down_grace_s=0.05))
    assert str(HANDLE) in caught.value.hint
    assert not server.seen("/run")


def test_a_key_that_is_refused_in_mid_job_is_told_at_once(
    scripted: Servers, runpod: Backends
) -> None:
    server = scripted(statuses(Reply(401)))
    with pytest.raises(SetupNeeded, match="API key"):
        follow(runpod(server))


def test_a_job_that_ran_and_is_forgotten_is_an_expired_result(
    scripted: Servers, runpod: Backends
) -> None:
    server = scripted(statuses({"status": "IN_PROGRESS"}, Reply(404)))
    with pytest.raises(JobFailed, match="30 minutes") as caught:
        follow(runpod(server))
    assert caught.value.code == "result_expired"


def test_of_a_forgotten_job_that_nobody_saw_run_it_is_not_known_whether_it_did(
    scripted: Servers, runpod: Backends
) -> None:
    with pytest.raises(OutcomeUnknown, match="nobody here saw it run") as caught:
        follow(runpod(scripted(statuses(Reply(404)))))
    assert caught.value.code == "job_gone"


def test_one_that_was_in_the_queue_long_before_it_was_forgotten_may_have_run(
    scripted: Servers, runpod: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "UNSEEN_S", 0.0)  # as long as this machine slept
    with pytest.raises(OutcomeUnknown):
        follow(runpod(scripted(statuses({"status": "IN_QUEUE"}, Reply(404)))))


def test_a_wrong_endpoint_is_told_from_a_forgotten_job(scripted: Servers, runpod: Backends) -> None:
    server = scripted(lambda _: Reply(404))
    with pytest.raises(SetupNeeded, match="no endpoint 'ep'"):
        follow(runpod(server))


@pytest.mark.parametrize(
    ("final", "kind", "code", "says"),
    [
        ({"status": "CANCELLED"}, JobCancelled, "cancelled", "cancelled"),
        ({"status": "TIMED_OUT"}, JobTimeout, "timeout", "RunPod ended the job"),
        ({"status": "COMPLETED"}, JobFailed, "result_too_large", "10 MB"),
        ({"status": "COMPLETED", "output": None}, JobFailed, "result_too_large", "billed"),
        ({"status": "COMPLETED", "output": {"x": 1}}, JobFailed, "internal", "not a pennyreel"),
        ({"status": "COMPLETED", "output": "text"}, JobFailed, "internal", "not a pennyreel"),
        ({"status": "FAILED"}, JobFailed, "execution_failed", "without a reason"),
        ({"status": "FAILED", "error": "boom"}, JobFailed, "execution_failed", "boom"),
        (
            {"status": "FAILED", "error": "Job failed", "output": {"details": ["a", "b"]}},
            JobFailed, "execution_failed", "Job failed: a; b",
        ),
        (
            {"status": "FAILED", "error": json.dumps(
                {"error_type": "<class 'ValueError'>", "error_message": "bad", "worker_id": "w"}
            )},
            JobFailed, "execution_failed", "bad",
        ),
        (
            {"status": "FAILED", "error": ErrorInfo.make(Code.OUT_OF_MEMORY, "no room").encode()},
            JobFailed, "out_of_memory", "no room",
        ),
        (
            {"status": "FAILED", "error": ErrorInfo.make(Code.TIMEOUT, "too slow").encode()},
            JobTimeout, "timeout", "too slow",
        ),
        (
            {"status": "FAILED", "error": '{"pennyreel_error": {"code": "new", "message": "m"}}'},
            JobFailed, "new", "m",
        ),
    ],
)  # fmt: skip
def test_each_end_is_told_as_what_it_is(
    final: dict[str, Any],
    kind: type[PennyreelError],
    code: str,
    says: str,
    scripted: Servers,
    runpod: Backends,
) -> None:
    with pytest.raises(kind, match=says) as caught:
        follow(runpod(scripted(statuses(final))))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.COMFY_UNAVAILABLE, JobFailed),
        (Code.COMFY_START_FAILED, JobFailed),
        (Code.RATE_LIMITED, JobFailed),
        (Code.NOT_INSTALLED, JobFailed),
        (Code.UNKNOWN_OUTCOME, JobFailed),
        (Code.STALLED, JobFailed),
        (Code.MISSING_MODEL, BadRequest),
        (Code.TIMEOUT, JobTimeout),
        (Code.CANCELLED, JobCancelled),
    ],
)
def test_a_job_that_its_worker_has_ended_has_ended_whatever_its_code(
    code: Code, kind: type[PennyreelError], scripted: Servers, runpod: Backends
) -> None:
    told = ErrorInfo.make(code, "so it is", hint="Do this.", detail={"node": "7"}).encode()
    final = {"status": "FAILED", "error": told, "workerId": "w1"}
    with pytest.raises(kind, match="so it is") as caught:
        follow(runpod(scripted(statuses(final))))
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.hint) == (code.value, "Do this.")
    detail = caught.value.info.detail
    assert (detail["node"], detail["worker_id"]) == ("7", "w1")
    assert (detail.get("confirmed_stopped") is True) == (kind in {JobTimeout, JobCancelled})


def test_the_stock_worker_s_result_is_read_too(scripted: Servers, runpod: Backends) -> None:
    output = {
        "images": [
            {"filename": "a/ComfyUI_1_.png", "type": "base64",
             "data": base64.b64encode(b"png").decode()},
            {"filename": "b.png", "type": "s3_url", "data": "https://bucket/b.png?sig"},
        ],
        "errors": ["node 7 had no images"],
    }  # fmt: skip
    server = scripted(statuses({"status": "COMPLETED", "output": output}))
    result = follow(runpod(server))
    assert [(a.name, a.bytes, a.url) for a in result.artifacts] == [
        ("ComfyUI_1_.png", 3, None), ("b.png", 0, "https://bucket/b.png?sig")
    ]  # fmt: skip
    assert result.warnings == ("node 7 had no images",)
    assert result.attempt_id == HANDLE.attempt_id


def test_the_stock_worker_may_make_nothing(scripted: Servers, runpod: Backends) -> None:
    output = {"status": "success_no_images", "images": []}
    server = scripted(statuses({"status": "COMPLETED", "output": output}))
    assert follow(runpod(server)).artifacts == ()


def test_a_long_queue_is_explained_by_the_endpoint_s_health(
    scripted: Servers, runpod: Backends
) -> None:
    server = scripted(
        statuses(*[{"status": "IN_QUEUE"}] * 8, {"status": "COMPLETED", "output": DONE})
    )
    events: list[Any] = []
    follow(runpod(server, queue_warn_s=(0.0,)), events=events)
    (warning,) = [e for e in events if isinstance(e, Warned)]
    assert "2 throttled" in warning.text
    assert "no worker is ready" in warning.text
    assert len(server.seen("/health")) == 1


def test_a_deadline_cancels_and_confirms_before_it_raises(
    scripted: Servers, runpod: Backends
) -> None:
    server = scripted(statuses({"status": "IN_PROGRESS"}))
    with pytest.raises(JobTimeout, match=r"0\.05 s") as caught:
        follow(runpod(server), deadline=0.05)
    assert caught.value.info.detail["confirmed_stopped"] is True
    assert len(server.seen("/cancel/job-1")) == 1
    assert server.requests[-1].path.endswith("/status/job-1")


def test_a_job_that_ends_while_its_deadline_cancels_it_counts(
    scripted: Servers, runpod: Backends
) -> None:
    def script(request: Request) -> Reply:
        state["cancelled"] |= "/cancel/" in request.path
        status = "COMPLETED" if state["cancelled"] else "IN_PROGRESS"
        return Reply(body={"status": status, "output": DONE})

    state = {"cancelled": False}
    assert follow(runpod(scripted(script)), deadline=0.05).artifacts


def test_a_cancel_wakes_the_wait_and_is_confirmed(
    scripted: Servers, runpod: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_S", (30.0, 30.0))
    cancel = CancelToken()
    server = scripted(statuses({"status": "IN_PROGRESS"}))

    def told(_: Any) -> None:
        cancel.cancel()

    with pytest.raises(JobCancelled) as caught:
        runpod(server).follow(HANDLE, on_event=told, deadline=Deadline(60), cancel=cancel)
    assert caught.value.info.detail["confirmed_stopped"] is True


def test_a_cancel_that_is_not_confirmed_says_so(
    scripted: Servers, runpod: Backends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONFIRM_S", 0.05)
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(JobCancelled, match="did not confirm") as caught:
        follow(runpod(scripted(lambda _: Reply(500))), cancel=cancel)
    assert caught.value.info.detail["confirmed_stopped"] is False
    assert runpod(scripted(lambda _: Reply(500))).cancel(HANDLE) is False


def test_a_job_that_runpod_has_forgotten_does_not_run(scripted: Servers, runpod: Backends) -> None:
    assert runpod(scripted(lambda _: Reply(404))).cancel(HANDLE) is True


def test_health_never_raises(scripted: Servers, runpod: Backends) -> None:
    good = runpod(scripted(statuses({}))).health()
    assert good.reachable
    assert good.workers == {"idle": 0, "throttled": 2}
    for answer in (Reply(401), Reply(404), Reply(500), None):
        bad = runpod(scripted(lambda _, answer=answer: answer)).health()
        assert not bad.reachable
        assert bad.hint
    assert runpod(scripted(lambda _: Reply(body=b"[]"))).health().reachable
