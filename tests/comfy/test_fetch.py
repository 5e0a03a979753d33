"""A stranger's URL is fetched whole, in time, from the public internet, or not at all."""

from __future__ import annotations

import gzip
import hashlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.support import Reply, Script, Scripted
from pennyreel_comfy.fetch import fetch
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import BadRequest, JobCancelled, JobFailed, JobTimeout, PennyreelError

DATA = os.urandom(3 << 20)
Serve = Callable[[Script], Scripted]
Speak = Callable[[socket.socket], None]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as stack:
        yield lambda script: stack.enter_context(Scripted(script))


@pytest.fixture
def raw() -> Iterator[Callable[[Speak], str]]:
    """A server that says what it is told to, byte by byte; the URL of each."""
    listeners: list[socket.socket] = []

    def start(speak: Speak) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def one(peer: socket.socket) -> None:
            with peer, suppress(OSError):
                peer.recv(65536)
                speak(peer)

        def run() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    threading.Thread(target=one, args=(peer,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def get(url: str, path: Path, **options: Any) -> str:
    """Fetch from a server of the test's own."""
    given_: dict[str, Any] = {
        "most": 100 << 20,
        "deadline": Deadline(20),
        "allow_hosts": {url.split("/")[2]},
        **options,
    }
    return fetch(url, path, **given_)


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> list[str]:
    """Every name has these addresses, an address has itself; returns what was looked up."""
    asked: list[str] = []

    def look(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        literal = ":" in host or host.replace(".", "").isdigit()
        return [
            (socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port))
            for a in ([host] if literal else addresses)
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look)
    return asked


# What is fetched.


def test_a_file_arrives_whole_with_its_sha256(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(200, DATA))
    digest = get(f"{server.url}/a%20b?sig=1", tmp_path / "x")
    assert digest == hashlib.sha256(DATA).hexdigest()
    assert (tmp_path / "x").read_bytes() == DATA
    asked = server.requests[0]
    assert asked.path == "/a%20b?sig=1"
    assert asked.headers["Host"] == server.url.removeprefix("http://")
    assert "Authorization" not in asked.headers


def test_an_empty_file_is_a_file(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(200, b""))
    get(f"{server.url}", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b""


def test_environment_proxies_and_netrc_are_not_used(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, server = serve(lambda _: Reply(200, b"proxied")), serve(lambda _: Reply(200, b"direct"))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password SECRET\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.url)
    get(server.url, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"direct"
    assert proxy.requests == []
    assert "Authorization" not in server.requests[0].headers


# What is not.


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/x", "file:///etc/passwd", "gopher://x/", "//example.com/x", "x", "",
        "data:text/plain,x", "http:///x", "http://", "http://user@example.com/x",
        "http://user:pw@example.com/x", "http://:pw@example.com/x", "https://example.com:abc/x",
        "http://example.com:99999/x", "http://example.com:0/x", "https://example.com:0/x",
        "http://[::1/x", "http://[nonsense]/x",
    ],
)  # fmt: skip
def test_only_plain_web_addresses_are_fetched(url: str, tmp_path: Path) -> None:
    with pytest.raises(PennyreelError) as caught:
        fetch(url, tmp_path / "x", most=10, deadline=Deadline(5))
    assert caught.value.code == "address_refused"
    assert "pw" not in str(caught.value)
    assert not (tmp_path / "x").exists()


PRIVATE = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1", "198.18.0.1",
    "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1", "fec0::1",
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:10.0.0.1", "::127.0.0.1",
    "::ffff:0:127.0.0.1", "2002:7f00:1::", "2002:a9fe:a9fe::1", "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "2001:0:53aa:64c:0:0:80ff:fffe",
    "2001:db8::1", "100::1", "192.0.0.9", "192.0.0.171", "192.88.99.1", "168.63.129.16",
    "3fff::1", "5f00::1", "::ffff:168.63.129.16",
]  # fmt: skip


@pytest.mark.parametrize("address", PRIVATE)
def test_a_name_with_a_private_address_is_refused(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for addresses in ([address], ["93.184.216.34", address]):
        resolving(monkeypatch, *addresses)
        with pytest.raises(BadRequest) as caught:
            fetch(
                "https://innocent.example/x?sig=SECRET",
                tmp_path / "x",
                most=9,
                deadline=Deadline(5),
            )
        assert caught.value.code == "address_refused"
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("address", ["93.184.216.34", "8.8.8.8", "2606:2800:220:1::1"])
def test_a_public_address_is_gone_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, address)
    gone_to: list[tuple[str, int]] = []

    def connect(place: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        gone_to.append(place)
        raise OSError

    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    with pytest.raises(JobFailed):
        fetch("https://example.com/x", Path("/nonexistent/x"), most=1, deadline=Deadline(5))
    assert gone_to == [(address, 443)]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
        "0", "localhost", "LOCALHOST", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]",
        "169.254.169.254", "2852039166", "0xa9fea9fe", "[fe80::1%25lo]", "127.0.0.1.",
    ],
)  # fmt: skip
def test_no_way_of_writing_a_private_address_is_let_through(host: str, tmp_path: Path) -> None:
    with pytest.raises(PennyreelError) as caught:
        fetch(f"http://{host}:1/x", tmp_path / "x", most=10, deadline=Deadline(5))
    # What this system does not take for an address is not reached either.
    assert caught.value.code in {"address_refused", "input_unreachable"}
    assert "cannot be fetched" not in str(caught.value)


