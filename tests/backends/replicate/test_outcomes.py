"""What comes of a prediction: its end, its bill and its file."""

from __future__ import annotations

from typing import Any

import pytest

from backends.replicate.support import NEED, follow, job
from backends.rig import Store
from pennyreel.backends.replicate import ReplicateBackend
from pennyreel.errors import (
    JobCancelled,
    JobFailed,
    JobTimeout,
)
from pennyreel.need import Unit, Usage
from pennyreel.types import Progressed, Queued, Started
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_emulators.replicate import (
    INTERRUPTED,
    NSFW,
    OUT_OF_MEMORY,
    Behaviour,
    Fault,
    ReplicatePlatform,
)

# What comes of it.


def test_a_clip_comes_with_its_bill_its_seed_and_its_end(one_slow: Any) -> None:
    platform, one, clock = one_slow
    platform.script(Behaviour(boot_s=0.05, run_s=0.1))
    events: list[Any] = []

    def told(event: Any) -> None:
        """Time passes when it has been told how far it is."""
        events.append(event)
        clock.now += 0.06 if event == Queued() else 0.04

    handle = one.submit(job())
    result = one.follow(handle, on_event=told, deadline=Deadline(30), cancel=CancelToken())
    (clip,) = result.artifacts
    assert (clip.name, clip.kind, clip.mime) == ("output.mp4", "video", "video/mp4")
    assert clip.url_expires is not None
    assert result.seed == 7
    (bill,) = platform.billed
    assert one.billed(NEED, result) == Usage(
        "replicate/hotshot-xl", Unit.GPU_SECOND, pytest.approx(bill.seconds, abs=1e-5)
    )
    assert result.timings["platform_queue"] == pytest.approx(0.05, abs=0.01)
    assert events[0] == Queued()
    assert Started() in events
    steps = [e for e in events if isinstance(e, Progressed)]
    assert steps
    assert steps[-1].steps == 30


def test_a_file_is_fetched_without_the_token(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    handle = one.submit(job(format="gif"))
    result = follow(one, handle)
    sink = Store()
    one.fetch(handle, result.artifacts[0], sink, CancelToken())
    assert bytes(sink.data[:6]) == b"GIF89a"
    assert len(platform.downloads) == 1
    assert platform.tokens_leaked == 0


@pytest.mark.parametrize("form", ["list", "data"])
def test_other_forms_of_output_are_read(
    form: Any, platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(output=form))
    handle = one.submit(job())
    result = follow(one, handle)
    sink = Store()
    one.fetch(handle, result.artifacts[0], sink, CancelToken())
    assert b"ftyp" in bytes(sink.data[:16])
    assert result.artifacts[0].name == "output.mp4"


@pytest.mark.parametrize(
    ("says", "code", "retryable", "named"),
    [
        (OUT_OF_MEMORY, "out_of_memory", False, "E1001"),
        ("Unknown error (E1000)", "execution_failed", True, "E1000"),
        ("Timeout starting prediction (E6716)", "execution_failed", True, "E6716"),
        (INTERRUPTED, "execution_failed", True, "PA"),
        (NSFW, "execution_failed", False, None),
        ("Director: unexpected error handling prediction (E9828)", "execution_failed", True,
         "E9828"),
        ("CUDA error: device-side assert", "execution_failed", False, None),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_replicates_own_code(
    says: str,
    code: str,
    retryable: bool,
    named: str | None,
    platform: ReplicatePlatform,
    one: ReplicateBackend,
) -> None:
    platform.script(Behaviour(error=says, run_s=0.03))
    with pytest.raises(JobFailed) as caught:
        follow(one, one.submit(job()))
    problem = caught.value
    assert (problem.code, problem.retryable) == (code, retryable)
    assert says in str(problem)
    assert problem.info.detail["replicate_code"] == named
    assert problem.info.detail["gpu_seconds"] == pytest.approx(0.03, abs=0.001)
    assert len(platform.accepted) == 1


def test_a_job_that_never_started_in_time_is_a_timeout_that_cost_nothing(one_slow: Any) -> None:
    platform, one, clock = one_slow
    platform.script(Behaviour(boot_s=1000.0))
    handle = one.submit(job(timeout_s=60.0))
    clock.now += 61.0
    with pytest.raises(JobTimeout, match="not billed") as caught:
        follow(one, handle)
    assert caught.value.info.detail["confirmed_stopped"] is True
    assert caught.value.info.detail["gpu_seconds"] == 0.0
    assert platform.billed == ()


def test_a_job_that_hangs_is_ended_by_the_server_and_costs_what_it_ran(one_slow: Any) -> None:
    platform, one, clock = one_slow
    platform.script(Behaviour(boot_s=10.0, hangs=True))
    handle = one.submit(job(timeout_s=60.0))
    clock.now += 500.0
    with pytest.raises(JobTimeout) as caught:
        follow(one, handle)
    assert caught.value.info.detail["gpu_seconds"] == 50.0
    assert [b.seconds for b in platform.billed] == [50.0]


def test_a_job_that_was_cancelled_by_hand_is_told_as_that(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(hangs=True))
    handle = one.submit(job())
    assert one.cancel(handle) is True
    with pytest.raises(JobCancelled) as caught:
        follow(one, handle)
    assert caught.value.info.detail["confirmed_stopped"] is True


def test_a_cancel_is_confirmed_by_a_look_and_not_by_its_own_answer(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(hangs=True))
    handle = one.submit(job())
    platform.fault("get", Fault(503, None, times=2))
    assert one.cancel(handle) is True
    asked = [(r.method, r.path.rpartition("/")[2]) for r in platform.requests[1:]]
    assert asked[-1] == ("GET", handle.remote_id)


def test_a_job_that_was_faster_than_its_deadline_counts(one_slow: Any) -> None:
    platform, one, clock = one_slow
    platform.script(Behaviour(cancel="ignored", run_s=5.0))
    handle = one.submit(job())
    clock.now += 6.0
    assert follow(one, handle, seconds=0.0).artifacts
    assert platform.status(handle.remote_id) == "succeeded"


def test_a_result_is_gone_an_hour_after_its_end_and_that_is_no_failure_of_the_job(
    one_slow: Any,
) -> None:
    platform, one, clock = one_slow
    handle = one.submit(job())
    clock.now += 1.0
    result = follow(one, handle)
    clock.now += 3600.0
    with pytest.raises(JobFailed, match="an hour") as caught:
        one.fetch(handle, result.artifacts[0], Store(), CancelToken())
    assert caught.value.code == "result_expired"
    with pytest.raises(JobFailed, match="an hour") as caught:
        follow(one, handle)
    assert caught.value.code == "result_expired"
    assert len(platform.accepted) == 1


def test_a_success_without_a_file_is_told_with_its_cost(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(output="none", run_s=0.05))
    with pytest.raises(JobFailed) as caught:
        follow(one, one.submit(job()))
    assert caught.value.code == "output_missing"
    assert caught.value.info.detail["gpu_seconds"] == pytest.approx(0.05, abs=0.001)
