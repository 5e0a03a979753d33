"""Progress: in order, never falling, and silent once the job is over."""

from __future__ import annotations

import asyncio
import base64
import threading
import time
from itertools import pairwise
from typing import Any

import pytest

from pennyreel_comfy.events import Executing, Image, NodeSteps, Started
from pennyreel_contract import Progress, parse_progress
from pennyreel_worker.reporting import Listener, Reporter
from worker.support import play

THUMBNAIL = "data:image/png;base64,AA=="
GRAPH = {"1": {"class_type": "KSampler", "inputs": {}}}


class Posts:
    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.bodies: list[dict[str, Any]] = []
        self.begun: list[float] = []
        self.active = 0
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, body: dict[str, Any]) -> None:
        self.active += 1
        assert self.active == 1, "two posts at once could overtake each other"
        self.begun.append(time.monotonic())
        await asyncio.sleep(self.seconds)
        await self.go_on.wait()
        self.active -= 1
        self.bodies.append(body)

    def percents(self) -> list[float]:
        return [p.percent for p in map(parse_progress, self.bodies) if p is not None]


async def stopped(reporter: Reporter) -> None:
    """Stop it, and wait for the post that is under way."""
    if (posting := reporter.stop()) is not None:
        await posting


def test_the_newest_wins_and_nothing_falls() -> None:
    async def story() -> list[float]:
        posts = Posts(0.02)
        reporter = Reporter(posts, interval_s=0.0)
        for percent in (1, 50, 20, 70, 30):
            reporter.stage("executing", percent)
            await asyncio.sleep(0.015)
        while posts.percents()[-1:] != [70]:
            await asyncio.sleep(0.01)
        await stopped(reporter)
        return posts.percents()

    percents = play(story())
    assert percents == sorted(percents)
    assert percents[0] == 1
    assert percents[-1] == 70


def test_close_waits_for_the_post_under_way_and_lets_none_follow() -> None:
    async def story() -> None:
        posts = Posts()
        posts.go_on.clear()
        reporter = Reporter(posts, interval_s=0.0)
        reporter.stage("executing", 1)
        while not posts.active:
            await asyncio.sleep(0.01)
        reporter.stage("executing", 2)
        closing = asyncio.ensure_future(stopped(reporter))
        await asyncio.sleep(0.05)  # time for what should not come
        assert not closing.done()
        posts.go_on.set()
        await closing
        assert posts.percents() == [1]
        reporter.stage("executing", 3)
        await asyncio.sleep(0.05)  # the same
        assert posts.percents() == [1]

    play(story())


def test_updates_are_no_more_frequent_than_the_interval() -> None:
    async def story() -> list[float]:
        posts, percent = Posts(), 0.0
        reporter = Reporter(posts, interval_s=0.1)
        while len(posts.bodies) < 5:
            reporter.stage("executing", percent)
            percent += 0.01
            await asyncio.sleep(0.01)
        await stopped(reporter)
        return posts.begun

    begun = play(story())
    assert min(after - before for before, after in pairwise(begun)) > 0.09


@pytest.mark.parametrize("interval_s", [0.0, 0.03])
def test_every_stage_is_told_and_the_last_of_each(interval_s: float) -> None:
    async def story() -> list[tuple[str, float]]:
        posts = Posts(0.02)
        reporter = Reporter(posts, interval_s=interval_s)
        for stage, percent in (
            ("preparing", 0), ("preparing", 2), ("preparing", 4),
            ("executing", 5), ("executing", 50), ("executing", 90),
            ("delivering", 95),
        ):  # fmt: skip
            reporter.stage(stage, percent)
        while len(posts.bodies) < 3:
            await asyncio.sleep(0.01)
        await stopped(reporter)
        found = [parse_progress(body) for body in posts.bodies]
        return [(p.stage, p.percent) for p in found if p is not None]

    assert play(story()) == [("preparing", 4.0), ("executing", 90.0), ("delivering", 95.0)]


