"""Downloads carry no credential, go where they may, and arrive whole or not at all."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests

from client.support import Reply, Request, Script, Scripted
from pennyreel import (
    BadRequest,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    PennyreelError,
    Unavailable,
)
from pennyreel._http import Api, TooSlow, download, never_sent, shown, within
from pennyreel._http.addresses import private
from pennyreel.saving import PartFile
from pennyreel_comfy import http as comfy_http
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.waiting import CancelToken, Deadline

Servers = Callable[[Script], Scripted]
DATA = bytes(range(256)) * 20_000
SHA = hashlib.sha256(DATA).hexdigest()


def get(url: str, folder: Path, **options: Any) -> bytes:
    pauses: list[float] = []
    given: dict[str, Any] = {"sha256": SHA, "local": True, **options}
    with PartFile(folder, "x") as part:
        download(url, part, pause=pauses.append, **given)
        return part.commit().read_bytes()


def test_a_file_is_fetched_without_any_credential(
    scripted: Servers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password SECRET\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    server = scripted(lambda _: Reply(body=DATA))
    assert get(f"{server.url}/x?sig=1", tmp_path / "o", size=len(DATA)) == DATA
    assert "Authorization" not in server.requests[0].headers


@pytest.mark.parametrize(
    "first",
    [None, Reply(500), Reply(429), Reply(body=DATA, cut_at=70_000), Reply(body=b"other bytes")],
)
def test_a_broken_or_damaged_transfer_begins_anew(
    first: Reply | None, scripted: Servers, tmp_path: Path
) -> None:
    answers = [first, Reply(body=DATA)]
    server = scripted(lambda _: answers.pop(0))
    assert get(f"{server.url}/x", tmp_path) == DATA


def test_tries_have_an_end_and_leave_nothing(scripted: Servers, tmp_path: Path) -> None:
    server = scripted(lambda _: Reply(body=b"never right"))
    with pytest.raises(JobFailed, match="damaged") as caught:
        get(f"{server.url}/x?sig=SECRET", tmp_path)
    assert caught.value.code == "storage_failed"
    assert "SECRET" not in str(caught.value)
    assert 2 <= len(server.requests) <= 5
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_expired_address_is_told_at_once(status: int, scripted: Servers, tmp_path: Path) -> None:
    server = scripted(lambda _: Reply(status))
    with pytest.raises(JobFailed) as caught:
        get(f"{server.url}/x", tmp_path)
    assert caught.value.code == "result_expired"
    assert len(server.requests) == 1


def test_redirects_are_followed_a_few_times_and_checked_each_time(
    scripted: Servers, tmp_path: Path
) -> None:
    def script(request: Request) -> Reply:
        if request.path == "/start":
            return Reply(302, headers={"Location": "/end"})
        if request.path == "/away":
            return Reply(302, headers={"Location": "http://example.com/x"})
        if request.path == "/loop":
            return Reply(302, headers={"Location": "/loop"})
        return Reply(body=DATA)

    server = scripted(script)
    assert get(f"{server.url}/start", tmp_path) == DATA
    with pytest.raises(BadRequest, match="https only"):
        get(f"{server.url}/away", tmp_path)
    with pytest.raises(JobFailed, match="without end"):
        get(f"{server.url}/loop", tmp_path)


@pytest.mark.parametrize(
    "url",
    ["http://example.com/x", "http://127.0.0.1:9/x", "https://127.0.0.1:9/x", "file:///etc/passwd",
     "https:///x"],
)  # fmt: skip
def test_a_worker_cannot_send_us_just_anywhere(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadRequest) as caught:
        get(url, tmp_path, local=False)
    assert caught.value.code == "address_refused"


@pytest.mark.parametrize(
    "host",
    ["10.1.2.3", "192.168.0.1", "172.16.0.9", "169.254.169.254", "100.64.0.1", "0.0.0.0",
     "[fd00::1]", "[fe80::1]", "[::ffff:10.0.0.1]", "2852039166", "0xa9fea9fe", "10.1"],
)  # fmt: skip
@pytest.mark.parametrize("local", [True, False])
def test_no_private_address_is_asked_however_it_is_written(
    host: str, local: bool, tmp_path: Path
) -> None:
    with pytest.raises(BadRequest, match="private") as caught:
        get(f"https://{host}/x?sig=SECRET", tmp_path, local=local)
    assert caught.value.code == "address_refused"
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("host", ["8.8.8.8", "[2606:4700::1111]"])
def test_public_addresses_are_asked(host: str, tmp_path: Path) -> None:
    with pytest.raises(UserWarning, match="tried to use socket"):  # the tests' own wall
        get(f"https://{host}/x", tmp_path)


@pytest.mark.parametrize("host", ["example.com", "abc.de", "fd00.example", "10.example"])
def test_a_name_is_no_address(host: str) -> None:
    assert not private(host)


def test_more_than_was_allowed_is_not_taken(scripted: Servers, tmp_path: Path) -> None:
    server = scripted(lambda _: Reply(body=DATA))
    with pytest.raises(PennyreelError) as caught:
        get(f"{server.url}/x", tmp_path, most=1000)
    assert caught.value.code == "input_too_large"


def test_an_address_is_shown_without_what_is_secret_in_it() -> None:
    assert shown("https://user:pw@host/a/b?X-Amz-Signature=1#f") == "https://host/a/b"


@dataclass
class Dripping:
    """A server whose answers never end and never pause for long; /whole is one that does."""

    url: str


@pytest.fixture
def dripping() -> Iterator[Dripping]:
    ended = threading.Event()

    def drip(opened: socket.socket) -> None:
        with suppress(OSError):
            while not ended.wait(0.02):
                opened.sendall(b"x")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(200)
            if self.path == "/whole":
                self.send_header("Content-Length", "5")
                self.end_headers()
                self.wfile.write(b"whole")
                return
            self.close_connection = True
            if self.path == "/headers":
                self.flush_headers()
            else:
                self.end_headers()
            drip(self.connection)

        do_GET = do_POST = _any  # noqa: N815 - the library's names

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    yield Dripping(f"http://127.0.0.1:{server.server_address[1]}")
    ended.set()
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.mark.parametrize("begun", [False, True])
def test_an_answer_that_drips_is_cut_at_its_time(dripping: Dripping, begun: bool) -> None:
    with closing(Api(dripping.url, None)) as api:
        if begun:  # by a connection that was kept, too
            assert api.call("GET", "/whole").text == "whole"
        began = time.monotonic()
        with pytest.raises(TooSlow) as caught:
            api.call("POST", "/x", body=b"{}", timeout=0.4)
    assert time.monotonic() - began < 5
    assert not never_sent(caught.value), "the job may run"


def test_a_look_is_cut_at_the_deadline_and_at_the_cancellation_of_its_job(
    dripping: Dripping,
) -> None:
    cancel, began = CancelToken(), time.monotonic()
    timer = threading.Timer(0.2, cancel.cancel)
    with closing(Api(dripping.url, None)) as api:
        with pytest.raises(TooSlow), within(Deadline(0.3)):
            api.call("GET", "/x")
        timer.start()
        with pytest.raises(TooSlow), within(Deadline(None), cancel):
            api.call("GET", "/x")
        with pytest.raises(requests.RequestException) as late, within(Deadline(None), cancel):
            api.call("POST", "/x", body=b"{}")
    timer.join()
    assert time.monotonic() - began < 5
    assert never_sent(late.value), "it was too late before"


def test_headers_that_drip_are_cut_too(dripping: Dripping) -> None:
    began = time.monotonic()
    with closing(Api(dripping.url, None)) as api, pytest.raises(TooSlow):
        api.call("GET", "/headers", timeout=0.4)
    assert time.monotonic() - began < 5


def test_a_comfyui_whose_answer_drips_is_no_comfyui(dripping: Dripping) -> None:
    began = time.monotonic()
    with closing(ComfyHttp(dripping.url)) as comfy:
        with pytest.raises(Unavailable):
            comfy.queue(timeout=0.4)
        with pytest.raises(OutcomeUnknown), within(Deadline(0.4)):
            comfy.prompt({}, client_id="c", prompt_id="p")
    assert time.monotonic() - began < 5


def test_a_comfyui_whose_answer_has_no_end_is_given_up(
    scripted: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comfy_http, "MAX_ANSWER", 100_000)
    server = scripted(lambda _: Reply(body=b"[" + b"1," * 200_000 + b"1]"))
    with closing(ComfyHttp(server.url)) as comfy, pytest.raises(Unavailable):
        comfy.models()


def test_a_deadline_cuts_a_download_that_drips(dripping: Dripping, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(JobTimeout):
        get(f"{dripping.url}/x", tmp_path, deadline=Deadline(0.3))
    assert time.monotonic() - began < 5
    assert not list(tmp_path.iterdir())


def test_a_cancel_cuts_a_download_that_drips(dripping: Dripping, tmp_path: Path) -> None:
    cancel, began = CancelToken(), time.monotonic()
    timer = threading.Timer(0.2, cancel.cancel)
    timer.start()
    with pytest.raises(JobCancelled):
        get(f"{dripping.url}/x", tmp_path, cancel=cancel)
    timer.join()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("url", ["http://[::1/", "nowhere", "ftp://x/", "http://no.such.invalid/"])
def test_what_never_left_this_machine_is_known(url: str) -> None:
    with pytest.raises(requests.RequestException) as caught:
        requests.get(url, timeout=5)
    assert never_sent(caught.value)
