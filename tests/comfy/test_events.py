"""Whatever comes over the websocket is read as an event, and reading it never raises."""

from __future__ import annotations

import json
import struct
import threading
import time
from typing import Any

import pytest
import websocket
from hypothesis import given
from hypothesis import strategies as st

from fakes.comfyui import FakeComfy, Prompt, play
from fakes.waits import eventually
from pennyreel_comfy import eventsocket
from pennyreel_comfy.events import (
    Cached,
    Event,
    Executed,
    Executing,
    Image,
    NodeStates,
    NodeSteps,
    Other,
    QueueStatus,
    Started,
    Succeeded,
    parse,
)
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.session import Session
from pennyreel_comfy.tracker import Tracker
from pennyreel_comfy.waiting import Deadline

KINDS = (
    "status", "execution_start", "execution_cached", "executing", "progress", "progress_state",
    "executed", "execution_success", "execution_error", "execution_interrupted", "logs",
)  # fmt: skip
FIELDS = (
    "prompt_id", "node", "nodes", "value", "max", "state", "output", "status", "exec_info",
    "queue_remaining", "sid",
)  # fmt: skip
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.text(max_size=8)
    | st.just(10**400)  # JSON has no limit; a float has
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=12,
)
MESSAGES = st.fixed_dictionaries({"type": st.sampled_from(KINDS) | ANYTHING, "data": ANYTHING})


def binary(kind: int, meta: Any, image: bytes = b"img") -> bytes:
    head = json.dumps(meta).encode()
    return struct.pack(">II", kind, len(head)) + head + image


def usable(event: Event) -> None:
    """What the session does with an event: look its job up, and move the tracker."""
    assert isinstance(getattr(event, "prompt_id", None), (str, type(None)))
    position = Tracker({"1": {"class_type": "KSampler", "inputs": {}}}).feed(event)
    assert position is None or 0.0 <= position.fraction <= 1.0


@given(MESSAGES)
def test_any_json_is_read_as_an_event_that_can_be_used(message: Any) -> None:
    usable(parse(json.dumps(message)))


@given(ANYTHING)
def test_json_that_is_no_message_is_read_too(message: Any) -> None:
    usable(parse(json.dumps(message)))


@given(st.text() | st.binary(max_size=64))
def test_any_text_and_any_bytes_are_read(message: str | bytes) -> None:
    usable(parse(message))


@given(st.sampled_from((1, 4)), ANYTHING, st.binary(max_size=8))
def test_any_binary_frame_is_read(kind: int, meta: Any, image: bytes) -> None:
    usable(parse(binary(kind, meta, image)))


@pytest.mark.parametrize(
    "message",
    [
        "[" * 100_000,
        '{"type":"status","data":{"status":{"exec_info":{"queue_remaining":Infinity}}}}',
        '{"type":"progress","data":{"prompt_id":"p","node":"1","value":NaN,"max":1}}',
        '{"type":"progress","data":{"prompt_id":"p","node":"1","value":1'
        + "0" * 400
        + ',"max":2}}',
        b"\x00\x00\x00\x04\xff\xff\xff\xff",
        b"\x00\x00\x00\x01",
        b"",
    ],
)
def test_what_no_reader_should_see_is_read_as_something_else(message: str | bytes) -> None:
    assert isinstance(parse(message), Other)


def text(kind: str, **data: Any) -> Event:
    return parse(json.dumps({"type": kind, "data": data}))


def test_each_message_is_read_as_its_event() -> None:
    assert text("execution_start", prompt_id="p") == Started("p")
    assert text("execution_cached", prompt_id="p", nodes=["1", 2]) == Cached("p", ("1", "2"))
    assert text("executing", prompt_id="p", node="3") == Executing("p", "3")
    assert text("executing", prompt_id="p", node=None) == Executing("p", None)
    assert text("progress", prompt_id="p", node="3", value=2, max=4) == NodeSteps("p", "3", 2, 4)
    states = {"3": {"value": 1, "max": 2, "state": "running"}}
    assert text("progress_state", prompt_id="p", nodes=states) == NodeStates(
        "p", {"3": (1.0, 2.0, "running")}
    )
    assert text("executed", prompt_id="p", node="3", output={"text": ["x"]}) == Executed(
        "p", "3", {"text": ["x"]}
    )
    assert text("execution_success", prompt_id="p") == Succeeded("p")
    status = {"exec_info": {"queue_remaining": 3}}
    assert text("status", status=status, sid="me") == QueueStatus(3, "me")
    assert text("a_new_one", prompt_id="p") == Other("a_new_one")


