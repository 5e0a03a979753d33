"""Cancelling, deadlines and deaths at every stage; the next job always runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pennyreel_comfy.http import READ_S
from pennyreel_contract import ErrorInfo, parse_result
from pennyreel_worker import app
from worker.support import (
    COMMAND,
    S3,
    Bench,
    becomes,
    comfy_of,
    node,
    play,
    request,
    settings_of,
    until,
)

SLEEP = {"1": node("FakeSleep", seconds=600), "9": node("SaveImage", filename_prefix="x")}


async def cancelled(task: asyncio.Task[object], within_s: float = 15.0) -> None:
    """Cancel as the SDK does; what was cancelled would take much longer."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, within_s)


def test_a_running_job_is_interrupted_by_its_own_id(bench: Bench) -> None:
    async def story() -> None:
        task = asyncio.create_task(bench.job(request(SLEEP)))
        running = await becomes(lambda: bench.fake()["running"])
        await cancelled(task)
        assert running in bench.fake()["interrupts"]

    play(story())
    assert bench.fake()["running"] is None
    assert bench.fake()["history"] == []
    assert bench.left() == []
    assert bench.good(request()).artifacts


def test_a_queued_job_is_taken_out_and_the_running_one_goes_on(bench: Bench) -> None:
    async def story() -> None:
        running = asyncio.create_task(
            bench.job(request({"1": node("FakeSleep", seconds=1), "9": SLEEP["9"]}))
        )
        await becomes(lambda: bench.fake()["running"])
        before = len(bench.prompts())
        queued = asyncio.create_task(bench.job(request(SLEEP)))
        await becomes(lambda: len(bench.prompts()) > before)
        await cancelled(queued)
        assert "artifacts" in await running

    play(story())
    assert bench.left() == []


@contextlib.contextmanager
def own_bench(**env: str) -> Iterator[Bench]:
    """A worker with a ComfyUI of its own."""
    settings = settings_of(**env)
    with comfy_of(settings) as comfy:
        made = Bench(comfy, settings)
        try:
            yield made
        finally:
            made.worker.close()


def never_up() -> str:
    return json.dumps(
        [sys.executable, "-c", "import time; print('loading', flush=True); time.sleep(60)"]
    )


def test_a_job_that_waits_for_comfyui_can_be_cancelled() -> None:
    with own_bench(PENNYREEL_COMFYUI_COMMAND=never_up()) as bench:

        async def story() -> None:
            task = asyncio.create_task(bench.job(request()))
            await becomes(lambda: bench.comfy.process.tail())
            await cancelled(task)

        play(story())
        assert bench.left() == []


def test_the_wait_for_comfyui_counts_against_the_job() -> None:
    with own_bench(PENNYREEL_COMFYUI_COMMAND=never_up()) as bench:
        problem = bench.bad(request(timeout_s=0.4))
        assert problem.code == "timeout"
        assert "0.4 s" in problem.message


