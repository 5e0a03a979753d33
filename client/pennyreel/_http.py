"""HTTP for the backends: keys stay with their origin, nothing is retried but reads.

The requests library would follow redirects with the key attached to the same host, take
credentials from .netrc and send a local request through a proxy. None of that happens here.
"""

from __future__ import annotations

import ipaddress
import logging
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from typing_extensions import Self
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError

from pennyreel.config import Secret, is_loopback, key_may_travel, well_formed
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Sink
from pennyreel_comfy import echoes
from pennyreel_comfy.waiting import CancelToken, Deadline

CONNECT_S = 10.0
READ_S = 30.0
CHUNK = 1 << 20
MAX_ANSWER = 256 << 20
"""Bytes taken of an answer: more than a clip in base64, less than a machine's memory."""

MAX_FILE = 16 << 30
"""Bytes taken of a result whose size nobody tells."""

MAX_HOPS = 3
TRIES = 4
MAX_PAUSE_S = 30.0

Pause = Callable[[float], None]


class _NoQueries(logging.Filter):
    """Takes the queries out of urllib3's debug lines: signatures stand there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always told."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{a.partition('?')[0]}?***" if isinstance(a, str) and "?" in a else a
                for a in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_NoQueries())

_UNSENT = (
    requests.ConnectTimeout,
    requests.exceptions.ProxyError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidHeader,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
)


Key = Secret | Callable[[], Secret] | None
"""A key, or what is asked for it before each request: a token that expires."""


class _Bearer(AuthBase):
    """Adds the key; being an `auth`, it also keeps .netrc out."""

    def __init__(self, key: Key, header: str = "Authorization") -> None:
        self._key = key
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        key = self._key() if callable(self._key) else self._key
        if key is not None:
            scheme = "Bearer " if self._header == "Authorization" else ""
            request.headers[self._header] = scheme + key.reveal()
        return request


class Api:
    """One JSON API under a base URL, with its key."""

    def __init__(self, base_url: str, key: Key, *, header: str = "Authorization") -> None:
        """Keep them; refuses an address to which a key may not be sent.

        In the header Authorization the key is a bearer token; in any other it stands alone.
        """
        if not well_formed(base_url) or urlsplit(base_url).username:
            raise error(
                Code.NOT_CONFIGURED,
                "the base URL is not a plain http(s) address",
                hint="Write it like https://api.runpod.ai/v2",
            )
        if key is not None and not key_may_travel(base_url):
            raise error(
                Code.NOT_CONFIGURED,
                f"the API key is not sent to {shown(base_url)}: it is not https",
                hint="Use an https address, or http on this machine.",
            )
        self.base_url = base_url.rstrip("/")
        self._auth = _Bearer(key, header)
        self._local = threading.local()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        timeout: float = READ_S,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> requests.Response:
        """Send one request, once, and return its whole answer. `headers` are sent besides.

        Raises:
            requests.RequestException: no answer, or one that is too large; `never_sent` tells if
                anything left.
            Unavailable: the answer is a redirect, which would take the key elsewhere.

        """
        reply = self._session().request(
            method,
            self.base_url + path,
            data=body,
            headers={
                "Content-Type": content_type,
                "User-Agent": "pennyreel",
                **(headers or {}),
            },
            auth=self._auth,
            timeout=(min(CONNECT_S, timeout), timeout),
            allow_redirects=False,
            stream=True,
        )
        with reply:
            _take(reply)
        if 300 <= reply.status_code < 400:
            raise error(
                Code.BACKEND_UNAVAILABLE,
                f"{urlsplit(self.base_url).hostname} redirects to another address; the key is not "
                "sent there",
                hint="Check the base URL.",
                retryable=False,
            )
        return reply

    def close(self) -> None:
        """Close this thread's connections."""
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is not None:
            session.close()

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = _session(self.base_url)
        return session


class TooLarge(requests.RequestException):
    """A server's answer has no end."""


