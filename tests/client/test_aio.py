"""AsyncClient has the sync client's names, waits in the loop, and leaves nothing running."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pennyreel
from fakes.waits import eventually
from pennyreel import AsyncClient, Client, JobFailed, JobTimeout
from pennyreel.errors import Code, error
from pennyreel.types import Detached, Finished, JobEvent, Progressed, Submitted


def settings(**more: str) -> dict[str, Any]:
    told = ",".join(f"{name}={value}" for name, value in {"run_s": "0.05", **more}.items())
    return {"backend": "simulated", "simulated": told}


def play(story: Callable[[], Awaitable[None]]) -> None:
    """Run it, and see that every thread that it started has ended."""
    before = set(threading.enumerate())
    asyncio.run(story())  # type: ignore[arg-type]
    eventually(lambda: not {t for t in threading.enumerate() if t.is_alive()} - before)


async def seen(condition: Callable[[], bool]) -> None:
    """Wait until it is true, looking in each turn of the loop, so that nothing overtakes it."""
    limit = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < limit, "never became true"
        await asyncio.sleep(0)


def faces(cls: type[Any]) -> dict[str, Any]:
    return {name: cls.__dict__[name] for name in vars(cls) if not name.startswith("_")}


def test_both_clients_have_the_same_names_and_parameters() -> None:
    sync, other = faces(Client), faces(AsyncClient)
    assert set(other) - {"settings"} == set(sync)
    assert "settings" in vars(Client())
    for name, member in sync.items():
        if isinstance(member, property):
            assert isinstance(other[name], property)
            continue
        assert shape(other[name]) == shape(member), name
        assert inspect.iscoroutinefunction(other[name]), name
    assert shape(AsyncClient.__init__) == shape(Client.__init__)


def shape(function: Any) -> list[tuple[object, ...]]:
    """Its parameters; the two modules import the batch's types under different names."""
    return [
        (p.name, p.kind, p.default, str(p.annotation).replace("batch.", "").replace("Of", ""))
        for p in inspect.signature(function).parameters.values()
    ]


def test_jobs_have_the_same_names() -> None:
    from pennyreel.aio import AsyncJob
    from pennyreel.routed import RoutedJob

    names = {"id", "handle", "done", "accepted", "detach", "events", "result", "cancel"}
    assert set(faces(AsyncJob)) == names
    assert names - {"id"} <= set(faces(RoutedJob))
    assert names - {"id", "handle"} <= set(faces(pennyreel.Job))


def test_a_prompt_becomes_a_file_and_its_events_come_in_order(out: Path) -> None:
    told: list[JobEvent] = []

    async def story() -> None:
        async with AsyncClient(**settings()) as client:
            result = await client.generate("a boat", on_event=told.append)
        assert result.paths[0].parent == out
        assert result.paths[0].read_bytes()[:3] == b"GIF"

    play(story)
    assert isinstance(told[-1], Finished)
    assert [e for e in told if isinstance(e, Submitted)]


def test_events_are_an_async_iterator_from_the_beginning_for_whoever_asks() -> None:
    async def story() -> None:
        async with AsyncClient(**settings()) as client:
            job = await client.start("a boat")
            first = [event async for event in job.events()]
            second, result = await asyncio.gather(_read(job), job.result())
            assert first == second
            assert result.job_id == job.id
            assert job.handle == result.handle
            assert job.done

    play(story)


async def _read(job: pennyreel.AsyncJob) -> list[JobEvent]:
    return [event async for event in job.events()]


def test_a_job_that_fails_raises_its_error_to_all_who_wait() -> None:
    async def story() -> None:
        async with AsyncClient(**settings(fail="1")) as client:
            job = await client.start("a boat")
            ends = await asyncio.gather(job.result(), job.result(), return_exceptions=True)
            assert all(isinstance(end, JobFailed) for end in ends)

    play(story)


def test_cancelling_the_waiting_task_cancels_the_job_and_confirms_it() -> None:
    async def story() -> None:
        async with AsyncClient(**settings(run_s="600")) as client:
            running, ids = asyncio.Event(), []

            def see(event: JobEvent) -> None:
                if isinstance(event, Submitted):
                    ids.append(event.handle.attempt_id)
                if isinstance(event, Progressed):
                    running.set()

            task = asyncio.ensure_future(client.generate("a boat", on_event=see))
            await running.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            ledger = client.dispatch.ledger
            attempt = ledger.attempt(ids[0])
            assert attempt is not None
            assert (attempt.state, ledger.job(attempt.job_id).outcome) == ("ended", "cancelled")
            assert ledger.open_attempts() == []

    play(story)


