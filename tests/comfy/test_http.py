"""Calls to ComfyUI: what each answer means, where the key goes, and what is left behind."""

from __future__ import annotations

import gc
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from client.support import Reply, Script, Scripted
from fakes.comfyui import PNG, FakeComfy
from fakes.ports import dead_port
from pennyreel_comfy.http import Accepted, ComfyHttp, Queue
from pennyreel_comfy.rejections import execution_failure, node_findings, rejection
from pennyreel_comfy.session import Session
from pennyreel_contract import (
    BadRequest,
    JobFailed,
    OutcomeUnknown,
    PennyreelError,
    SetupNeeded,
    Unavailable,
)

GRAPH = {"1": {"class_type": "SaveImage", "inputs": {}}}
SECRET = "SECRET-of-this-server"
Serve = Callable[[Script], Scripted]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(Scripted(script))


def answering(serve: Serve, *replies: Reply | None) -> tuple[ComfyHttp, Scripted]:
    """A client of a server that gives these answers, the last one again and again."""
    left = list(replies)
    server = serve(lambda _: left.pop(0) if len(left) > 1 else left[0])
    return ComfyHttp(server.url, headers={"Authorization": SECRET}), server


def post(http: ComfyHttp) -> Accepted:
    return http.prompt(GRAPH, client_id="me", prompt_id="p1")


# Addresses.


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:8188", "ftp://x", "http://", "http://[::1", "http://x:abc", "/x"]
)
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(PennyreelError):
        ComfyHttp(url)


def test_the_websocket_has_the_servers_address() -> None:
    assert ComfyHttp("http://a:1/").ws_url == "ws://a:1/ws"
    assert ComfyHttp("https://a/base/").ws_url == "wss://a/base/ws"
    assert ComfyHttp("HTTPS://a").ws_url.lower() == "wss://a/ws"
    assert ComfyHttp("HTTPS://a").ws_url.startswith("wss:")


def test_a_password_in_the_address_is_in_no_error() -> None:
    with pytest.raises(PennyreelError) as caught:
        ComfyHttp(f"http://me:{SECRET}@127.0.0.1:{dead_port()}").queue()
    assert SECRET not in str(caught.value)


# POST /prompt.


def test_an_accepted_prompt_tells_its_id_and_its_dropped_outputs(serve: Serve) -> None:
    body = {"prompt_id": "p1", "number": 1, "node_errors": {"9": {"errors": []}}}
    http, server = answering(serve, Reply(200, body))
    assert post(http) == Accepted("p1", {"9": {"errors": []}})
    assert server.requests[0].json == {"prompt": GRAPH, "client_id": "me", "prompt_id": "p1"}


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_not_a_bad_graph(status: int, serve: Serve) -> None:
    http, _ = answering(serve, Reply(status, b"no"))
    with pytest.raises(SetupNeeded) as caught:
        post(http)
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize("status", [302, 404, 429, 503])
def test_a_proxys_refusal_is_not_a_bad_graph(status: int, serve: Serve) -> None:
    http, _ = answering(serve, Reply(status, b"<html>", {"Location": "/login"}))
    with pytest.raises(Unavailable):
        post(http)


@pytest.mark.parametrize("status", [502, 504, 524])
def test_a_proxy_that_lost_the_answer_leaves_the_outcome_unknown(status: int, serve: Serve) -> None:
    http, _ = answering(serve, Reply(status, b"<html>"))
    with pytest.raises(OutcomeUnknown):
        post(http)


def test_a_plain_500_is_what_a_graph_of_the_wrong_shape_gets(serve: Serve) -> None:
    http, _ = answering(serve, Reply(500, b"500 Internal Server Error"))
    with pytest.raises(BadRequest, match="could not read this graph"):
        post(http)