def _take(reply: requests.Response) -> None:
    """Read an answer, as much as can be an honest one, without what the request carried."""
    pieces, size = [], 0
    for piece in reply.iter_content(CHUNK):
        size += len(piece)
        if size > MAX_ANSWER:
            raise TooLarge
        pieces.append(piece)
    reply._content = b"".join(pieces)  # noqa: SLF001 - what `content` does, with a limit
    echoes.hide(reply)


class _Reply(requests.Response):
    """An answer whose JSON cannot break its reader, or a terminal."""

    def json(self, **options: Any) -> Any:
        """Return it; ValueError also where it is nested without end."""
        try:
            return harmless(super().json(**options))
        except RecursionError:
            raise ValueError("nested too deep") from None


def harmless(body: Any) -> Any:
    """Return JSON without the characters that steer a terminal."""
    if isinstance(body, str):
        return body if _STEERING.search(body) is None else _STEERING.sub("\ufffd", body)
    if isinstance(body, dict):
        return {harmless(name): harmless(value) for name, value in body.items()}
    return [harmless(one) for one in body] if isinstance(body, list) else body


_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def never_sent(problem: Exception) -> bool:
    """Whether it is certain that no byte of the request reached the server."""
    if isinstance(problem, _UNSENT):
        return True
    inner = problem.args[0] if problem.args else None
    reason = getattr(inner, "reason", inner)
    return isinstance(problem, requests.ConnectionError) and isinstance(
        reason, (NewConnectionError, NameResolutionError)
    )


def retry_after(reply: requests.Response) -> float | None:
    """Return the seconds that a 429 or 503 asks for, a day at most.

    Who waits here waits `MAX_PAUSE_S` at most; who can go elsewhere has to know how long it is.
    """
    text = reply.headers.get("Retry-After", "")
    try:
        return min(86_400.0, max(0.0, float(text)))
    except ValueError:
        return None


def backoff(attempt: int, *, base: float = 0.5) -> float:
    """Return a pause before try `attempt` (1, 2 …): full jitter, doubling, bounded."""
    return random.uniform(0, min(MAX_PAUSE_S, base * 2**attempt))  # noqa: S311 - not a secret


def download(
    url: str,
    sink: Sink,
    *,
    sha256: str = "",
    size: int | None = None,
    local: bool = False,
    pause: Pause,
    most: int | None = None,
    plain: bool = False,
    headers: Mapping[str, str] | None = None,
    onward: bool = False,
    deadline: Deadline | None = None,
    cancel: CancelToken | None = None,
) -> None:
    """GET a file without any credential. Reading is safe, so failures are tried again.

    Args:
        url: https; http only on this machine, and only where `local`.
        sink: what it is written to.
        sha256: of the whole, where known.
        size: of the whole, where known.
        local: whether addresses on this machine are expected; other private ones never are.
        pause: waits so many seconds, or raises because the job was cancelled.
        most: bytes taken at most.
        plain: http anywhere will do, and private addresses: the user named this URL.
        headers: sent to this very address; redirects are not followed then.
        onward: with `headers`, redirects are followed all the same, without them.
        deadline: of the whole, all tries included.
        cancel: ends it at once.

    Raises:
        BadRequest: `address_refused`.
        JobFailed: `result_expired` for 403, 404, 410; `storage_failed` for the rest.
        JobTimeout, JobCancelled: it was time.

    """
    limit = deadline or Deadline(None)
    with _Cutter(limit, cancel or CancelToken(), shown(url)) as cutter:

        def once() -> None:
            sink.restart()
            opened = _open(url, cutter, local=local, plain=plain, headers=headers, onward=onward)
            with opened as reply:
                _get(url, reply, sink, most, size)
            cutter.check()  # a cut looks like an end where no length was announced
            _compare(url, sink, sha256, size)

        _again(once, cutter, url, pause)