def test_only_the_newest_preview_is_kept() -> None:
    from pennyreel.aio import AsyncJob

    class Pictures:
        id, handle, done = "j", None, True

        def events(self) -> Iterator[JobEvent]:
            for percent in range(5):
                yield Progressed(percent, "running", preview=f"data:{percent}")
            yield Finished("done")

        def result(self) -> None:
            raise error(Code.EXECUTION_FAILED, "it failed")

    async def story() -> None:
        job = AsyncJob(Pictures())  # type: ignore[arg-type]
        with pytest.raises(JobFailed):
            await job.result()
        kept = [e.preview async for e in job.events() if isinstance(e, Progressed)]
        assert kept == [None] * 4 + ["data:4"]

    play(story)


def test_a_second_cancel_leaves_at_once_and_close_still_waits_for_the_confirmation() -> None:
    async def story() -> None:
        async with AsyncClient(**settings(run_s="600")) as client:
            running = asyncio.Event()
            task = asyncio.ensure_future(
                client.generate("a boat", on_event=lambda _: running.set())
            )
            await running.wait()
            task.cancel()
            await seen(lambda: bool(client._stopping))  # the first has got that far
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            ledger = client.dispatch.ledger
            await asyncio.gather(*client._stopping)
            assert [job.outcome for job in ledger.jobs()] == ["cancelled"]

    play(story)


def test_a_job_that_was_being_sent_when_its_task_was_cancelled_does_not_run_on() -> None:
    async def story() -> None:
        async with AsyncClient(**settings(run_s="600")) as client:
            noted, on = threading.Event(), threading.Event()

            def hold(_: str) -> None:
                noted.set()
                on.wait(15)

            task = asyncio.ensure_future(client.start("a boat", noted=hold))
            await seen(noted.is_set)
            task.cancel()
            on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            (job,) = client.dispatch.ledger.jobs()
            assert job.outcome == "cancelled"

    play(story)


def test_a_timeout_of_the_waiting_leaves_the_job_and_one_of_the_job_cancels_it() -> None:
    async def story() -> None:
        async with AsyncClient(**settings(run_s="600")) as client:
            job = await client.start("a boat")
            with pytest.raises(TimeoutError, match="has not ended"):
                await job.result(timeout_s=0.05)
            assert not job.done
            assert await job.cancel() is True
            with pytest.raises(JobTimeout):
                await client.generate("a boat", timeout_s=0.2)

    play(story)


def test_an_exception_out_of_the_callback_cancels_the_job() -> None:
    def broken(event: JobEvent) -> None:
        if isinstance(event, Submitted):
            raise ZeroDivisionError

    async def story() -> None:
        async with AsyncClient(**settings(run_s="600")) as client:
            with pytest.raises(ZeroDivisionError):
                await client.generate("a boat", on_event=broken)
            (job,) = client.dispatch.ledger.jobs()
            assert job.outcome == "cancelled"

    play(story)


def test_a_workflow_a_handle_a_quote_and_health(graph_file: Path) -> None:
    async def story() -> None:
        async with AsyncClient(**settings()) as client:
            ran = await client.run(str(graph_file))
            found = await client.handle(str(ran.handle))
            assert (await found.result()).handle == ran.handle
            assert await client.cancel(ran.job_id), "it is over"
            quote, health = await asyncio.gather(client.quote("a boat"), client.health("simulated"))
            assert quote.decision.order
            assert health.reachable

    play(story)


def test_a_job_is_let_go_and_gone_on_with(graph_file: Path) -> None:
    async def story() -> None:
        async with AsyncClient(**settings(run_s="0.3")) as client:
            job = await client.submit(str(graph_file))
            await job.detach()
            handle = await job.accepted()
            assert isinstance((await _read(job))[-1], Detached)
            again = await client.resume(job.id)
            assert await again.accepted() == handle
            assert (await again.result()).job_id == job.id

    play(story)


def test_generate_by_itself_makes_and_closes_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENNYREEL_SIMULATED", "run_s=0.01")
    before = set(threading.enumerate())
    result = pennyreel.generate("a boat", kind="image", backend="simulated")
    assert result.paths[0].read_bytes()[1:4] == b"PNG"
    eventually(lambda: not {t for t in threading.enumerate() if t.is_alive()} - before)


@pytest.fixture
def graph_file(tmp_path: Path) -> Path:
    import json

    from client.support import GRAPH

    file = tmp_path / "graph.json"
    file.write_text(json.dumps(GRAPH))
    return file
