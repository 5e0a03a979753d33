"""Our part of the SDK's loop, against a platform of a few lines: every answer that it can give."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import runpod
from aiohttp import web
from runpod.serverless.modules import rp_http, rp_job, rp_scale
from runpod.serverless.modules.worker_state import JobsProgress

from pennyreel_contract import ErrorInfo
from pennyreel_worker import loop
from pennyreel_worker.app import Worker
from pennyreel_worker.loop import Scaler
from pennyreel_worker.pacing import Pace
from worker.support import play, settings_of

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


class Platform:
    """Hands out `jobs` in order, tells `stops`, and notes what is posted."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, Any] | int] = []
        self.stops: list[str] = []
        self.verdicts: list[int] = []
        self.posts: list[tuple[str, dict[str, Any]]] = []
        self.takes = 0
        self.told: list[str] = []
        self.news = asyncio.Condition()
        self.url = ""

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.takes += 1
        self.told.append(request.query["job_in_progress"])
        async with self.news:
            await self.news.wait_for(lambda: self.jobs)
        job = self.jobs.pop(0)
        return web.Response(status=job) if isinstance(job, int) else web.json_response(job)

    async def stop(self, _: web.Request) -> web.StreamResponse:
        async with self.news:
            await self.news.wait_for(lambda: self.stops)
        stops, self.stops = self.stops, []
        return web.json_response({"jobsToStop": stops})

    async def done(self, request: web.Request) -> web.StreamResponse:
        status = self.verdicts.pop(0) if self.verdicts else 200
        if status == 200:
            async with self.news:
                self.posts.append((request.match_info["job"], json.loads(await request.read())))
                self.news.notify_all()
        return web.Response(status=status)

    async def give(self, *jobs: dict[str, Any] | int) -> None:
        async with self.news:
            self.jobs += jobs
            self.news.notify_all()

    async def tell_to_stop(self, job_id: str) -> None:
        async with self.news:
            self.stops.append(job_id)
            self.news.notify_all()

    async def posted(self, count: int) -> list[tuple[str, dict[str, Any]]]:
        async with self.news:
            await asyncio.wait_for(self.news.wait_for(lambda: len(self.posts) >= count), 20)
        return self.posts


class Hands(Worker):
    """A worker without ComfyUI: only what the loop asks of it."""

    def __init__(self, **env: str) -> None:
        self.settings = settings_of(**env)
        self.pace = Pace(self.settings.hold, self.settings.lead_s)
        self.broken = None
        self.on_broken = lambda: None
        self.given_up = asyncio.Event()

    def give_up(self) -> None:
        self.given_up.set()


@pytest.fixture(autouse=True)
def _sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rp_scale, "JobScaler", rp_scale.JobScaler)
    monkeypatch.setattr(loop, "LATE_S", 0.3)
    monkeypatch.setattr(Scaler, "worker", None, raising=False)


def story(
    monkeypatch: pytest.MonkeyPatch,
    handler: Handler,
    tell: Callable[[Platform, Scaler], Awaitable[None]],
    **env: str,
) -> Platform:
    """Run the loop against the platform until `tell` returns and the loop has ended."""

    async def run() -> Platform:
        platform = Platform()
        app = web.Application()
        app.router.add_get("/job-take/w", platform.take)
        app.router.add_get("/job-stop/w", platform.stop)
        app.router.add_post("/job-done/w/{job}", platform.done)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        base = f"http://127.0.0.1:{runner.addresses[0][1]}"
        monkeypatch.setattr(rp_job, "JOB_GET_URL", f"{base}/job-take/w?gpu=x")
        monkeypatch.setattr(rp_http, "JOB_DONE_URL", f"{base}/job-done/w/$ID?gpu=x")
        Scaler.worker = Hands(**env)
        scaler = Scaler({"handler": handler})
        task = asyncio.create_task(scaler.run())
        try:
            await tell(platform, scaler)
            scaler._signalled()
            await asyncio.wait_for(task, 20)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await runner.cleanup()
        return platform

    return play(run())


def job(name: str) -> dict[str, Any]:
    return {"id": name, "input": {"n": name}}


async def echo(given: dict[str, Any]) -> dict[str, Any]:
    return {"said": given["input"]["n"]}


def test_jobs_are_answered_and_the_last_poll_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(platform: Platform, _: Scaler) -> None:
        await platform.give(*(job(str(n)) for n in range(5)))
        await platform.posted(5)

    platform = story(monkeypatch, echo, tell)
    assert platform.posts == [(str(n), {"output": {"said": str(n)}}) for n in range(5)]