def _again(once: Callable[[], None], cutter: _Cutter, url: str, pause: Pause) -> None:
    """Try until it is done, or has failed often enough."""
    failure: PennyreelError | None = None
    for attempt in range(TRIES):
        if attempt:
            pause(cutter.deadline.left(backoff(attempt)))
            cutter.check()
        failure = _failure(once, cutter, url)
        if failure is None:
            return
    if failure is not None:
        raise failure


def _failure(once: Callable[[], None], cutter: _Cutter, url: str) -> PennyreelError | None:
    """Try once; return what is worth another try, raise what is not."""
    try:
        once()
    except _BROKEN as problem:
        cutter.check()
        return error(
            Code.STORAGE_FAILED, f"{shown(url)} cannot be fetched ({type(problem).__name__})"
        )
    except PennyreelError as problem:
        if problem.code != Code.STORAGE_FAILED.value or not problem.retryable:
            raise
        return problem
    return None


def shown(url: str) -> str:
    """Return a URL without its query and user, where signatures and passwords are."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        return "(what is no URL)"
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}{port}{parts.path}"[:300]


class _Cutter:
    """Cuts a download's connections at the deadline or at a cancellation, whatever they do."""

    def __init__(self, deadline: Deadline, cancel: CancelToken, name: str) -> None:
        self.deadline = deadline
        self._cancel, self._name = cancel, name
        self._socket: Any = None
        self._timer = threading.Timer(deadline.left(), self._cut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self.check()
        if self.deadline.seconds is not None:
            self._timer.start()
        self._cancel.on_cancel(self._cut)
        _here.cutter = self
        return self

    def __exit__(self, *_: object) -> None:
        _here.cutter = None
        self._timer.cancel()
        self._cancel.forget(self._cut)

    def watch(self, opened: Any) -> None:
        """Cut this one from now on."""
        self._socket = opened
        self.check()

    def check(self) -> None:
        """Raise JobCancelled or JobTimeout if it is time."""
        self._cancel.check()
        if self.deadline.expired:
            raise self.deadline.error(f"the job, with fetching {self._name},")

    def _cut(self) -> None:
        opened = self._socket
        if opened is not None:
            with suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)


_here = threading.local()


def _watch(opened: Any) -> None:
    cutter: _Cutter | None = getattr(_here, "cutter", None)
    if cutter is not None:
        cutter.watch(opened)