@pytest.mark.parametrize("reply", [None, Reply(200, b"not json"), Reply(200, b"x" * 99, {}, 5)])
def test_a_prompt_without_a_readable_answer_may_run(reply: Reply | None, serve: Serve) -> None:
    http, server = answering(serve, reply)
    with pytest.raises(OutcomeUnknown):
        post(http)
    assert len(server.requests) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_a_server_that_was_never_reached_took_nothing(host: str) -> None:
    with pytest.raises(Unavailable):
        post(ComfyHttp(f"http://{host}:{dead_port()}"))


# The rest of the calls.


def test_the_queue_is_read_by_id(serve: Serve) -> None:
    http, _ = answering(
        serve, Reply(200, {"queue_running": [[0, "a"]], "queue_pending": [[1, "b"]]})
    )
    queue = http.queue()
    assert queue == Queue(("a",), ("b",))
    assert "a" in queue
    assert "b" in queue
    assert "c" not in queue


@pytest.mark.parametrize(
    "reply",
    [
        Reply(200, b"<html>a proxy's page</html>"),
        Reply(200, [1]),
        Reply(200, {"queue_running": [1], "queue_pending": None}),
        Reply(302, b"", {"Location": "/login"}),
        Reply(404, b"no such route"),
        Reply(500),
    ],
)
def test_an_unreadable_queue_is_not_an_empty_one(reply: Reply, serve: Serve) -> None:
    http, _ = answering(serve, reply)
    with pytest.raises(Unavailable):
        http.queue()


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_told_as_such(status: int, serve: Serve) -> None:
    http, _ = answering(serve, Reply(status))
    for call in (http.queue, http.system_stats, lambda: http.history("p"), lambda: http.free()):
        with pytest.raises(SetupNeeded):
            call()


def test_an_entry_is_the_jobs_own_or_none(serve: Serve) -> None:
    for body, found in (({"p": {"outputs": {}}}, {"outputs": {}}), ({}, None), ({"p": 1}, None)):
        http, _ = answering(serve, Reply(200, body))
        assert http.history("p") == found


def test_another_server_on_that_port_is_not_taken_for_comfyui(serve: Serve) -> None:
    for reply in (Reply(200, {"hello": 1}), Reply(404), Reply(200, b"<html>")):
        http, _ = answering(serve, reply)
        with pytest.raises(Unavailable, match="not ComfyUI"):
            http.system_stats()


def test_nothing_answers_where_nothing_runs() -> None:
    with pytest.raises(Unavailable):
        ComfyHttp(f"http://127.0.0.1:{dead_port()}").system_stats()


def test_a_cancel_route_is_probed_once() -> None:
    with FakeComfy(jobs_api=False) as fake:
        http = ComfyHttp(fake.url)
        assert not http.cancel_job("a")
        assert not http.cancel_job("a")
        assert [path for _, path in fake.requests].count("/api/jobs/a/cancel") == 1
    with FakeComfy(jobs_api=True) as fake:
        http = ComfyHttp(fake.url)
        assert http.cancel_job("a")
        assert http.cancel_job("b")


def test_a_job_that_the_cancel_route_does_not_know_does_not_hide_the_route(serve: Serve) -> None:
    gone = Reply(404, {"error": "Job not found"}, {"Content-Type": "application/json"})
    http, server = answering(serve, gone, Reply(200, {"cancelled": True}))
    assert not http.cancel_job("a")
    assert http.cancel_job("b")
    assert len(server.requests) == 2


def test_models_and_nodes_are_listed(serve: Serve) -> None:
    with FakeComfy() as fake:
        http = ComfyHttp(fake.url)
        assert http.models() == ["checkpoints", "configs", "custom_nodes"]
        assert http.models("checkpoints") == ["fake.safetensors"]
        assert "SaveImage" in http.object_info()
    http, _ = answering(serve, Reply(404))
    assert http.models("nothing") == []


# Files.


