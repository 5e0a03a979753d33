"""What a model's host says before anything is downloaded: its size, its name, or a refusal."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import PurePosixPath
from typing import NamedTuple

from pennyreel_comfy.fetch import stream
from pennyreel_comfy.models.answers import check_answer
from pennyreel_comfy.models.download import translated
from pennyreel_comfy.models.hosts import Hosts
from pennyreel_comfy.models.manifest import Entry
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError

ASK_S = 6.0
"""How long the hosts are asked, all of them at once."""


class Offered(NamedTuple):
    """What a host says of a file."""

    size: int | None = None
    """Bytes; None = it does not say, or does not answer in time."""
    refusal: PennyreelError | None = None
    """Why it would not come: a licence that is to be accepted, a host that is not allowed."""


def ask(
    entries: Sequence[Entry], hosts: Hosts, *, cancel: CancelToken, seconds: float = ASK_S
) -> dict[str, Offered]:
    """Return what the hosts say, by `Entry.key`. Reads no body; never raises PennyreelError."""
    if not entries:
        return {}
    deadline = Deadline(seconds)
    with ThreadPoolExecutor(min(len(entries), 8), "asking") as pool:
        told = pool.map(lambda entry: _offered(entry, hosts, deadline, cancel), entries)
        return {entry.key: one for entry, one in zip(entries, told, strict=True)}


def file_name(url: str, hosts: Hosts, *, cancel: CancelToken, seconds: float = ASK_S) -> str | None:
    """Return what the host calls the file that a URL leads to, where it says so; reads no body.

    Raises:
        BadRequest: `model_refused`, `address_refused`.
        JobFailed: `model_download_failed`.
        JobTimeout, JobCancelled: as named.

    """
    hosts.check(url)
    try:
        with stream(
            url,
            deadline=Deadline(seconds),
            allow_hosts=hosts.private,
            cancel=cancel,
            policy=hosts.policy(url),
        ) as reply:
            check_answer(url, reply, hosts)
            # UNVERIFIED: Civitai's addresses are numbers, and its stores send the name in here.
            return _named(reply.header("Content-Disposition"))
    except PennyreelError as problem:
        if problem.code != Code.INPUT_UNREACHABLE.value:
            raise
        raise translated(problem, "asking for the file's name") from None


def _named(disposition: str) -> str | None:
    """Read a Content-Disposition; of a path that it names, only the file counts."""
    said = Message()
    said["Content-Disposition"] = disposition
    name = said.get_filename()
    if not name:
        return None
    with contextlib.suppress(UnicodeError):  # http reads headers as Latin-1, many send UTF-8
        name = name.encode("latin-1").decode("utf-8")
    return PurePosixPath(name.replace("\\", "/")).name or None


def _offered(entry: Entry, hosts: Hosts, deadline: Deadline, cancel: CancelToken) -> Offered:
    try:
        hosts.check(entry.url)
        with stream(
            entry.url,
            deadline=deadline,
            allow_hosts=hosts.private,
            cancel=cancel,
            policy=hosts.policy(entry.url),
        ) as reply:
            # UNVERIFIED: of a file whose licence is not accepted, the host says 401 or 403 here.
            check_answer(entry.url, reply, hosts)
            return Offered(reply.length)
    except PennyreelError as problem:
        if problem.code in {Code.MODEL_REFUSED.value, Code.ADDRESS_REFUSED.value}:
            return Offered(refusal=problem)
        if problem.retryable or problem.code != Code.INPUT_UNREACHABLE.value:
            return Offered()
        return Offered(refusal=translated(problem, entry.key))
