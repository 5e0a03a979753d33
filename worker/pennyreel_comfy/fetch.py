"""Fetches a URL that a stranger gave, without becoming their way into a private network.

The name is resolved once, every address it has must be public, and the connection goes to that
very address (a second look-up could answer otherwise). Redirects are followed by hand and each
hop is checked anew. Size, time and number of hops have limits: at the deadline, or when the job is
cancelled, the connection is cut, whatever it is doing. Proxies of the environment are not used:
they would do the connecting. An operator may allow private `host:port` pairs by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urljoin

import urllib3
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from pennyreel_comfy.addresses import Target, parse, resolve, shown
from pennyreel_comfy.cutting import Cutter
from pennyreel_comfy.waiting import CancelToken, Deadline, awaited
from pennyreel_contract import Code, PennyreelError, error

MAX_HOPS = 5
CONNECT_S = 10.0
READ_S = 60.0
CHUNK = 1 << 20
_PAGES = {"text/html", "application/xhtml+xml"}
_BROKEN = (HTTPError, OSError, http.client.HTTPException, ValueError)
"""What a server can do to a client; ValueError is http.client's for lengths that are no number."""


def fetch(
    url: str,
    path: Path,
    *,
    most: int,
    deadline: Deadline,
    allow_hosts: Collection[str] = (),
    cancel: CancelToken | None = None,
    pages: bool = False,
) -> str:
    """Stream `url` into the new file `path` and return its sha256 in hex.

    Args:
        url: http or https.
        path: created; removed again when the fetch fails.
        most: bytes that are taken at most.
        deadline: of the whole fetch.
        allow_hosts: lower-case `host:port` pairs that may be private.
        cancel: ends it at once.
        pages: whether a web page is a file like any other, and not what a login or an error shows.

    Raises:
        BadRequest: `address_refused`, `input_too_large`, `bad_input`.
        JobFailed: `input_unreachable`, with the reason.
        JobTimeout, JobCancelled: as named.
        OSError: this machine's disk.

    """
    with stream(url, deadline=deadline, allow_hosts=allow_hosts, cancel=cancel) as reply:
        if reply.status != 200:
            raise reply.refusal()
        if not pages and reply.page:
            raise error(
                Code.BAD_INPUT,
                f"{reply.name}: the URL leads to a page, not a file",
                hint="Pass the URL that the file itself is downloaded from.",
            )
        return _save(reply, path, most)


Policy = Callable[[Target], Mapping[str, str]]
"""Called before each hop: refuses it by raising, or returns the headers that this host may see."""


class Stream:
    """An answer whose body is read in pieces, each within the deadline."""

    def __init__(self, reply: urllib3.BaseHTTPResponse, name: str, cutter: _Cutter) -> None:
        self._reply, self._cutter = reply, cutter
        self.name = name
        """The URL that was asked for, fit for a message."""
        self.status = reply.status

    def header(self, name: str) -> str:
        """Return a header's text, empty where it is missing."""
        return self._reply.headers.get(name) or ""

    @property
    def length(self) -> int | None:
        """The bytes that this answer announces, where it announces any."""
        return whole(self.header("Content-Length"))

    @property
    def page(self) -> bool:
        """Whether it says that it is a web page."""
        return self.header("Content-Type").partition(";")[0].strip().lower() in _PAGES

    def refusal(self) -> PennyreelError:
        """Return the error for a status that is no success."""
        return error(
            Code.INPUT_UNREACHABLE,
            f"{self.name} answers {self.status}",
            retryable=self.status >= 500 or self.status == 429,
        )

    def chunks(self) -> Iterator[bytes]:
        """Yield the body; raises as `fetch` does."""
        pieces = self._reply.stream(CHUNK, decode_content=False)
        while True:
            self._cutter.check()
            try:
                piece = next(pieces, b"")
            except _BROKEN as problem:
                raise self._cutter.translate(problem) from None
            if not piece:
                break
            yield piece
        # A connection that we cut looks like an end where no length was announced.
        self._cutter.check()


@contextlib.contextmanager
def stream(
    url: str,
    *,
    deadline: Deadline,
    allow_hosts: Collection[str] = (),
    cancel: CancelToken | None = None,
    policy: Policy | None = None,
) -> Iterator[Stream]:
    """Ask for `url`, through its redirects, and yield the last answer, whatever its status.

    Every hop is checked anew; `policy` says what else it must be and which headers it is sent, so
    that a token goes to its own host only. Raises as `fetch` does.
    """
    name = shown(url)
    with _Cutter(deadline, cancel or CancelToken(), name) as cutter:
        for _ in range(MAX_HOPS + 1):
            target = parse(url)
            headers = {} if policy is None else policy(target)
            with _get(target, name, allow_hosts, cutter, headers) as reply:
                place = reply.headers.get("Location")
                if reply.status in {301, 302, 303, 307, 308} and place:
                    url = _join(url, place)
                    continue
                yield Stream(reply, name, cutter)
                return
    raise error(Code.INPUT_UNREACHABLE, f"{name} redirects more than {MAX_HOPS} times")