def test_an_upload_arrives_under_its_name_and_subfolder(tmp_path: Path) -> None:
    with FakeComfy(inputs=tmp_path) as fake:
        http = ComfyHttp(fake.url)
        name = 'odd "näme" 100%.png'
        told = http.upload(name, io.BytesIO(PNG), subfolder="pennyreel/a1")
        assert told.startswith("pennyreel/a1/")
        assert (tmp_path / told).read_bytes() == PNG
        assert http.upload("plain.png", io.BytesIO(PNG)) == "plain.png"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (413, "input_too_large"), (400, "bad_input"), (401, "unauthorized"), (403, "unauthorized"),
        (302, "comfy_unavailable"), (500, "comfy_unavailable"), (503, "comfy_unavailable"),
    ],
)  # fmt: skip
def test_a_refused_upload_says_whose_fault_it_is(status: int, code: str, serve: Serve) -> None:
    http, _ = answering(serve, Reply(status))
    with pytest.raises(PennyreelError) as caught:
        http.upload("x.png", io.BytesIO(PNG))
    assert caught.value.code == code


@pytest.mark.parametrize("reply", [Reply(200, b"ok"), Reply(200, {"subfolder": "x"})])
def test_an_upload_without_a_readable_answer_is_not_trusted(reply: Reply, serve: Serve) -> None:
    http, _ = answering(serve, reply)
    with pytest.raises(PennyreelError):
        http.upload("x.png", io.BytesIO(PNG))


def read(http: ComfyHttp) -> bytes:
    with http.view("x.png", "a/b", "output") as chunks:
        return b"".join(chunks)


def test_an_output_is_streamed_in_pieces(serve: Serve) -> None:
    content = os.urandom(5 << 20)
    http, server = answering(serve, Reply(200, content))
    with http.view("x y.png", "a/b", "temp") as chunks:
        pieces = list(chunks)
    assert b"".join(pieces) == content
    assert max(map(len, pieces)) <= 1 << 20
    assert server.requests[0].path == "/view?filename=x+y.png&subfolder=a%2Fb&type=temp"


def test_an_output_that_is_gone_is_missing(serve: Serve) -> None:
    http, _ = answering(serve, Reply(404))
    with pytest.raises(JobFailed) as caught:
        read(http)
    assert caught.value.code == "output_missing"


@pytest.mark.parametrize("status", [302, 401, 403, 500, 503])
def test_an_output_that_cannot_be_read_now_is_not_missing(status: int, serve: Serve) -> None:
    http, _ = answering(serve, Reply(status))
    with pytest.raises(PennyreelError) as caught:
        read(http)
    assert caught.value.code != "output_missing"


def test_an_output_cut_short_is_an_error(serve: Serve) -> None:
    http, _ = answering(serve, Reply(200, b"x" * 1000, {}, 100))
    with pytest.raises(PennyreelError):
        read(http)


# Where the key goes, and what is left behind.


def test_no_redirect_takes_the_key_elsewhere(serve: Serve) -> None:
    other = serve(lambda _: Reply(200, {}))
    http, server = answering(serve, Reply(307, b"", {"Location": f"{other.url}/steal"}))
    calls: tuple[Callable[[], Any], ...] = (
        http.queue, http.system_stats, http.object_info, lambda: post(http), lambda: read(http),
        lambda: http.upload("x", io.BytesIO(b"x")), lambda: http.cancel_job("p"),
    )  # fmt: skip
    for call in calls:
        with suppress(PennyreelError):
            call()
    assert all(r.headers["Authorization"] == SECRET for r in server.requests)
    assert other.requests == []


def test_no_redirect_of_the_websocket_takes_the_key_elsewhere(serve: Serve) -> None:
    other = serve(lambda _: Reply(200, {}))
    target = f"ws{other.url.removeprefix('http')}/steal"
    http, server = answering(serve, Reply(302, b"", {"Location": target}))
    with Session(http) as session:
        assert not session.connect()
    assert server.requests[0].headers["Authorization"] == SECRET
    assert other.requests == []