@given(st.text(max_size=30), st.text(max_size=10))
def test_no_url_makes_it_raise_anything_else(host: str, rest: str) -> None:
    def nowhere(*_: Any, **__: Any) -> list[Any]:
        raise OSError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", nowhere)
        for url in (host, f"http://{host}/{rest}", f"https://[{host}]:{rest}"):
            with pytest.raises(PennyreelError):
                fetch(url, Path("/nonexistent/x"), most=1, deadline=Deadline(5))


def test_the_address_that_was_checked_is_the_one_that_is_asked(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: Reply(200, b"x"))
    port = int(server.url.rpartition(":")[2])
    asked = resolving(monkeypatch, "127.0.0.1")
    get(f"http://some.name:{port}/x", tmp_path / "x")
    assert server.requests[0].headers["Host"] == f"some.name:{port}"
    assert asked.count("some.name") == 1


def test_an_international_name_is_asked_for_in_ascii(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: Reply(200, b"x"))
    port = int(server.url.rpartition(":")[2])
    resolving(monkeypatch, "127.0.0.1")
    hosts = {f"例え.jp:{port}", f"xn--r8jz45g.jp:{port}"}
    get(f"http://例え.jp:{port}/x", tmp_path / "x", allow_hosts=hosts)
    assert server.requests[0].headers["Host"] == f"xn--r8jz45g.jp:{port}"


def test_every_address_of_an_allowed_host_is_tried(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda _: Reply(200, b"x"))
    port = int(server.url.rpartition(":")[2])
    resolving(monkeypatch, "::1", "127.0.0.1")  # as localhost often has, served on one of them
    get(f"http://store.local:{port}/x", tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == b"x"


def test_an_allowed_host_is_allowed_on_its_port_only(serve: Serve, tmp_path: Path) -> None:
    server, other = serve(lambda _: Reply(200, b"x")), serve(lambda _: Reply(200, b"x"))
    allowed = {server.url.removeprefix("http://")}
    get(f"{server.url}/x", tmp_path / "x", allow_hosts=allowed)
    with pytest.raises(BadRequest, match="not public"):
        get(f"{other.url}/x", tmp_path / "y", allow_hosts=allowed)
    with pytest.raises(BadRequest, match="not public"):
        get(f"{server.url}/x", tmp_path / "y", allow_hosts={"127.0.0.1"})
    assert other.requests == []


# Redirects.


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(status: int, serve: Serve, tmp_path: Path) -> None:
    server = serve(
        lambda r: Reply(200, b"x") if r.path == "/b" else Reply(status, b"", {"Location": "b"})
    )
    get(f"{server.url}/a", tmp_path / "x")
    assert [r.path for r in server.requests] == ["/a", "/b"]


def test_a_redirect_to_a_private_address_is_refused(serve: Serve, tmp_path: Path) -> None:
    inner = serve(lambda _: Reply(200, b"secret"))
    for target in (f"{inner.url}/x", "http://169.254.169.254/latest", "file:///etc/passwd"):
        server = serve(lambda _, target=target: Reply(302, b"", {"Location": target}))
        with pytest.raises(BadRequest) as caught:
            get(f"{server.url}/x", tmp_path / "x")
        assert caught.value.code == "address_refused"
    assert inner.requests == []
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_to_nonsense_is_an_error_of_ours(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(302, b"", {"Location": "http://[::1"}))
    with pytest.raises(PennyreelError):
        get(f"{server.url}/x", tmp_path / "x")


def test_redirects_have_an_end(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(302, b"", {"Location": "/again"}))
    with pytest.raises(JobFailed, match="redirects more than 5 times"):
        get(f"{server.url}/x", tmp_path / "x")
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    ("status", "retryable"), [(404, False), (403, False), (304, False), (500, True), (429, True)]
)
def test_another_status_is_told(status: int, retryable: bool, serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(status))
    with pytest.raises(JobFailed, match=str(status)) as caught:
        get(f"{server.url}/x?sig=SECRET", tmp_path / "x")
    assert caught.value.retryable is retryable
    assert "SECRET" not in str(caught.value)


