"""Fetches files without any credential, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urljoin

import requests
from urllib3.exceptions import HTTPError

from pennyreel._http.addresses import check, inside, shown
from pennyreel._http.answers import backoff
from pennyreel._http.transport import CONNECT_S, READ_S, Bearer, session
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.types import Sink
from pennyreel_comfy.cutting import Cutter
from pennyreel_comfy.sessions import watching
from pennyreel_comfy.waiting import CancelToken, Deadline

CHUNK = 1 << 20
MAX_FILE = 16 << 30
"""Bytes taken of a result whose size nobody tells."""

MAX_HOPS = 3
TRIES = 4

Pause = Callable[[float], None]


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
    limit, doing = deadline or Deadline(None), f"the job, with fetching {shown(url)},"
    with Cutter(limit, cancel or CancelToken(), doing) as cutter, watching(cutter):
        cutter.check()

        def once() -> None:
            sink.restart()
            opened = _open(url, cutter, local=local, plain=plain, headers=headers, onward=onward)
            with opened as reply:
                _get(url, reply, sink, most, size)
            cutter.check()  # a cut looks like an end where no length was announced
            _compare(url, sink, sha256, size)

        _again(once, cutter, url, pause)


def _again(once: Callable[[], None], cutter: Cutter, url: str, pause: Pause) -> None:
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


def _failure(once: Callable[[], None], cutter: Cutter, url: str) -> PennyreelError | None:
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
    cutter: Cutter,
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
        check(url, local=local, plain=plain)
        with (
            session(url) as opened,
            opened.get(
                url,
                auth=Bearer(None),
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
            if plain and inside(onto) and not inside(url):
                raise error(  # the user named a public address, and its server this one
                    Code.ADDRESS_REFUSED,
                    f"{shown(url)} redirects to a private address: it is not fetched from there",
                    hint="Give the address of the file itself.",
                )
            url, told = onto, plainly
    raise error(Code.STORAGE_FAILED, f"{shown(url)} redirects without end", retryable=False)
