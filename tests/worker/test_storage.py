"""A bucket: where it may be, how long it is waited for, and what may be read from it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from urllib3.util import connection

from faults.gateway import Gateway
from pennyreel_comfy.addresses import parse, resolve
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import BadRequest, JobCancelled, JobRequest, JobTimeout, PennyreelError
from pennyreel_worker import results
from pennyreel_worker.buckets import Bucket
from pennyreel_worker.claims import claim
from pennyreel_worker.storage import Store
from worker.support import S3, SECRET, request, until

Opener = Callable[..., Store]


@pytest.fixture
def open_store() -> Iterator[Opener]:
    """`open_store(url, bucket="b", allow_hosts=…)`: one attempt a call."""
    with ExitStack() as stack:

        def make(url: str, bucket: str = "bucket", **options: Any) -> Store:
            given = Bucket(url, "AKIATEST", SECRET, bucket, "us-east-1", "path", 1)
            return stack.enter_context(closing(Store(given, **options)))

        yield make


@pytest.fixture
def silent() -> Iterator[Silent]:
    with closing(Silent()) as server:
        yield server


class Silent:
    """Accepts connections, counts them, and never says a word."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.peers: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                self.peers.append(self._listener.accept()[0])

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for peer in self.peers:
            peer.close()


def answering(monkeypatch: pytest.MonkeyPatch, *answers: str) -> None:
    """Have names resolve to each of these addresses in turn, then to the last for ever."""
    left = list(answers)
    real = socket.getaddrinfo

    def look(host: str, port: int, *rest: Any, **more: Any) -> Any:
        if not host.endswith(".example"):
            return real(host, port, *rest, **more)
        address = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_name_that_changes_its_address_leads_to_no_private_one(
    scheme: str, open_store: Opener, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "93.184.216.34", "127.0.0.1")
    url = f"{scheme}://rebind.example:{silent.port}"
    assert resolve(parse(url), "its endpoint", ()) == ["93.184.216.34"]
    store = open_store(url, allow_hosts=())
    limits = {"deadline": Deadline(20), "cancel": CancelToken()}
    for call in calls(store):
        with pytest.raises(BadRequest) as caught:
            call(**limits)
        assert caught.value.code == "address_refused"
    assert silent.peers == []


def test_a_checked_address_is_the_one_that_is_gone_to(
    open_store: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, "93.184.216.34")
    gone_to: list[tuple[str, int]] = []
    real, this = connection.create_connection, threading.get_ident()

    def connect(place: tuple[str, int], *rest: Any, **more: Any) -> socket.socket:
        if threading.get_ident() != this:  # another test's ComfyUI is spoken to meanwhile
            return real(place, *rest, **more)
        gone_to.append(place)
        raise OSError

    monkeypatch.setattr(connection, "create_connection", connect)
    with pytest.raises(PennyreelError) as caught:
        open_store("https://bucket.example", allow_hosts=()).get_json("x")
    assert caught.value.code == "storage_failed"
    assert set(gone_to) == {("93.184.216.34", 443)}