def test_no_job_is_asked_for_while_another_runs_and_its_end_is_far(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go = asyncio.Event

    async def tell(platform: Platform, scaler: Scaler) -> None:
        pace = scaler.worker.pace
        await platform.give(job("long"))
        await asyncio.wait_for(began.wait(), 10)
        pace.prepared("long")
        pace.running("long", lambda: 100.0)
        takes = platform.takes
        await asyncio.sleep(0.6)  # twice as long as it takes to look again
        assert platform.takes == takes
        pace.running("long", lambda: 0.0)
        await platform.give(job("next"))
        await platform.posted(1)
        assert [name for name, _ in platform.posts] == ["next"]
        done.set()
        await platform.posted(2)

    began, done = go(), go()

    async def handler(given: dict[str, Any]) -> dict[str, Any]:
        if given["id"] == "long":
            began.set()
            await done.wait()
        return await echo(given)

    story(monkeypatch, handler, tell)


@pytest.mark.parametrize("answer", [204, 400, 500])
def test_a_poll_without_a_job_is_followed_by_another(
    monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    async def tell(platform: Platform, _: Scaler) -> None:
        await platform.give(answer, answer, job("a"))
        await platform.posted(1)

    assert story(monkeypatch, echo, tell).posts == [("a", {"output": {"said": "a"}})]


def test_a_job_that_comes_when_it_is_time_to_stop_is_given_back_as_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    called: list[str] = []

    async def handler(given: dict[str, Any]) -> dict[str, Any]:
        called.append(given["id"])
        return {}

    async def tell(platform: Platform, scaler: Scaler) -> None:
        while not platform.takes:
            await asyncio.sleep(0.01)
        scaler._signalled()
        await platform.give(job("late"))

    platform = story(monkeypatch, handler, tell)
    ((name, body),) = platform.posts
    problem = ErrorInfo.decode(body["error"])
    assert (name, problem.code, problem.retryable) == ("late", "worker_stopping", True)
    assert called == []


def test_running_jobs_are_drained_and_given_up_when_the_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def handler(given: dict[str, Any]) -> dict[str, Any]:
        began.set()
        if given["id"] == "slow":
            await Scaler.worker.given_up.wait()  # type: ignore[attr-defined]
            return {"error": "given up"}
        return await echo(given)

    began = asyncio.Event()

    async def tell(platform: Platform, scaler: Scaler) -> None:
        await platform.give(job("slow"))
        await asyncio.wait_for(began.wait(), 10)

    platform = story(monkeypatch, handler, tell, PENNYREEL_DRAIN_S="0.2")
    assert platform.posts == [("slow", {"error": "given up"})]


def test_a_stop_ends_its_job_and_one_that_comes_first_is_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []

    async def handler(given: dict[str, Any]) -> dict[str, Any]:
        if given["id"] == "last":
            return await echo(given)
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.append(given["id"])
            raise
        return {}

    async def tell(platform: Platform, scaler: Scaler) -> None:
        await platform.give(job("a"))
        while not scaler.jobs_tasks:
            await asyncio.sleep(0.01)
        await platform.tell_to_stop("a")
        while scaler.jobs_tasks or not ended:
            await asyncio.sleep(0.01)
        await platform.tell_to_stop("b")
        while "b" not in scaler._stopped:
            await asyncio.sleep(0.01)
        await platform.give(job("b"), job("last"))
        await platform.posted(1)

    platform = story(monkeypatch, handler, tell)
    assert ended == ["a"]
    assert [name for name, _ in platform.posts] == ["last"]


def test_a_result_that_is_refused_twice_becomes_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def tell(platform: Platform, _: Scaler) -> None:
        platform.verdicts = [400, 400]
        await platform.give(job("a"))
        await platform.posted(1)

    ((_, body),) = story(monkeypatch, echo, tell).posts
    assert ErrorInfo.decode(body["error"]).code == "result_refused"


@pytest.mark.parametrize("hiccups", [[400], [500, 503, 429], [502]])
def test_a_result_is_posted_again_until_it_is_taken(
    monkeypatch: pytest.MonkeyPatch, hiccups: list[int]
) -> None:
    async def tell(platform: Platform, _: Scaler) -> None:
        platform.verdicts = list(hiccups)
        await platform.give(job("a"))
        await platform.posted(1)

    assert story(monkeypatch, echo, tell).posts == [("a", {"output": {"said": "a"}})]


def test_of_two_jobs_only_the_last_answer_asks_for_a_new_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = asyncio.Event()

    async def handler(given: dict[str, Any]) -> dict[str, Any]:
        if given["id"] == "b":
            both.set()
            await broke.wait()
            return await echo(given)
        await both.wait()
        return {"error": "broken", "refresh_worker": True}

    broke = asyncio.Event()

    async def tell(platform: Platform, scaler: Scaler) -> None:
        await platform.give(job("a"))
        while not scaler.jobs_tasks:
            await asyncio.sleep(0.01)
        scaler.worker.pace.executed("a")
        await platform.give(job("b"))
        await platform.posted(1)
        broke.set()
        await platform.posted(2)
        takes = platform.takes
        await platform.give(job("c"))
        await asyncio.sleep(0.1)
        assert platform.takes == takes  # nothing more is asked for

    platform = story(monkeypatch, handler, tell)
    assert platform.posts == [
        ("a", {"error": "broken"}),
        ("b", {"output": {"said": "b"}, "stopPod": True}),
    ]


def test_another_version_of_the_sdk_keeps_its_own_loop_with_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stock = rp_scale.JobScaler
    monkeypatch.setattr(runpod, "__version__", "9.9.9")
    assert not loop.install(Hands())
    assert rp_scale.JobScaler is stock
    assert "9.9.9 is not a version" in caplog.text
    monkeypatch.setattr(runpod, "__version__", loop.TRIED[0])
    assert loop.install(Hands())
    assert rp_scale.JobScaler is Scaler


def test_a_stop_that_comes_when_its_job_is_over_does_not_cost_the_retry(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def tell(platform: Platform, scaler: Scaler) -> None:
        await platform.give(job("a"))
        await platform.posted(1)
        while scaler.jobs_tasks:
            await asyncio.sleep(0.01)
        assert not await scaler.stop_job("a")
        await platform.give(job("a"))
        await platform.posted(2)

    assert len(story(monkeypatch, echo, tell).posts) == 2


def test_an_answer_that_is_no_job_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    async def tell(platform: Platform, _: Scaler) -> None:
        await platform.give([{"no": "id"}, 7], job("a"))  # type: ignore[arg-type]
        await platform.posted(1)

    assert story(monkeypatch, echo, tell).posts == [("a", {"output": {"said": "a"}})]


def test_a_job_that_is_handed_out_twice_at_once_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[str] = []
    done = asyncio.Event()

    async def handler(given: dict[str, Any]) -> dict[str, Any]:
        runs.append(given["id"])
        await done.wait()
        return await echo(given)

    async def tell(platform: Platform, scaler: Scaler) -> None:
        await platform.give(job("a"))
        while not runs:
            await asyncio.sleep(0.01)
        scaler.worker.pace.executed("a")
        await platform.give(job("a"))
        while platform.takes < 3:
            await asyncio.sleep(0.01)
        done.set()
        await platform.posted(1)

    platform = story(monkeypatch, handler, tell)
    assert (len(runs), len(platform.posts)) == (1, 1)


def test_a_signal_that_came_before_the_loop_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = Scaler.__init__

    def early(self: Scaler, config: dict[str, Any]) -> None:
        stock(self, config)
        self.kill_worker()  # as the SDK's own handler does

    async def tell(platform: Platform, scaler: Scaler) -> None:
        while not scaler._signals:
            await asyncio.sleep(0.01)

    monkeypatch.setattr(Scaler, "__init__", early)
    assert story(monkeypatch, echo, tell).takes == 0


def test_the_last_of_two_answers_asks_for_a_new_worker_though_the_other_is_still_being_posted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both, verdicts = asyncio.Event(), [503, 503]

    async def handler(given: dict[str, Any]) -> dict[str, Any]:
        if given["id"] == "a":
            await both.wait()
            return await echo(given)
        both.set()
        while verdicts:  # the other one's post is refused meanwhile
            await asyncio.sleep(0.01)
        return {"error": "broken", "refresh_worker": True}

    async def tell(platform: Platform, scaler: Scaler) -> None:
        platform.verdicts = verdicts
        await platform.give(job("a"))
        while not scaler.jobs_tasks:
            await asyncio.sleep(0.01)
        scaler.worker.pace.executed("a")
        await platform.give(job("b"))
        await platform.posted(2)

    platform = story(monkeypatch, handler, tell)
    assert [("stopPod" in body) for _, body in platform.posts] == [False, True]
    assert [name for name, _ in platform.posts] == ["a", "b"]


def test_polls_and_pings_tell_of_every_job_that_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    done, began = asyncio.Event(), [0]

    async def handler(given: dict[str, Any]) -> dict[str, Any]:
        began[0] += 1
        await done.wait()
        return await echo(given)

    async def tell(platform: Platform, scaler: Scaler) -> None:
        held = JobsProgress()  # what the SDK's ping process is shown
        assert held.get_job_list() is None
        await platform.give(job("a"))
        while began[0] < 1:
            await asyncio.sleep(0.01)
        scaler.worker.pace.executed("a")
        await platform.give(job("b"))
        while began[0] < 2:
            await asyncio.sleep(0.01)
        assert platform.told == ["0", "1"]
        assert set((held.get_job_list() or "").split(",")) == {"a", "b"}
        done.set()
        await platform.posted(2)
        while held.get_job_list():
            await asyncio.sleep(0.01)

    story(monkeypatch, handler, tell)


def test_a_job_that_does_not_even_end_when_it_is_given_up_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loop, "STOP_S", 0.1)  # instead of fifteen seconds
    began = asyncio.Event()

    async def handler(_: dict[str, Any]) -> dict[str, Any]:
        began.set()
        await asyncio.Event().wait()
        return {}

    async def tell(platform: Platform, scaler: Scaler) -> None:
        scaler.worker._live = set()
        await platform.give(job("stuck"))
        await asyncio.wait_for(began.wait(), 10)

    platform = story(monkeypatch, handler, tell, PENNYREEL_DRAIN_S="0.2")
    ((name, body),) = platform.posts
    problem = ErrorInfo.decode(body["error"])
    assert (name, problem.code, problem.retryable) == ("stuck", "worker_stopping", True)