class _Slow(threading.Thread):
    """Passes connections on to S3, but an upload only byte by byte."""

    def __init__(self, target: str) -> None:
        super().__init__(daemon=True)
        host, port = target.removeprefix("http://").split(":")
        self.target = (host, int(port))
        self.server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        self.uploading = threading.Event()
        self.over = threading.Event()
        self._passing: list[tuple[threading.Thread, socket.socket]] = []

    def run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                passing = threading.Thread(target=self._pass, args=(client,), daemon=True)
                self._passing.append((passing, client))
                passing.start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as store, contextlib.suppress(OSError):
            back = threading.Thread(target=self._back, args=(store, client), daemon=True)
            back.start()
            try:
                while piece := client.recv(65536):
                    if piece.startswith((b"PUT", b"POST")):
                        self.uploading.set()
                        self.over.wait(30)  # the rest waits in the kernel's buffers
                        return
                    store.sendall(piece)
            finally:
                store.shutdown(socket.SHUT_RDWR)
                back.join()

    @staticmethod
    def _back(store: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := store.recv(65536):
                client.sendall(piece)

    def close(self) -> None:
        self.over.set()
        with contextlib.suppress(OSError):  # closed before
            self.server.shutdown(socket.SHUT_RDWR)  # closing alone wakes nobody
        self.server.close()

    def end(self) -> None:
        """Close, and leave no thread behind that waits at a socket's number."""
        self.close()
        self.join()
        for passing, client in self._passing:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            passing.join()


@pytest.fixture
def slow_s3(s3: S3) -> Iterator[_Slow]:
    proxy = _Slow(s3.url)
    proxy.start()
    yield proxy
    proxy.end()


BIG = {"1": node("FakeBig", bytes=4 << 20, filename_prefix="big")}


def test_a_delivery_can_be_cancelled(
    make_bench: Callable[..., Bench], s3: S3, slow_s3: _Slow
) -> None:
    bench = make_bench(**s3.env(BUCKET_ENDPOINT_URL=slow_s3.url))

    async def story() -> None:
        task = asyncio.create_task(bench.job(request(BIG)))
        await becomes(slow_s3.uploading.is_set)
        await cancelled(task)
        slow_s3.close()

    play(story())
    assert bench.left() == []
    assert s3.listed() == []


def test_the_deadline_covers_the_delivery(
    make_bench: Callable[..., Bench], s3: S3, slow_s3: _Slow
) -> None:
    bench = make_bench(**s3.env(BUCKET_ENDPOINT_URL=slow_s3.url))
    problem = bench.bad(request(BIG, timeout_s=2))
    slow_s3.close()
    assert problem.code == "timeout"
    assert "upload" in problem.message
    assert bench.left() == []


def test_the_deadline_stops_the_run_and_the_next_one_goes(bench: Bench) -> None:
    problem = bench.bad(request(SLEEP, timeout_s=0.3))
    assert (problem.code, problem.retryable) == ("timeout", True)
    assert bench.fake()["running"] is None
    assert bench.good(request()).artifacts


def test_the_operators_limit_is_the_last_word(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(PENNYREEL_JOB_TIMEOUT_MAX_S="0.3")
    assert "0.3 s" in bench.bad(request(SLEEP, timeout_s=600)).message
    bench = make_bench(PENNYREEL_JOB_TIMEOUT_S="0.3")
    assert "0.3 s" in bench.bad(request(SLEEP)).message


def test_somebody_elses_interrupt_is_a_cancelled_job(bench: Bench) -> None:
    async def story() -> dict[str, object]:
        task = asyncio.create_task(bench.job(request(SLEEP)))
        running = await becomes(lambda: bench.fake()["running"])
        session = bench.comfy._session
        assert session is not None
        await asyncio.to_thread(session.http.interrupt, running)
        return await task

    assert '"cancelled"' in str(play(story())["error"])


def test_a_crash_in_mid_job_is_told_and_the_next_job_starts_comfyui_anew(bench: Bench) -> None:
    bench.good(request())
    before = bench.comfy.process.pid
    problem = bench.bad(request({"1": node("FakeCrash")}))
    assert (problem.code, problem.retryable) == ("comfy_crashed", True)
    assert "exit code 9" in problem.message
    assert "the last words of node 1" in problem.detail["log"]  # type: ignore[operator]
    assert bench.good(request()).artifacts
    assert bench.comfy.process.pid != before
    assert bench.left() == []


def test_a_kill_while_idle_is_not_even_noticed(bench: Bench) -> None:
    bench.good(request())
    pid = bench.comfy.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: bench.comfy.process.pid is None)
    assert bench.good(request()).artifacts


def test_a_job_that_cannot_be_stopped_costs_comfyui_and_not_the_next_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pennyreel_comfy.session.CANCEL_S", 0.5)  # instead of ten seconds
    with own_bench() as bench:
        bench.good(request())
        problem = bench.bad(request({"1": node("FakeStuck", seconds=60)}, timeout_s=0.5))
        assert problem.code == "timeout"
        assert bench.comfy.living() is None  # condemned
        pid = bench.comfy.process.pid
        assert bench.good(request()).artifacts
        assert bench.comfy.process.pid != pid


def test_a_comfyui_that_lives_and_does_not_answer_is_replaced() -> None:
    with own_bench(WEBSOCKET_RECONNECT_ATTEMPTS="0") as bench, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and not listening: refused
        bench.good(request())
        pid = bench.comfy.process.pid
        session = bench.comfy._session
        assert session is not None

        async def story() -> dict[str, object]:
            graph = {"1": node("FakeSleep", seconds=5), "9": SLEEP["9"]}
            task = asyncio.create_task(bench.job(request(graph)))
            await becomes(lambda: bench.fake()["running"])
            session.http.base_url = f"http://127.0.0.1:{closed.getsockname()[1]}"
            return await task

        result = parse_result(play(story()))
        assert result.artifacts
        assert "started anew" in " ".join(result.warnings)
        assert bench.comfy.process.pid != pid


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ([sys.executable, "-c", "print('no CUDA here'); raise SystemExit(7)"], "exit code 7"),
        (["/nonexistent/python", "main.py"], "could not be started"),
    ],
)
def test_a_comfyui_that_cannot_start_is_told_to_each_job(command: list[str], told: str) -> None:
    with own_bench(PENNYREEL_COMFYUI_COMMAND=json.dumps(command)) as bench:
        for expected in ({"error"}, {"error", "refresh_worker"}):  # twice is no accident
            reply = bench.run(request())
            assert reply.keys() == expected
            problem = ErrorInfo.decode(reply["error"])
            assert (problem.code, problem.retryable) == ("comfy_start_failed", True)
            assert told in problem.message
        if "-c" in command:
            assert "no CUDA here" in problem.detail["log"]  # type: ignore[operator]
        assert ErrorInfo.decode(bench.run({"op": "info"})["error"]).code == "comfy_start_failed"