def post(url: str, body: bytes, *, deadline: Deadline, allow_hosts: Collection[str] = ()) -> int:
    """POST JSON to a URL and return the answer's status; neither repeated nor redirected.

    Only https, unless `allow_hosts` has its host and port. Raises as `fetch` does.
    """
    name, target = shown(url), parse(url)
    if not target.secure and f"{target.host.lower()}:{target.port}" not in allow_hosts:
        raise error(Code.ADDRESS_REFUSED, f"{name}: only https URLs are posted to")
    with (
        _Cutter(deadline, CancelToken(), name) as cutter,
        _get(
            target, name, allow_hosts, cutter, {"Content-Type": "application/json"}, body
        ) as reply,
    ):
        return reply.status


def whole(text: str) -> int | None:
    """Read a header's number of bytes; None where it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None


class _Cutter(Cutter):
    """One that says what a failure means."""

    def __init__(self, deadline: Deadline, cancel: CancelToken, name: str) -> None:
        super().__init__(deadline, cancel, f"fetching {name}")
        self._name = name

    def translate(self, problem: Exception) -> PennyreelError:
        """Return the error for a failure: the limit's, where it was we who cut."""
        try:
            self.check()
        except PennyreelError as ours:
            return ours
        return error(
            Code.INPUT_UNREACHABLE, f"{self._name} cannot be fetched ({type(problem).__name__})"
        )


def _join(url: str, place: str) -> str:
    try:
        return urljoin(url, place)
    except ValueError:
        raise error(
            Code.INPUT_UNREACHABLE, f"{shown(url)} redirects to what is not a URL", retryable=False
        ) from None


@contextlib.contextmanager
def _get(
    target: Target,
    name: str,
    allow_hosts: Collection[str],
    cutter: _Cutter,
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> Iterator[urllib3.BaseHTTPResponse]:
    """GET from an address that was checked, or POST to it, under the name that was asked for."""
    # Names are looked up without a limit of ours, at servers that are strangers', too.
    addresses = awaited(
        f"looking up the host of {name}",
        lambda: resolve(target, name, allow_hosts),
        cutter.deadline,
        cutter.cancel,
    )
    connection = _connect(target, addresses, cutter)
    try:
        try:
            connection.request(
                "GET" if body is None else "POST",
                target.path,
                body=body,
                headers={
                    "Host": target.netloc,
                    "Accept-Encoding": "identity",
                    "User-Agent": "pennyreel",
                    **headers,
                },
                preload_content=False,
                decode_content=False,
            )
            reply = connection.getresponse()
        except _BROKEN as problem:
            raise cutter.translate(problem) from None
        try:
            yield reply
        finally:
            reply.close()
    finally:
        connection.close()


def _connect(target: Target, addresses: list[str], cutter: _Cutter) -> HTTPConnection:
    """Connect to the first address that takes us."""
    problem: Exception = OSError()
    for address in addresses:
        cutter.check()
        limit = max(0.01, cutter.deadline.left(CONNECT_S))
        connection: HTTPConnection = (
            HTTPSConnection(
                address,
                target.port,
                timeout=limit,
                server_hostname=target.host,
                assert_hostname=target.host,
                cert_reqs="CERT_REQUIRED",
                ca_certs=DEFAULT_CA_BUNDLE_PATH,
            )
            if target.secure
            else HTTPConnection(address, target.port, timeout=limit)
        )
        try:
            connection.connect()
            opened: Any = connection.sock
            opened.settimeout(READ_S)
            cutter.watch(opened)
            cutter.check()
        except _BROKEN as failed:
            connection.close()
            problem = failed
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise cutter.translate(problem) from None


def _save(reply: Stream, path: Path, most: int) -> str:
    announced, name = reply.length, reply.name
    if announced is not None and announced > most:
        raise error(Code.INPUT_TOO_LARGE, f"{name} has {announced} bytes; at most {most} are taken")
    with path.open("xb") as out:
        try:
            digest, size = _copy(reply, out, most)
            if announced is not None and size != announced:
                raise error(
                    Code.INPUT_UNREACHABLE, f"{name} broke off after {size} of {announced} bytes"
                )
        except BaseException:
            path.unlink(missing_ok=True)
            raise
    return digest


def _copy(reply: Stream, out: BinaryIO, most: int) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for chunk in reply.chunks():
        size += len(chunk)
        if size > most:
            raise error(
                Code.INPUT_TOO_LARGE, f"{reply.name} is larger than the {most} bytes allowed"
            )
        digest.update(chunk)
        out.write(chunk)
    return digest.hexdigest(), size