class _Plain(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _watch(self.sock)


class _Secure(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _watch(self.sock)


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _Plain


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _Secure


class _Watched(HTTPAdapter):
    """Tells the download that runs in this thread of each connection it opens."""

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Make it one that can be trusted to be read."""
        reply = super().build_response(req, resp)
        reply.__class__ = _Reply
        return reply

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        """Make the direct connections' pools."""
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        """Make a proxy's pools."""
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = _POOLS
        return manager


_POOLS = {"http": _PlainPool, "https": _SecurePool}
_BROKEN = (requests.RequestException, HTTPError, OSError, ValueError)
"""What a connection, cut or not, can raise; the sink's own failures are PennyreelErrors."""


def _compare(url: str, sink: Sink, sha256: str, size: int | None) -> None:
    if (sha256 and sink.sha256 != sha256) or (size is not None and sink.size != size):
        raise error(
            Code.STORAGE_FAILED,
            f"{shown(url)} arrived damaged: {sink.size} bytes"
            + (f" of {size}" if size is not None else "")
            + ", with another sha256 than the worker told",
        )


def _get(
    url: str, reply: requests.Response, sink: Sink, most: int | None, size: int | None
) -> None:
    if reply.status_code in {403, 404, 410}:
        raise error(
            Code.RESULT_EXPIRED,
            f"{shown(url)} answers {reply.status_code}: it has expired",
            detail={"status": reply.status_code},
        )
    if reply.status_code != 200:
        raise error(
            Code.STORAGE_FAILED,
            f"{shown(url)} answers {reply.status_code}",
            retryable=reply.status_code >= 500 or reply.status_code == 429,
            detail={"status": reply.status_code},
        )
    for chunk in reply.iter_content(CHUNK):
        if most is not None and sink.size + len(chunk) > most:
            raise error(Code.INPUT_TOO_LARGE, f"{shown(url)} has more than {most} bytes")
        told = MAX_FILE if size is None else size
        if sink.size + len(chunk) > told:  # a disk is not filled by one who does not stop
            raise error(
                Code.STORAGE_FAILED, f"{shown(url)} arrived damaged: more than {told} bytes"
            )
        sink.write(chunk)


@contextmanager
def _open(
    url: str,
    cutter: _Cutter,
    *,
    local: bool,
    plain: bool,
    headers: Mapping[str, str] | None,
    onward: bool,
) -> Iterator[requests.Response]:
    plainly = {"Accept-Encoding": "identity", "User-Agent": "pennyreel"}
    told = {**plainly, **(headers or {})}
    stay = headers is not None and not onward
    for _ in range(MAX_HOPS + 1):
        _check(url, local=local, plain=plain)
        with (
            _session(url) as session,
            session.get(
                url,
                auth=_Bearer(None),
                headers=told,
                timeout=(max(0.01, cutter.deadline.left(CONNECT_S)), READ_S),
                stream=True,
                allow_redirects=False,
            ) as reply,
        ):
            target = reply.headers.get("Location")
            if stay or not (300 <= reply.status_code < 400 and target):
                yield reply
                return
            onto = urljoin(url, target)
            if plain and _inside(onto) and not _inside(url):
                raise error(  # the user named a public address, and its server this one
                    Code.ADDRESS_REFUSED,
                    f"{shown(url)} redirects to a private address: it is not fetched from there",
                    hint="Give the address of the file itself.",
                )
            url, told = onto, plainly
    raise error(Code.STORAGE_FAILED, f"{shown(url)} redirects without end", retryable=False)


def _check(url: str, *, local: bool, plain: bool) -> None:
    parts = urlsplit(url)
    if is_loopback(url):
        if local and parts.scheme in {"http", "https"}:
            return
    elif plain and parts.hostname and parts.scheme in {"http", "https"}:
        return
    elif parts.hostname and parts.scheme == "https":
        if not _private(parts.hostname):
            return
        raise error(
            Code.ADDRESS_REFUSED,
            f"{shown(url)} is at a private address: no file of a job is fetched from there",
            hint="Give the worker storage at a public address, or configure it here as your own: "
            "PENNYREEL_S3_ENDPOINT and PENNYREEL_S3_BUCKET.",
        )
    raise error(
        Code.ADDRESS_REFUSED,
        f"{shown(url)}: files are fetched by https only",
        hint="Give the worker storage that is reached by https.",
    )


def _inside(url: str) -> bool:
    return is_loopback(url) or _private(urlsplit(url).hostname or "")


def _private(host: str) -> bool:
    """Whether a host is written as an address that is not of the public internet.

    Names are not looked up: a server at a private address has no certificate for a foreign name.
    """
    try:
        numeric = all(c in "0123456789abcdefx." for c in host.lower()) and ":" not in host
        # What resolvers take for IPv4: 0x7f.1 and 2130706433 are 127.0.0.1.
        text = socket.inet_ntoa(socket.inet_aton(host)) if numeric else host
        address = ipaddress.ip_address(text)
    except (OSError, ValueError):
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return not (mapped or address).is_global


def _session(url: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = not is_loopback(url)
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Watched())
    return session


def answer_text(reply: requests.Response) -> str:
    """Return what an error answer says, short: JSON {"error"}, plain text, or nothing."""
    try:
        body: Any = reply.json()
    except ValueError:
        return _STEERING.sub("\ufffd", reply.text[:1000].strip())[:300]
    if isinstance(body, dict):
        body = body.get("error") or body.get("message") or body
    return str(body)[:300]
