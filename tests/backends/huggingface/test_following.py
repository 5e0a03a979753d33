"""What is told on the way, whatever the router answers."""

from __future__ import annotations

from typing import Any

import pytest

from backends.huggingface.support import (
    DONE,
    RESULT,
    STATUS,
    Open,
    follow,
    job,
    run,
    scripted,
)
from client.support import Reply
from emulators.huggingface.support import SD3
from fakes.ports import dead_port
from pennyreel.backends import _hf_follow
from pennyreel.errors import (
    BadRequest,
    Code,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    Unavailable,
)
from pennyreel.types import Queued, Started
from pennyreel_comfy.waiting import CancelToken
from pennyreel_emulators.huggingface import HuggingFace, Plan


def test_a_job_is_told_queued_and_running_once_each(hub: HuggingFace, opened: Open) -> None:
    hub.plan(Plan(looks=5))
    one = opened(hub)
    events: list[Any] = []
    follow(one, one.submit(job()), on_event=events.append)
    assert events == [Queued(), Started()]


@pytest.mark.parametrize(("status", "says"), [(401, "HF_TOKEN"), (402, "credits")])
def test_a_refusal_in_mid_job_leaves_it_unknown(status: int, says: str, opened: Open) -> None:
    with scripted({STATUS: lambda _: Reply(status, {"error": "no"})}) as server:
        one = opened(server)
        handle = one.submit(job())
        with pytest.raises(OutcomeUnknown, match="may go on") as unknown:
            follow(one, handle)
    assert says in unknown.value.hint
    assert str(handle) in unknown.value.hint


def test_a_job_that_is_gone_is_expired_and_at_replicate_unknown(
    hub: HuggingFace, opened: Open
) -> None:
    hub.always(Plan(end="never", looks=5))
    one, replicate = opened(hub), opened(hub, provider="replicate")
    handles = [one.submit(job()), replicate.submit(job())]
    hub.forget_jobs()
    with pytest.raises(JobFailed) as gone:
        follow(one, handles[0])
    assert gone.value.code == Code.RESULT_EXPIRED.value
    with pytest.raises(OutcomeUnknown, match="cannot be looked at through Hugging Face"):
        follow(replicate, handles[1])
    assert replicate.cancel(handles[1]) is False


def test_hiccups_are_borne_and_a_rate_limit_s_pause_is_kept(opened: Open) -> None:
    answers = iter(
        [None, Reply(502, b"bad gateway"), Reply(429, b"", {"Retry-After": "0"}), Reply(404),
         Reply(200, b"<html>"), Reply(body=DONE)]
    )  # fmt: skip
    made = {"video": {"url": "https://files.example/v.mp4"}}
    with scripted(
        {
            STATUS: lambda _: next(answers),
            RESULT: lambda _: Reply(body=made),
        }
    ) as server:
        result = run(opened(server), job())
    assert [a.url for a in result.artifacts] == ["https://files.example/v.mp4"]


def test_silence_for_too_long_is_an_unknown_outcome(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hf_follow, "DOWN_GRACE_S", 0.05)
    with scripted({STATUS: lambda _: None}) as server:
        one = opened(server)
        handle = one.submit(job())
        with pytest.raises(OutcomeUnknown, match="no answer for") as unknown:
            follow(one, handle)
    assert str(handle) in unknown.value.hint


@pytest.mark.parametrize(
    ("status", "result", "says"),
    [
        ({"status": "COMPLETED", "error": "NSFW"}, Reply(body={}), "NSFW"),
        (
            DONE,
            Reply(422, {"detail": [{"msg": "flagged by the checker"}]}),
            "flagged by the checker",
        ),
        (DONE, Reply(body={"video": {}}), "names no video"),
        ({"status": "CANCELLED"}, Reply(body={}), "CANCELLED"),
    ],
)
def test_an_end_without_a_video_is_a_failure_that_says_why(
    status: dict[str, Any], result: Reply, says: str, opened: Open
) -> None:
    with scripted(
        {STATUS: lambda _: Reply(body=status), RESULT: lambda _: result}
    ) as server, pytest.raises(JobFailed, match=says) as failed:  # fmt: skip
        run(opened(server), job())
    assert not failed.value.retryable


