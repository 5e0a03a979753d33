"""The nasty orders of events, played by a scripted server."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import threading
import time
from typing import Any

import pytest
from aiohttp import web

from fakes.comfyui import FakeComfy, Prompt, play
from fakes.ports import dead_port, port_for_later
from fakes.waits import eventually
from pennyreel_comfy import eventsocket
from pennyreel_comfy.events import Event
from pennyreel_comfy.eventsocket import EventSocket
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.session import Run, Session
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import (
    BadRequest,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    Unavailable,
)

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {"filename_prefix": "a"}}}
BY_SOCKET = {"1": {"class_type": "SaveImageWebsocket", "inputs": {}}}
SLOW = {"1": {"class_type": "FakeSleep", "inputs": {"seconds": 60}}}


def outcome(run: Run, seconds: float = 20) -> dict[str, Any]:
    return run.wait(Deadline(seconds))


def session(fake: FakeComfy, **options: Any) -> Session:
    return Session(ComfyHttp(fake.url), **options)


def test_a_drop_exactly_at_completion_delays_a_job_and_never_hangs_it() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "execution_start")
        await fake.drop(prompt)
        fake.finish(prompt)  # nobody hears of the end: there is no replay

    with FakeComfy(script) as fake, session(fake, poll_s=0.1) as comfy:
        assert outcome(comfy.submit(GRAPH))["status"]["completed"]
        eventually(lambda: fake.connections == 2)
        assert outcome(comfy.submit(GRAPH))["status"]["completed"]


def test_a_server_that_takes_no_websocket_is_polled() -> None:
    with FakeComfy() as fake, session(fake, poll_s=0.05) as comfy:
        fake.refuse_sockets = True
        assert not comfy.connect()
        assert outcome(comfy.submit(GRAPH))["status"]["completed"]


def test_messages_that_come_twice_change_nothing() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        for _ in range(2):
            await fake.send(prompt, "execution_start")
            await fake.send(prompt, "executing", node="1")
        fake.finish(prompt)
        for _ in range(3):
            await fake.send(prompt, "execution_success")
            await fake.send(prompt, "executing", node=None)

    with FakeComfy(script) as fake, session(fake) as comfy:
        for _ in range(5):
            outcome(comfy.submit(GRAPH))


def test_success_may_be_announced_before_history_knows() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "execution_success")
        await fake.send(prompt, "executing", node=None)
        reads = _history_reads(fake, prompt)
        while _history_reads(fake, prompt) < reads + 3:
            await asyncio.sleep(0.001)
        fake.finish(prompt)

    with FakeComfy(script) as fake, session(fake, poll_s=30) as comfy:
        assert outcome(comfy.submit(GRAPH))["status"]["completed"]


def _history_reads(fake: FakeComfy, prompt: Prompt) -> int:
    return fake.requests.count(("GET", f"/history/{prompt.id}"))


def test_late_events_of_a_former_job_do_not_touch_the_next() -> None:
    former: list[Prompt] = []

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        for old in former:
            await fake.send(old, "execution_error", node_id="9", exception_message="old")
            await fake.send(old, "executing", node=None)
        former.append(prompt)
        await play(fake, prompt)

    with FakeComfy(script) as fake, session(fake, poll_s=60) as comfy:
        for _ in range(3):
            heard: list[Event] = []
            run = comfy.submit(GRAPH, listener=heard.append)
            outcome(run)
            assert {getattr(e, "prompt_id", run.prompt_id) for e in heard} == {run.prompt_id}


def test_garbage_on_the_websocket_is_passed_over() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        for message in (
            "", "not json", "[]", '"text"', "{}", '{"type": 5}', '{"type":"progress","data":[]}',
            '{"type":"executing"}',
            json.dumps({"type": "progress", "data": {"prompt_id": prompt.id}}),
            b"", b"\x00", b"\x00\x00\x00\x04\xff\xff\xff\xff", b"\x00\x00\x00\x63xyz",
        ):  # fmt: skip
            await fake.send_raw(prompt.client, message)
        await play(fake, prompt)

    with FakeComfy(script) as fake, session(fake) as comfy:
        outcome(comfy.submit(GRAPH))
        assert fake.connections == 1


def test_many_jobs_share_one_websocket_and_get_their_own_events() -> None:
    with FakeComfy() as fake, session(fake, poll_s=60) as comfy:
        results: dict[int, dict[str, Any]] = {}

        def one(n: int) -> None:
            heard: list[Event] = []
            run = comfy.submit(GRAPH, listener=heard.append)
            results[n] = outcome(run)
            assert {e.prompt_id for e in heard if hasattr(e, "prompt_id")} == {run.prompt_id}

        threads = [threading.Thread(target=one, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(results) == 20
        assert fake.connections == 1
        assert len({p.id for p in fake.prompts}) == 20


def test_a_failing_node_is_named() -> None:
    graph = {"7": {"class_type": "FakeError", "inputs": {}}}
    with FakeComfy() as fake, session(fake) as comfy, pytest.raises(JobFailed) as caught:
        outcome(comfy.submit(graph))
    assert caught.value.code == "execution_failed"
    assert "node 7 (FakeError) failed: ValueError: boom" in str(caught.value)


def test_running_out_of_memory_has_a_code_of_its_own() -> None:
    graph = {"7": {"class_type": "FakeMemory", "inputs": {}}}
    with FakeComfy() as fake, session(fake) as comfy, pytest.raises(JobFailed) as caught:
        outcome(comfy.submit(graph))
    assert caught.value.code == "out_of_memory"


@pytest.mark.parametrize("jobs_api", [False, True])
def test_a_running_job_is_cancelled_by_its_id(jobs_api: bool) -> None:
    with FakeComfy(jobs_api=jobs_api) as fake, session(fake) as comfy:
        run, cancel = comfy.submit(SLOW), CancelToken()
        eventually(lambda: fake.running is not None)
        threading.Timer(0.05, cancel.cancel).start()
        with pytest.raises(JobCancelled) as caught:
            run.wait(Deadline(20), cancel)
        assert caught.value.info.detail == {"confirmed_stopped": True}
        if not jobs_api:
            assert set(fake.interrupts) == {run.prompt_id}
        assert outcome(comfy.submit(GRAPH))["status"]["completed"]


@pytest.mark.parametrize("jobs_api", [False, True])
def test_a_queued_job_is_cancelled_and_the_running_one_goes_on(jobs_api: bool) -> None:
    release = threading.Event()

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        while not release.is_set():
            await asyncio.sleep(0.002)
        await play(fake, prompt)

    with FakeComfy(script, jobs_api=jobs_api) as fake, session(fake) as comfy:
        first = comfy.submit(GRAPH)
        second = comfy.submit(GRAPH)
        eventually(lambda: fake.running is not None)
        assert second.cancel()
        assert fake.interrupts == []
        release.set()
        assert outcome(first)["status"]["completed"]
        with pytest.raises(JobCancelled):
            outcome(second)


def test_the_deadline_of_a_job_stops_it_on_the_server() -> None:
    with FakeComfy() as fake, session(fake) as comfy:
        run = comfy.submit(SLOW)
        eventually(lambda: fake.running is not None)  # else it is taken out of the queue
        with pytest.raises(JobTimeout):
            run.wait(Deadline(0.3))
        assert fake.interrupts
        eventually(lambda: fake.running is None)


def test_a_job_that_somebody_takes_out_of_the_queue_ends_as_cancelled() -> None:
    hold = threading.Event()

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        while not hold.is_set():
            await asyncio.sleep(0.002)
        fake.finish(prompt)

    with FakeComfy(script) as fake, session(fake, poll_s=0.05) as comfy:
        first = comfy.submit(GRAPH)
        second = comfy.submit(GRAPH)
        ComfyHttp(fake.url).dequeue(second.prompt_id)
        with pytest.raises(JobCancelled, match="out of ComfyUI's queue"):
            outcome(second)
        hold.set()
        outcome(first)


def test_a_job_that_a_restart_forgot_is_an_error_and_not_a_wait() -> None:
    port = port_for_later()

    async def forever(_: FakeComfy, __: Prompt) -> None:
        await asyncio.Event().wait()

    comfy = Session(ComfyHttp(f"http://127.0.0.1:{port}"), poll_s=0.05)
    with comfy:
        with FakeComfy(forever, port=port):
            run = comfy.submit(GRAPH)
        with FakeComfy(port=port), pytest.raises(JobFailed) as caught:
            outcome(run)
    assert caught.value.code == "comfy_crashed"
    assert caught.value.retryable


def test_a_server_that_stays_away_is_given_up_after_its_grace() -> None:
    async def forever(_: FakeComfy, __: Prompt) -> None:
        await asyncio.Event().wait()

    with FakeComfy(forever) as fake:
        comfy = session(fake, poll_s=0.05, down_grace_s=0.3)
        run = comfy.submit(GRAPH)
    with comfy, pytest.raises(Unavailable):
        outcome(run)


def test_where_nobody_listens_the_error_says_what_to_start() -> None:
    with Session(ComfyHttp(f"http://127.0.0.1:{dead_port()}")) as comfy:
        began = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            comfy.submit(GRAPH)
        assert time.monotonic() - began < 5
    assert caught.value.hint == "Start ComfyUI: pennyreel comfyui start"


def test_an_unanswered_submit_is_looked_up_by_its_id() -> None:
    with FakeComfy() as fake, session(fake) as comfy:
        fake.cut_prompt = "taken"
        assert outcome(comfy.submit(GRAPH))["status"]["completed"]
        assert len(fake.prompts) == 1


def test_an_unanswered_submit_that_nobody_knows_is_an_unknown_outcome() -> None:
    with FakeComfy() as fake, session(fake) as comfy:
        fake.cut_prompt = "lost"
        with pytest.raises(OutcomeUnknown):
            comfy.submit(GRAPH)
        assert fake.prompts == []


def test_fail_all_ends_every_wait() -> None:
    problem = JobFailed.from_info(_crash().info)
    with FakeComfy() as fake, session(fake) as comfy:
        runs = [comfy.submit(SLOW) for _ in range(3)]
        caught: list[PennyreelError] = []

        def wait(run: Run) -> None:
            try:
                outcome(run)
            except PennyreelError as seen:
                caught.append(seen)

        threads = [threading.Thread(target=wait, args=(run,)) for run in runs]
        for thread in threads:
            thread.start()
        comfy.fail_all(problem)
        for thread in threads:
            thread.join(10)
        assert caught == [problem] * 3


def _crash() -> PennyreelError:
    from pennyreel_contract import Code, error

    return error(Code.COMFY_CRASHED, "gone")


def test_another_session_adopts_a_job_by_its_id() -> None:
    with FakeComfy() as fake, session(fake, poll_s=0.05) as first:
        prompt_id = first.submit(GRAPH).prompt_id
        with session(fake, poll_s=0.05) as second:
            assert outcome(second.adopt(prompt_id))["status"]["completed"]


def test_a_refused_graph_leaves_nothing_behind() -> None:
    with FakeComfy() as fake, session(fake) as comfy:
        with pytest.raises(BadRequest):
            comfy.submit({"1": {"class_type": "Nope", "inputs": {}}})
        assert not comfy._runs


def test_redirects_are_not_followed_and_headers_stay_with_their_server() -> None:
    with FakeComfy() as other, FakeComfy() as fake:
        fake.answer_prompt = lambda _: web.Response(
            status=307, headers={"Location": f"{other.url}/prompt"}
        )
        http = ComfyHttp(fake.url, headers={"Authorization": "secret"})
        with Session(http) as comfy, pytest.raises(PennyreelError):
            comfy.submit(GRAPH)
        assert other.requests == []


def test_images_by_websocket_wait_for_a_connection_that_works() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await play(fake, prompt)
        if prompt.graph == GRAPH:
            await fake.drop(prompt)

    with FakeComfy(script) as fake, session(fake) as comfy:
        for _ in range(5):
            outcome(comfy.submit(GRAPH))
            run = comfy.submit(BY_SOCKET)
            outcome(run)
            assert len(run.images) == 1
            assert not run.images_lost


def test_images_sent_while_the_websocket_was_broken_are_told_as_lost() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "execution_start")
        await fake.drop(prompt)
        fake.finish(prompt)

    with FakeComfy(script) as fake, session(fake, poll_s=0.05) as comfy:
        run = comfy.submit(BY_SOCKET)
        outcome(run)
        eventually(lambda: fake.connections == 2)
        assert run.images_lost
        other = comfy.submit(GRAPH)
        outcome(other)
        assert not other.images_lost, "its file is on the disk"


def test_some_of_a_batch_lost_are_told_as_lost() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "executing", node="1")
        await fake.send(prompt, "progress", node="1", value=1, max=2)
        await fake.send_raw(prompt.client, b"\0\0\0\1\0\0\0\2png")
        await fake.drop(prompt)
        fake.finish(prompt)

    with FakeComfy(script) as fake, session(fake, poll_s=0.05) as comfy:
        run = comfy.submit(BY_SOCKET)
        outcome(run)
        eventually(lambda: fake.connections == 2)
        assert len(run.images) == 1
        assert run.images_lost


def test_images_sent_after_a_reconnect_are_not_lost() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "execution_start")
        await fake.drop(prompt)
        while not (comfy.generation and comfy.connected and prompt.client in fake.sockets):
            await asyncio.sleep(0.001)
        await play(fake, prompt)

    with FakeComfy(script) as fake, session(fake, poll_s=0.05) as comfy:
        run = comfy.submit(BY_SOCKET)
        outcome(run)
        assert len(run.images) == 1
        assert not run.images_lost


async def _anew(fake: FakeComfy, prompt: Prompt, former: Any) -> None:
    """Return once the client has opened another websocket than this one."""
    while fake.sockets.get(prompt.client) in (None, former):
        await asyncio.sleep(0.001)


def test_an_image_waits_in_a_websocket_that_is_still_being_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server has sent everything, /history has the end, and the client is not yet at it."""
    looked, connect = threading.Event(), EventSocket._connect

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "execution_start")
        former = fake.sockets[prompt.client]
        await fake.drop(prompt)
        await _anew(fake, prompt, former)
        await play(fake, prompt)

    class Looking(Session):
        looks = 0

        @property
        def connected(self) -> bool:
            now = super().connected
            self.looks += not now and bool(fake.history)
            if self.looks == 2:  # once is not waiting
                looked.set()
            return now

    def slowly(self: EventSocket) -> None:
        connect(self)
        if fake.connections > 1:
            assert looked.wait(10)

    with FakeComfy(script) as fake, Looking(ComfyHttp(fake.url), poll_s=0.05) as comfy:
        monkeypatch.setattr(EventSocket, "_connect", slowly)
        run = comfy.submit(BY_SOCKET)
        outcome(run)
        assert len(run.images) == 1
        looked.set()


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_message_without_end_is_dropped_and_the_job_goes_on(
    pieces: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(eventsocket, "MAX_MESSAGE", 100_000)

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "execution_start")
        former = fake.sockets[prompt.client]
        writer = former._writer
        assert writer is not None
        part = b"\0" * (300_000 // pieces)
        for n in range(pieces):  # binary, then its continuation; the first bit: it is the last
            last = 0x80 if n == pieces - 1 else 0
            opened = writer.transport
            assert opened is not None
            head = struct.pack("!BBQ", last | (0 if n else 2), 127, len(part))
            with contextlib.suppress(ConnectionError):
                opened.write(head + part)
        await _anew(fake, prompt, former)
        await play(fake, prompt)

    with FakeComfy(script) as fake, session(fake, poll_s=0.05) as comfy:
        run = comfy.submit(BY_SOCKET)
        outcome(run)
        assert len(run.images) == 1, "what comes afterwards is heard"
    assert "more than 0 MB" in caplog.text


def test_a_message_just_below_the_limit_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eventsocket, "MAX_MESSAGE", 100_008)

    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send(prompt, "executing", node="1")
        for _ in range(3):
            await fake.send_raw(prompt.client, b"\0\0\0\1\0\0\0\2" + b"p" * 100_000)
        await fake.send(prompt, "execution_success")
        fake.finish(prompt)

    with FakeComfy(script) as fake, session(fake, poll_s=0.05) as comfy:
        run = comfy.submit(BY_SOCKET)
        outcome(run)
        eventually(lambda: len(run.images) == 3)
        assert fake.connections == 1