def test_a_comfyui_that_is_too_slow_is_no_timeout_of_the_job() -> None:
    with own_bench(PENNYREEL_COMFYUI_COMMAND=never_up(), PENNYREEL_COMFYUI_START_S="0.3") as bench:
        problem = bench.bad(request())
        assert problem.code == "comfy_start_failed"
        assert "0.3 s" in problem.message


def test_a_thread_that_does_not_end_makes_the_worker_ask_for_its_replacement(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "STOP_S", 0.2)  # instead of fifteen seconds
    stuck, go_on = threading.Event(), threading.Event()

    def prepare(_: object) -> None:
        stuck.set()
        go_on.wait(10)

    async def story() -> None:
        with monkeypatch.context() as patch:
            patch.setattr("pennyreel_worker.job.Job._prepare", prepare)
            task = asyncio.create_task(bench.job(request()))
            await becomes(stuck.is_set)
            await cancelled(task)
        go_on.set()
        assert (await bench.job(request()))["refresh_worker"] is True

    play(story())


def test_the_command_of_a_python_script_ends_with_the_worker() -> None:
    with own_bench(PENNYREEL_COMFYUI_COMMAND=COMMAND) as bench:
        argv = list(bench.comfy._command(1))
        assert argv[1].endswith("child.py")
        assert argv[2].endswith("comfyui.py")


def test_a_stop_that_comes_twice_stops_the_job_once_and_the_worker_stays_good() -> None:
    with own_bench() as bench:
        bench.good(request())

        async def story() -> None:
            task = asyncio.create_task(bench.job(request({"1": node("FakeStuck", seconds=1)})))
            await becomes(lambda: bench.fake()["running"])
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        play(story())
        assert bench.worker.broken is None
        assert bench.good(request()).artifacts


def test_repeats_of_an_attempt_that_is_being_cleaned_up_are_rendered_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, clean = threading.Event(), bench.comfy.clean

    def slow(attempt_id: str) -> None:
        go_on.wait(10)
        clean(attempt_id)

    async def story() -> list[dict[str, Any]]:
        body = request()
        await bench.job(body)
        repeats = [asyncio.create_task(bench.job(dict(body))) for _ in range(2)]
        await asyncio.sleep(0)
        go_on.set()
        return list(await asyncio.gather(*repeats))

    monkeypatch.setattr(bench.comfy, "clean", slow)
    before = len(bench.prompts())
    results = [parse_result(reply) for reply in play(story())]
    assert sorted(r.replayed for r in results) == [False, True]
    assert len(bench.prompts()) == before + 2


def test_a_comfyui_that_hangs_keeps_neither_a_cancel_nor_a_deadline_nor_the_end_waiting() -> None:
    with own_bench(PENNYREEL_JOB_TIMEOUT_S="3") as bench:
        bench.good(request())

        async def stopped() -> asyncio.Task[dict[str, Any]]:
            task = asyncio.create_task(bench.job(request(SLEEP)))
            await becomes(lambda: bench.fake()["running"])
            os.kill(bench.comfy.process.pid or 0, signal.SIGSTOP)
            return task

        async def timeout() -> dict[str, Any]:
            return await asyncio.wait_for(await stopped(), 25)

        async def end() -> dict[str, Any]:
            task = await stopped()
            bench.worker.give_up()
            return await asyncio.wait_for(task, 25)

        assert ErrorInfo.decode(play(timeout())["error"]).code == "timeout"
        assert bench.good(request()).artifacts
        problem = ErrorInfo.decode(play(end())["error"])
        assert (problem.code, problem.retryable) == ("worker_stopping", True)
        assert bench.bad(request()).code == "worker_stopping"


def test_a_job_that_hangs_is_answered_after_its_deadline_and_the_worker_replaced(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "OVERDUE_S", 0.2)  # instead of thirty seconds
    go_on = threading.Event()
    with monkeypatch.context() as patch:
        patch.setattr("pennyreel_worker.job.Job._prepare", lambda _: go_on.wait(60))
        try:
            reply = bench.run(request(timeout_s=0.2))
        finally:
            go_on.set()
    assert ErrorInfo.decode(reply["error"]).code == "timeout"
    assert reply["refresh_worker"] is True


def test_a_comfyui_that_is_stopped_does_not_hold_a_job_beyond_its_time() -> None:
    with own_bench() as bench:
        bench.good(request())
        pid = bench.comfy.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        problem = bench.bad(request(timeout_s=1))
        assert problem.retryable
        assert time.monotonic() - began < READ_S, "it is not waited for as long as else"
        assert bench.good(request()).artifacts
        assert bench.comfy.process.pid != pid