def test_threads_that_report_at_once_lose_nothing_and_wake_the_loop_seldom() -> None:
    async def story() -> tuple[list[float], int]:
        posts = Posts()
        reporter = Reporter(posts, interval_s=0.2)
        wakes = 0
        wake = reporter._loop.call_soon_threadsafe

        def counted(*args: Any) -> Any:
            nonlocal wakes
            wakes += 1
            return wake(*args)

        reporter._loop.call_soon_threadsafe = counted  # type: ignore[method-assign]
        threads = [
            threading.Thread(
                target=lambda: [reporter.stage("executing", n / 10) for n in range(1000)]
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        woken = wakes
        while posts.percents()[-1:] != [99.9]:
            await asyncio.sleep(0.01)
        await stopped(reporter)
        return posts.percents(), woken

    percents, wakes = play(story())
    assert percents == sorted(percents)
    assert wakes < 50  # of 4000


def test_a_thumbnail_is_not_lost_to_a_newer_update_without_one() -> None:
    async def story() -> list[str | None]:
        posts = Posts()
        reporter = Reporter(posts, interval_s=0.0)
        reporter.offer(Progress(percent=1, stage="executing", preview=THUMBNAIL))
        reporter.offer(Progress(percent=2, stage="executing"))
        while not posts.bodies:
            await asyncio.sleep(0.01)
        await stopped(reporter)
        found = [parse_progress(body) for body in posts.bodies]
        return [p.preview for p in found if p is not None]

    assert play(story()) == [THUMBNAIL]


def test_an_update_with_a_thumbnail_replaces_the_one_before_it() -> None:
    async def story() -> list[float]:
        posts = Posts()
        reporter = Reporter(posts, interval_s=0.0)
        for percent in (1, 2, 3):
            reporter.offer(Progress(percent=percent, stage="executing", preview=THUMBNAIL))
        reporter.stage("delivering", 95)
        while posts.percents()[-1:] != [95]:
            await asyncio.sleep(0.01)
        await stopped(reporter)
        return posts.percents()

    assert play(story()) == [3, 95]


def test_a_thumbnail_is_seen_by_who_asks_seldom() -> None:
    """The platform shows a job's last post alone."""

    async def story() -> list[str | None]:
        posts = Posts()
        reporter = Reporter(posts, interval_s=0.0)
        reporter.offer(Progress(percent=1, stage="executing", preview=THUMBNAIL))
        for percent in (2, 3):
            while len(posts.bodies) < percent - 1:
                await asyncio.sleep(0.01)
            if percent == 3:
                reporter._preview_ends = 0.0  # its time is over
            reporter.stage("executing", percent)
        while len(posts.bodies) < 3:
            await asyncio.sleep(0.01)
        await stopped(reporter)
        found = [parse_progress(body) for body in posts.bodies]
        return [p.preview for p in found if p is not None]

    assert play(story()) == [THUMBNAIL, THUMBNAIL, None]


def test_a_post_that_fails_does_not_fail_the_job() -> None:
    refused: list[dict[str, Any]] = []

    async def refuse(body: dict[str, Any]) -> None:
        refused.append(body)
        raise OSError("no")

    async def story() -> None:
        reporter = Reporter(refuse, interval_s=0.0)
        reporter.stage("executing", 1)
        while not refused:
            await asyncio.sleep(0.01)
        await stopped(reporter)

    play(story())


def test_other_threads_may_report_even_when_nobody_listens_any_more() -> None:
    async def begin() -> Reporter:
        reporter = Reporter(Posts(), interval_s=0.0)
        await stopped(reporter)
        return reporter

    reporter = play(begin())
    thread = threading.Thread(target=reporter.stage, args=("executing", 1.0))
    thread.start()
    thread.join()


class Heard(Reporter):
    def __init__(self) -> None:
        self.offered: list[Progress] = []

    def offer(self, progress: Progress) -> None:
        self.offered.append(progress)


def test_events_become_progress_of_the_whole_job() -> None:
    reporter = Heard()
    listen = Listener(reporter, GRAPH, previews=True)
    listen(Started("p"))
    listen(Executing("p", "1"))
    listen(Image("image/jpeg", b"jpeg", "p", "1"))
    listen(NodeSteps("p", "1", 5, 10))
    last = reporter.offered[-1]
    assert (last.node, last.node_class, last.step, last.steps) == ("1", "KSampler", 5, 10)
    assert 40 < last.percent < 60
    assert last.preview == "data:image/jpeg;base64," + base64.b64encode(b"jpeg").decode()
    listen(NodeSteps("p", "1", 6, 10))
    assert reporter.offered[-1].preview is None  # the reporter keeps it


def test_previews_are_sent_on_request_and_when_small() -> None:
    for previews, size in ((False, 10), (True, 300_000)):
        reporter = Heard()
        listen = Listener(reporter, GRAPH, previews=previews)
        listen(Image("image/jpeg", bytes(size), "p", "1"))
        listen(NodeSteps("p", "1", 5, 10))
        assert reporter.offered[-1].preview is None


def test_thumbnails_are_few_of_known_formats_and_no_results() -> None:
    graph = {**GRAPH, "9": {"class_type": "SaveImageWebsocket", "inputs": {}}}
    for image in (
        Image("text/html", b"<script>", "p", "1"),
        Image("image/png", b"a result", "p", "9"),
    ):
        reporter = Heard()
        listen = Listener(reporter, graph, previews=True)
        listen(image)
        listen(NodeSteps("p", "1", 5, 10))
        assert reporter.offered[-1].preview is None
    reporter = Heard()
    listen = Listener(reporter, graph, previews=True)
    for step in range(10):
        listen(Image("image/jpeg", b"jpeg", "p", "1"))
        listen(NodeSteps("p", "1", step, 10))
    assert len([p for p in reporter.offered if p.preview]) == 1


def test_the_listener_tells_when_the_gpu_is_free_and_the_client_when_the_job_is_done() -> None:
    reporter = Heard()
    listen = Listener(reporter, GRAPH, previews=False, expected_s=100.0, deliver_s=20.0)
    assert listen.remaining_s() == 100.0
    listen(Started("p"))
    listen(Executing("p", "1"))
    left = listen.remaining_s()
    assert left is not None
    assert 99.0 < left <= 100.0
    assert reporter.offered[-1].eta_s is not None
    assert 119.0 <= reporter.offered[-1].eta_s <= 120.0
    listen(Executing("p", None))
    assert listen.remaining_s() == 0.0
    assert [t.node for t in listen.nodes()] == ["1"]
