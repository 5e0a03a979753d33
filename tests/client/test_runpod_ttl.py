"""How long RunPod keeps a job, and what is told of one that it has dropped: by its own clock."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from client.support import GRAPH, KEY, Worker
from emulators.runpod.support import ManualClock
from fakes.waits import eventually
from pennyreel.backends import _runpod_follow as following
from pennyreel.backends.base import QUEUE_S, Work
from pennyreel.backends.runpod import RunPodBackend
from pennyreel.config import Secret
from pennyreel.errors import JobTimeout, OutcomeUnknown
from pennyreel.routing.machine import Option
from pennyreel.types import Handle
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result
from pennyreel_emulators.runpod import EndpointConfig, PlatformConfig, RunPodPlatform

RUN_S = 180.0
Following = Callable[[Handle, "list[Any]"], "Future[Result]"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "POLL_S", (0.002, 0.01))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def slow(clock: ManualClock) -> Iterator[RunPodPlatform]:
    """The emulated RunPod, whose time is `clock`."""
    config = PlatformConfig(endpoints={"ep": EndpointConfig()}, api_key=KEY)
    with RunPodPlatform(config, clock=clock) as running:
        yield running


@pytest.fixture
def backend(slow: RunPodPlatform) -> Iterator[RunPodBackend]:
    one = RunPodBackend("ep", Secret(KEY), base_url=slow.base_url)
    yield one
    one.close()


@pytest.fixture
def follow(backend: RunPodBackend) -> Iterator[Following]:
    token = CancelToken()
    with ThreadPoolExecutor(1) as pool:

        def begin(handle: Handle, events: list[Any]) -> Future[Result]:
            return pool.submit(
                backend.follow, handle, on_event=events.append, deadline=Deadline(60), cancel=token
            )

        yield begin
        token.cancel()


def test_it_may_wait_as_long_as_the_router_does_and_run_after_that(
    backend: RunPodBackend, slow: RunPodPlatform, clock: ManualClock, follow: Following
) -> None:
    handle = backend.submit(Work("a" * 32, GRAPH, timeout_s=RUN_S))
    clock.advance(QUEUE_S)
    with Worker(slow, "ep") as worker:
        job = worker.take()
        clock.advance(RUN_S - 1)
        worker.succeed(job)
        clock.advance(1700.0)  # its result is kept for 30 minutes from then
        assert follow(handle, []).result(30).attempt_id == "a" * 32


def test_what_is_dropped_from_the_queue_did_not_run(
    backend: RunPodBackend, clock: ManualClock, follow: Following
) -> None:
    handle, seen = backend.submit(Work("a" * 32, GRAPH, timeout_s=RUN_S)), list[Any]()
    answer = follow(handle, seen)
    eventually(lambda: bool(seen))
    clock.advance(QUEUE_S + RUN_S + 1801.0)
    with pytest.raises(JobTimeout, match="dropped the job from its queue") as caught:
        answer.result(30)
    assert caught.value.info.detail["confirmed_stopped"] is True


def test_what_was_forgotten_while_nobody_looked_may_have_run(
    backend: RunPodBackend, clock: ManualClock, follow: Following
) -> None:
    handle = backend.submit(Work("a" * 32, GRAPH, timeout_s=RUN_S))
    clock.advance(QUEUE_S + RUN_S + 1801.0)
    with pytest.raises(OutcomeUnknown) as caught:
        follow(handle, []).result(30)
    assert caught.value.code == "job_gone"


def test_a_queue_is_waited_in_as_long_by_default_as_the_router_waits() -> None:
    assert Option("runpod").patience_s == QUEUE_S