def test_a_strangers_bucket_is_spoken_to_without_a_proxy(
    open_store: Opener, s3: S3, silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, silent.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    store = open_store(s3.url, s3.bucket, allow_hosts={s3.url.removeprefix("http://")})
    store.put("a", b"{}", "text/plain")
    assert store.get_json("a") == {}
    assert silent.peers == []


def calls(store: Store) -> list[Callable[..., Any]]:
    """Every call that carries little."""
    return [
        lambda **limits: store.put("k", b"x", "text/plain", **limits),
        lambda **limits: store.get_json("k", **limits),
        lambda **limits: store.exists("s3://bucket/k", **limits),
        lambda **limits: store.download("s3://bucket/k", Path("never"), most=1, **limits),
    ]


@pytest.mark.parametrize("number", range(4))
def test_a_silent_bucket_has_until_the_deadline(
    number: int, open_store: Opener, silent: Silent
) -> None:
    store = open_store(silent.url)
    with pytest.raises(JobTimeout):
        calls(store)[number](deadline=Deadline(1), cancel=CancelToken())
    assert len(silent.peers) == 1


@pytest.mark.parametrize("number", range(4))
def test_a_cancellation_does_not_wait_for_a_silent_bucket(
    number: int, open_store: Opener, silent: Silent
) -> None:
    store, token = open_store(silent.url), CancelToken()

    def cancel() -> None:
        until(lambda: silent.peers)
        token.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    began = time.monotonic()
    with pytest.raises(JobCancelled):
        calls(store)[number](deadline=Deadline(110), cancel=token)
    thread.join()
    assert time.monotonic() - began < 60


def test_a_job_whose_time_is_over_asks_no_bucket(open_store: Opener, silent: Silent) -> None:
    token = CancelToken()
    token.cancel()
    for call in calls(open_store(silent.url)):
        with pytest.raises(JobTimeout):
            call(deadline=Deadline(0), cancel=CancelToken())
        with pytest.raises(JobCancelled):
            call(deadline=Deadline(5), cancel=token)
    assert silent.peers == []


def test_a_stored_result_is_looked_for_within_the_jobs_time(
    open_store: Opener, silent: Silent
) -> None:
    asked = JobRequest.model_validate(request())
    with pytest.raises(JobTimeout):
        results.find(open_store(silent.url), "results/", asked, deadline=Deadline(0.2))


def test_what_a_call_says_is_said_with_limits_too(open_store: Opener, s3: S3) -> None:
    store = open_store(s3.url, s3.bucket)
    limits: dict[str, Any] = {"deadline": Deadline(20), "cancel": CancelToken()}
    assert store.get_json("none", **limits) is None
    assert not store.exists(f"s3://{s3.bucket}/none", **limits)
    assert store.put("one.json", b'{"a": 1}', "application/json", **limits)
    assert store.get_json("one.json", **limits) == {"a": 1}
    assert store.exists(f"s3://{s3.bucket}/one.json", **limits)


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("another", "in/a.png"),
        ("", "results/x.json"),
        ("", "/results/x.json"),
        ("", "./results/x.json"),
        ("", "in/../results/x.json"),
        ("", "in//../results//x.json"),
    ],
)
def test_no_input_is_read_from_elsewhere_or_from_stored_results(
    bucket: str, key: str, open_store: Opener, silent: Silent, tmp_path: Path
) -> None:
    store = open_store(silent.url)
    with pytest.raises(BadRequest) as caught:
        store.download(
            f"s3://{bucket or store.bucket}/{key}",
            tmp_path / "x",
            most=9,
            deadline=Deadline(5),
            cancel=CancelToken(),
            reserved="results/",
        )
    assert caught.value.code == "bad_input"
    assert silent.peers == []


@pytest.mark.parametrize("store_knows", ["conditions", "none"])
def test_of_two_workers_with_one_paid_attempt_only_one_runs_it(
    store_knows: str, open_store: Opener, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The platform hands it out again, while the first one, believed lost, is at the same place."""
    stores = [open_store(s3.url, s3.bucket) for _ in range(2)]
    met = threading.Barrier(2)
    for store in stores:
        read = store.get_json

        def both(*args: Any, read: Any = read, store: Store = store, **limits: Any) -> Any:
            found = read(*args, **limits)
            monkeypatch.setattr(store, "get_json", read)  # the second look comes alone
            met.wait(30)
            return found

        monkeypatch.setattr(store, "get_json", both)
        if store_knows == "none":
            unconditional(store, monkeypatch)
    ran: list[int] = []

    def work(number: int) -> None:
        with suppress(PennyreelError):
            claim(
                stores[number], "results/", "attempt-1", deadline=Deadline(60), cancel=CancelToken()
            )
            ran.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ran) == (1 if store_knows == "conditions" else 2)
    assert s3.listed() == ["results/attempt-1.started"]


def unconditional(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have its server refuse conditions, as older stores do."""
    real = store._small.put_object

    def put(**options: Any) -> Any:
        if "IfNoneMatch" in options:
            raise ClientError({"Error": {"Code": "NotImplemented"}}, "PutObject")
        return real(**options)

    monkeypatch.setattr(store._small, "put_object", put)


def test_a_claim_whose_answer_was_lost_is_still_ones_own(
    open_store: Opener, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(s3.url, s3.bucket)
    real = store._small.put_object

    def twice(**options: Any) -> Any:
        real(**options)
        return real(**options)  # as botocore does, when it has heard nothing

    monkeypatch.setattr(store._small, "put_object", twice)
    limits: dict[str, Any] = {"deadline": Deadline(60), "cancel": CancelToken()}
    claim(store, "results/", "attempt-1", **limits)
    with pytest.raises(PennyreelError) as caught:
        claim(store, "results/", "attempt-1", **limits)
    assert caught.value.code == "unknown_outcome"


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (301, "PermanentRedirect", "BUCKET_REGION"),
        (400, "AuthorizationHeaderMalformed", "BUCKET_REGION"),
        (400, "ExpiredToken", "do not expire"),
    ],
)
def test_what_another_attempt_cannot_mend_is_said_with_what_can(
    status: int, code: str, hint: str, open_store: Opener
) -> None:
    with Gateway() as store:
        text = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        store.add(lambda method, *_: method == "PUT", "answer", status=status, body=text, times=9)
        store.add(lambda *_: True, "answer", status=404, times=9)  # botocore asks for the region
        with pytest.raises(PennyreelError) as caught:
            open_store(store.url).put("a", b"a", "text/plain")
    assert caught.value.code == "storage_failed"
    assert not caught.value.retryable
    assert hint in caught.value.hint