# Limits.


@pytest.mark.parametrize("kind", ["text/html", "Text/HTML; charset=utf-8", "application/xhtml+xml"])
def test_a_page_is_no_file_unless_a_page_is_wanted(kind: str, serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(200, b"<html>Log in", {"Content-Type": kind}))
    with pytest.raises(BadRequest, match="leads to a page, not a file") as caught:
        get(f"{server.url}/x?sig=SECRET", tmp_path / "x")
    assert caught.value.code == "bad_input"
    assert "SECRET" not in str(caught.value)
    assert not (tmp_path / "x").exists()
    get(server.url, tmp_path / "x.html", pages=True)
    assert (tmp_path / "x.html").read_bytes() == b"<html>Log in"


def test_a_compressed_body_is_never_unpacked(serve: Serve, tmp_path: Path) -> None:
    packed = gzip.compress(bytes(10 << 20))
    server = serve(lambda _: Reply(200, packed, {"Content-Encoding": "gzip"}))
    get(server.url, tmp_path / "x", most=len(packed))
    assert (tmp_path / "x").read_bytes() == packed
    with pytest.raises(BadRequest) as caught:
        get(server.url, tmp_path / "y", most=len(packed) - 1)
    assert caught.value.code == "input_too_large"


def test_a_size_that_is_announced_too_large_is_not_fetched(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(200, DATA))
    with pytest.raises(BadRequest) as caught:
        get(f"{server.url}/x", tmp_path / "x", most=len(DATA) - 1)
    assert caught.value.code == "input_too_large"
    assert list(tmp_path.iterdir()) == []
    get(f"{server.url}/x", tmp_path / "x", most=len(DATA))


def test_a_size_that_is_not_announced_is_counted(
    raw: Callable[[Speak], str], tmp_path: Path
) -> None:
    def speak(peer: socket.socket) -> None:
        peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            peer.sendall(b"x" * 65536)

    with pytest.raises(BadRequest) as caught:
        get(f"{raw(speak)}/x", tmp_path / "x", most=1 << 20)
    assert caught.value.code == "input_too_large"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nshort\r\n0\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
def test_a_broken_answer_is_no_file(
    answer: bytes, raw: Callable[[Speak], str], tmp_path: Path
) -> None:
    with pytest.raises(JobFailed) as caught:
        get(f"{raw(lambda peer: peer.sendall(answer))}/x", tmp_path / "x")
    assert (caught.value.code, caught.value.retryable) == ("input_unreachable", True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", ["abc", "-5", "1e3", "9" * 5000])
def test_a_length_that_is_no_number_raises_nothing_of_its_own(
    length: str, raw: Callable[[Speak], str], tmp_path: Path
) -> None:
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\nhi".encode()
    with suppress(PennyreelError):
        get(f"{raw(lambda peer: peer.sendall(answer))}/x", tmp_path / "x")
        assert (tmp_path / "x").read_bytes() == b"hi"


def drip(head: bytes) -> Speak:
    """Send a byte now and then, until the other side has gone: no single read ever times out."""

    def speak(peer: socket.socket) -> None:
        peer.sendall(head)
        while not select.select([peer], [], [], 0.05)[0]:
            peer.sendall(b"x")

    return speak


def silence(peer: socket.socket) -> None:
    """Say nothing until the other side has gone."""
    peer.recv(1)


SLOW = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFF\r\n",
    b"HTTP/1.1 200 OK\r\nX-Slow: ",
    b"HTTP/1.1 200 OK\r\n\r\n",
]