@pytest.mark.parametrize(
    "body",
    [
        {"request_id": "../../x", "response_url": "https://queue.fal.run/../etc"},
        {"request_id": 7},
        {"request_id": "a?b=c"},
        [],
    ],
)
def test_an_id_that_is_none_is_an_unknown_outcome(body: Any, opened: Open) -> None:
    with (
        scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(body=body)}) as server,
        pytest.raises(OutcomeUnknown, match="names neither"),
    ):
        opened(server).submit(job())


def test_a_strange_result_path_of_fal_is_not_followed(opened: Open) -> None:
    body = {"request_id": "r1", "response_url": "https://evil.example/whoami"}
    with scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(body=body)}) as server:
        handle = opened(server).submit(job())
    assert handle.remote_id.endswith(":fal-ai/wan/requests/r1")


def test_408_may_mean_that_it_runs(opened: Open) -> None:
    with scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(408)}) as server:
        with pytest.raises(OutcomeUnknown, match="408"):
            opened(server).submit(job())
        assert len([r for r in server.requests if r.method == "POST"]) == 1


def test_a_503_that_does_not_say_loading_may_mean_that_it_runs(opened: Open) -> None:
    with (
        scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(503)}) as server,
        pytest.raises(OutcomeUnknown),
    ):
        opened(server).submit(job())


def test_loading_says_when_to_come_again(hub: HuggingFace, opened: Open) -> None:
    hub.plan(Plan(refuse=503))
    with pytest.raises(Unavailable, match="loading") as loading:
        opened(hub, image_model=SD3).submit(job("image"))
    assert loading.value.info.detail["retry_after_s"] == 20.0


def test_a_router_that_refuses_connections_has_taken_nothing(
    hub: HuggingFace, opened: Open
) -> None:
    one = opened(hub, router_url=f"http://127.0.0.1:{dead_port()}")
    with pytest.raises(Unavailable, match="nothing was sent") as down:
        one.submit(job())
    assert down.value.retryable
    assert "PENNYREEL_HF_ROUTER_URL" in down.value.hint
    assert hub.submits == 0


def test_a_request_that_is_too_large_is_told(opened: Open) -> None:
    with (
        scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(413)}) as server,
        pytest.raises(BadRequest) as large,
    ):
        opened(server).submit(job())
    assert large.value.code == Code.REQUEST_TOO_LARGE.value


# Cancelling.


def test_a_cancel_that_the_router_does_not_take_is_not_waited_for(
    hub: HuggingFace, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hf_follow, "CONFIRM_S", 3600.0)
    hub.plan(Plan(end="never", cancel="unsupported"))
    one = opened(hub)
    handle = one.submit(job())
    assert one.cancel(handle) is False
    with pytest.raises(JobTimeout, match="fal-ai did not confirm"):
        follow(one, handle, 0.05)


def test_one_404_after_a_cancel_is_no_proof(opened: Open) -> None:
    answers = iter([Reply(404), Reply(404), Reply(body={"status": "IN_PROGRESS"})])
    with scripted(
        {
            STATUS: lambda _: next(answers, Reply(body={"status": "IN_PROGRESS"})),
            "/fal-ai/fal-ai/wan/requests/r1/cancel": lambda _: Reply(404),
        }
    ) as server:
        one = opened(server)
        assert one.cancel(one.submit(job())) is False


def test_a_cancel_wakes_who_waits_between_two_looks(
    hub: HuggingFace, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hf_follow, "POLL_S", (3600.0, 3600.0))
    monkeypatch.setattr(_hf_follow, "CONFIRM_S", 0.0)
    hub.plan(Plan(end="never"))
    one, token = opened(hub), CancelToken()
    handle = one.submit(job())
    with pytest.raises(JobCancelled):
        follow(one, handle, 7200.0, on_event=lambda _: token.cancel(), cancel=token)
    assert hub.jobs[0].cancelled


def test_a_job_that_was_faster_than_its_deadline_s_cancel_counts(
    hub: HuggingFace, opened: Open
) -> None:
    hub.always(Plan(looks=0))
    one = opened(hub)
    handle = one.submit(job())
    assert follow(one, handle, 0.0).artifacts
    token = CancelToken()
    token.cancel()
    with pytest.raises(JobCancelled) as cancelled:
        follow(one, handle, cancel=token)
    assert cancelled.value.info.detail["confirmed_stopped"] is True