def test_previews_are_read_with_and_without_metadata() -> None:
    plain = struct.pack(">II", 1, 2) + b"PNG"
    assert parse(plain) == Image("image/png", b"PNG")
    assert parse(struct.pack(">II", 1, 1) + b"JPG") == Image("image/jpeg", b"JPG")
    meta = {"prompt_id": "p", "node_id": "3", "image_type": "image/webp"}
    assert parse(binary(4, meta)) == Image("image/webp", b"img", "p", "3")


def test_a_message_with_big_content_does_not_print_it() -> None:
    shown = repr(parse(struct.pack(">II", 1, 2) + b"x" * 1000))
    shown += repr(text("executed", prompt_id="p", node="3", output={"secret": "x" * 1000}))
    assert "xxxx" not in shown


# The one websocket they come over.

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {}}}


def test_a_quiet_connection_that_answers_pings_stays_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(eventsocket, "QUIET_S", 0.1)
    pings: list[object] = []
    ping = websocket.WebSocket.ping

    def count(self: websocket.WebSocket, *payload: str) -> None:
        pings.append(self)
        ping(self, *payload)

    monkeypatch.setattr(websocket.WebSocket, "ping", count)
    with FakeComfy() as fake, Session(ComfyHttp(fake.url)) as session:
        assert session.connect()
        eventually(lambda: len(pings) >= 4)
        assert (fake.connections, session.generation) == (1, 0)


def by_news_alone(fake: FakeComfy) -> Session:
    """Return a session that a poll cannot help: the reader hears of the end, or nobody does."""
    return Session(ComfyHttp(fake.url), poll_s=60)


def test_a_message_that_nobody_expected_does_not_end_the_reader() -> None:
    async def script(fake: FakeComfy, prompt: Prompt) -> None:
        await fake.send_raw(prompt.client, "[" * 100_000)
        status = {"status": {"exec_info": {"queue_remaining": float("inf")}}}
        await fake.send_raw(prompt.client, json.dumps({"type": "status", "data": status}))
        await fake.send_raw(prompt.client, binary(4, {"prompt_id": ["x"]}))
        await play(fake, prompt)

    heard: list[Event] = []
    with FakeComfy(script) as fake, by_news_alone(fake) as session:
        session.submit(GRAPH, listener=heard.append).wait(Deadline(20))
        assert Succeeded in {type(event) for event in heard}
        assert fake.connections == 1


def test_a_listener_that_fails_does_not_end_the_reader() -> None:
    heard: list[Event] = []

    def broken(_: Event) -> None:
        raise RuntimeError("the listener's own bug")

    with FakeComfy() as fake, by_news_alone(fake) as session:
        first = session.submit(GRAPH, listener=broken)
        first.wait(Deadline(20))
        session.submit(GRAPH, listener=heard.append).wait(Deadline(20))
        assert Succeeded in {type(event) for event in heard}
        assert fake.connections == 1


def test_who_finds_a_websocket_open_again_finds_that_it_was_broken() -> None:
    open_when_told: list[bool] = []
    with FakeComfy() as fake:
        one = eventsocket.EventSocket(
            ComfyHttp(fake.url).ws_url,
            "me",
            on_event=lambda _: None,
            on_reconnect=lambda: open_when_told.append(one.is_open),
        )
        assert one.start()
        eventsocket._cut(one._socket)
        eventually(lambda: open_when_told == [False] and one.is_open)
        one.close()


def test_a_server_that_speaks_nonsense_is_tried_again_and_delays_nobody() -> None:
    import socket

    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[bytes] = []

    def speak() -> None:
        for answer in (b"HTTP/1.1 abc\r\n\r\n", b"\x00\xff\r\n\r\n", b"HTTP/1.1 101\r\n\r\n", b""):
            peer, _ = listener.accept()
            with peer:
                asked.append(peer.recv(65536))
                peer.sendall(answer)

    server = threading.Thread(target=speak, daemon=True)
    server.start()
    with Session(ComfyHttp(f"http://127.0.0.1:{listener.getsockname()[1]}")) as session:
        began = time.monotonic()
        assert not session.connect()
        assert time.monotonic() - began < eventsocket.CONNECT_S
        eventually(lambda: len(asked) == 4)
    listener.close()
    server.join(5)