@pytest.mark.parametrize("head", SLOW)
def test_a_deadline_ends_a_transfer_that_drips(
    head: bytes, raw: Callable[[Speak], str], tmp_path: Path
) -> None:
    with pytest.raises(JobTimeout):
        get(f"{raw(drip(head))}/x", tmp_path / "x", deadline=Deadline(0.5))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("head", SLOW)
def test_a_cancellation_ends_a_transfer_that_drips(
    head: bytes, raw: Callable[[Speak], str], tmp_path: Path
) -> None:
    token = CancelToken()
    timer = threading.Timer(0.5, token.cancel)
    timer.start()
    with pytest.raises(JobCancelled):
        get(f"{raw(drip(head))}/x", tmp_path / "x", cancel=token)
    assert list(tmp_path.iterdir()) == []
    timer.join()


def test_a_silent_server_has_until_the_deadline(
    raw: Callable[[Speak], str], tmp_path: Path
) -> None:
    with pytest.raises(JobTimeout):
        get(f"{raw(silence)}/x", tmp_path / "x", deadline=Deadline(0.5))


@pytest.mark.parametrize(
    ("after_s", "left_s", "kind"), [(0.3, 60, JobCancelled), (60, 0.3, JobTimeout)]
)
def test_a_name_server_that_is_silent_holds_up_no_job(
    after_s: float,
    left_s: float,
    kind: type[PennyreelError],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A stranger's name is asked for at the stranger's own server."""
    token, released, ended = CancelToken(), threading.Event(), threading.Event()

    def look(*_: Any, **__: Any) -> list[Any]:
        released.wait()
        ended.set()
        return []

    monkeypatch.setattr(socket, "getaddrinfo", look)
    timer = threading.Timer(after_s, token.cancel)
    timer.start()
    began = time.monotonic()
    with pytest.raises(kind):
        fetch(
            "http://slow.example/x",
            tmp_path / "x",
            most=1,
            deadline=Deadline(left_s),
            cancel=token,
        )
    assert time.monotonic() - began < 30
    assert not ended.is_set()
    timer.cancel()
    timer.join()
    released.set()
    assert ended.wait(10)


def test_a_deadline_that_has_passed_is_a_timeout(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(200, b"x"))
    with pytest.raises(JobTimeout):
        get(f"{server.url}/x", tmp_path / "x", deadline=Deadline(0))


def test_a_job_that_is_cancelled_already_asks_nobody(serve: Serve, tmp_path: Path) -> None:
    server, token = serve(lambda _: Reply(200, b"x")), CancelToken()
    token.cancel()
    with pytest.raises(JobCancelled):
        get(f"{server.url}/x", tmp_path / "x", cancel=token)
    assert server.requests == []
    assert list(tmp_path.iterdir()) == []


# This machine's disk.


def test_a_file_that_is_there_already_is_left_alone(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(200, b"new"))
    (tmp_path / "x").write_text("mine")
    with pytest.raises((PennyreelError, OSError)):
        get(f"{server.url}/x", tmp_path / "x")
    assert (tmp_path / "x").read_text() == "mine"


def test_a_disks_fault_is_not_the_servers(serve: Serve, tmp_path: Path) -> None:
    server = serve(lambda _: Reply(200, b"new"))
    with pytest.raises((PennyreelError, OSError)) as caught:
        get(f"{server.url}/x", tmp_path / "no such folder" / "x")
    assert getattr(caught.value, "code", "") != "input_unreachable"
