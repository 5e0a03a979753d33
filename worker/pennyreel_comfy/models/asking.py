"""What a model's host says before anything is downloaded: its size, or that it is refused."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from pennyreel_comfy.fetch import stream
from pennyreel_comfy.models.hosts import Hosts
from pennyreel_comfy.models.manifest import Entry
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error

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
            if reply.status == 200:
                return Offered(reply.length)
            # UNVERIFIED: of a file whose licence is not accepted, the host says 401 or 403 here.
            hint = hosts.hint(entry.url, reply.status)
            problem = reply.refusal()
    except PennyreelError as refused:
        certain = refused.code in {Code.MODEL_REFUSED.value, Code.ADDRESS_REFUSED.value}
        return Offered(refusal=refused if certain else None)
    if problem.retryable:
        return Offered()
    return Offered(refusal=error(Code.MODEL_DOWNLOAD_FAILED, str(problem), hint=hint))