def test_neither_a_proxy_nor_netrc_of_the_environment_has_a_say_on_loopback(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve(lambda _: Reply(200, {"system": {}}))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("NO_PROXY", raising=False)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    http, server = answering(serve, Reply(200, {"system": {}}))
    http.system_stats()
    assert proxy.requests == []
    assert server.requests[0].headers["Authorization"] == SECRET


def test_threads_that_have_ended_leave_no_connection_behind(serve: Serve) -> None:
    http, _ = answering(serve, Reply(200, {"queue_running": [], "queue_pending": []}))
    me = psutil.Process()

    def established() -> int:
        gc.collect()
        return len(me.net_connections(kind="tcp"))

    before = established()
    for _ in range(30):
        one = threading.Thread(target=http.queue)
        one.start()
        one.join(10)
    assert established() - before <= 6
    http.close()


# What ComfyUI says of a graph or a node.


@pytest.mark.parametrize(
    "body",
    [
        {"error": [1], "node_errors": {}},
        {"error": {}, "node_errors": [1]},
        {"error": {}, "node_errors": {"1": "x"}},
        {"error": {}, "node_errors": {"1": {"errors": ["x"]}}},
        {"error": {}, "node_errors": {"1": {"errors": [{"extra_info": "x"}]}}},
        {"error": None, "node_errors": None},
        [1],
        None,
    ],
)
def test_a_refusal_of_any_shape_is_an_error_of_ours(body: Any) -> None:
    assert isinstance(rejection(400, body, {"1": {}}), BadRequest)


def test_a_missing_class_is_named() -> None:
    outer = {
        "type": "invalid_prompt",
        "message": "Cannot execute because node Nope does not exist.",
        "details": "Node ID '#7'",
    }
    problem = rejection(400, {"error": outer, "node_errors": {}}, {})
    assert problem.code == "unknown_node"
    assert "node 7" in str(problem)
    assert problem.info.detail == {"node": "7", "class_type": "Nope"}


def test_every_wrong_input_is_named() -> None:
    errors = [
        {"type": "value_not_in_list", "message": "Value not in list",
         "details": "ckpt_name: 'x.safetensors' not in []",
         "extra_info": {"input_name": "ckpt_name", "received_value": "x.safetensors"}},
    ]  # fmt: skip
    found = {"4": {"class_type": "CheckpointLoaderSimple", "errors": errors}}
    problem = rejection(400, {"error": {}, "node_errors": found}, {})
    assert problem.code == "missing_model"
    assert "node 4 (CheckpointLoaderSimple).ckpt_name" in str(problem)
    assert node_findings(found, {})[0]["input"] == "ckpt_name"


def test_no_outputs_is_said_so() -> None:
    outer = {"type": "prompt_no_outputs", "message": "Prompt has no outputs"}
    assert rejection(400, {"error": outer, "node_errors": {}}, {}).code == "no_outputs"


@pytest.mark.parametrize(
    ("kind", "message", "code"),
    [
        ("torch.OutOfMemoryError", "CUDA out of memory", "out_of_memory"),
        ("RuntimeError", "DefaultCPUAllocator: can't allocate memory", "out_of_memory"),
        ("ValueError", "boom", "execution_failed"),
    ],
)
def test_a_nodes_failure_is_told_without_its_tensors(kind: str, message: str, code: str) -> None:
    problem = execution_failure(
        {
            "node_id": "3", "node_type": "KSampler", "exception_type": kind,
            "exception_message": message, "traceback": ["one\n", "two\n", "three\n", "four\n"],
            "current_inputs": {"latent": [f"tensor({SECRET})"]},
        }
    )  # fmt: skip
    assert problem.code == code
    assert problem.info.detail["traceback"] == ["two", "three", "four"]
    assert SECRET not in problem.info.model_dump_json()


def test_what_was_asked_is_remembered_by_the_fake() -> None:
    """The fake's own dequeue and interrupt, which the session's tests stand on."""
    with FakeComfy() as fake:
        http = ComfyHttp(fake.url)
        http.dequeue("a")
        http.interrupt("b")
        http.forget("c")
        assert fake.interrupts == ["b"]
