"""One download into one part: resumed, checked while it streams, from allowed hosts only."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pennyreel_comfy.fetch import Stream, stream
from pennyreel_comfy.models.answers import check_answer
from pennyreel_comfy.models.content import check_content
from pennyreel_comfy.models.hosts import Hosts
from pennyreel_comfy.models.names import suffix_of
from pennyreel_comfy.models.parts import Origin, Part, check_room
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Code, PennyreelError, error

PAUSES_S = (0.2, 1.0, 3.0, 10.0)
"""Before a transfer that broke is taken up again, as long as it does not get any further."""

MAX_ASKED_S = 120
"""A host that asks for a longer pause (Retry-After) is not waited for."""

ROOM_STEP = 16 * 1024**2
"""After so many bytes the disk is looked at again: other downloads fill it, too."""

_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True)
class Want:
    """What is to be downloaded."""

    url: str
    label: str
    """Folder and name, for messages and progress."""
    sha256: str | None = None
    size: int | None = None
    """Bytes that it has for sure."""


class Progress(NamedTuple):
    """How far a download is. Told from the thread that downloads."""

    label: str
    done: int
    total: int | None


class Got(NamedTuple):
    """A complete part."""

    sha256: str
    size: int
    validator: str


@dataclass(frozen=True)
class Rules:
    """What holds for every download of a process."""

    hosts: Hosts
    most: int
    """Bytes that a file may have."""
    deadline: Deadline
    cancel: CancelToken
    progress: Callable[[Progress], None] = lambda _: None
    room: Callable[[int], None] = lambda _: None
    """Told before it begins how many bytes will come; raises where there is no place for them."""
    pauses_s: tuple[float, ...] = PAUSES_S


def download(want: Want, part: Part, rules: Rules) -> Got:
    """Complete `part`, from where it is, and check it. The caller holds its lock and moves it.

    Raises:
        BadRequest: `model_refused`, `address_refused`.
        JobFailed: `model_download_failed`, `disk_full`.
        JobTimeout, JobCancelled: as named; what there is stays for the next time.

    """
    rules.hosts.check(want.url)
    try:
        resumed = _transfer(want, part, rules)
        if resumed and _differs(want, part):
            # What was there may have been spoilt; once more, from its first byte.
            part.begin(Origin.of(want.url))
            _transfer(want, part, rules)
        return _checked(want, part)
    except OSError as problem:  # the part itself: what the network does is an error of ours by now
        raise error(Code.DISK_FULL, f"{want.label} cannot be stored: {problem.strerror}") from None


def translated(problem: PennyreelError, label: str) -> PennyreelError:
    """Return what a host that cannot be reached, or refuses, means for a model."""
    default = error(Code.INPUT_UNREACHABLE, "").hint
    return error(
        Code.MODEL_DOWNLOAD_FAILED,
        f"{label}: {problem}",
        hint=None if problem.hint == default else problem.hint,
        retryable=problem.retryable,
        detail=dict(problem.info.detail),
    )


def _differs(want: Want, part: Part) -> bool:
    return want.sha256 is not None and part.sha256 != want.sha256


def _checked(want: Want, part: Part) -> Got:
    if _differs(want, part):
        found = part.sha256
        part.drop()
        raise error(
            Code.MODEL_DOWNLOAD_FAILED,
            f"{want.label} has sha256 {found}, not {want.sha256}",
            hint="Correct its sha256, or find out why the host gives another file.",
            retryable=False,
            detail={"sha256": found, "wanted": want.sha256},
        )
    part.finish()
    try:
        check_content(part.path, suffix_of(want.label), want.label)
    except PennyreelError:
        part.drop()
        raise
    origin = part.origin()
    return Got(part.sha256, part.size, origin.validator if origin else "")


def _transfer(want: Want, part: Part, rules: Rules) -> bool:
    """Bring the part to its full length; return whether it was begun at another time."""
    begun = part.hashed()
    failed, reached = 0, part.size
    while True:
        try:
            _once(want, part, rules)
            return begun > 0
        except PennyreelError as problem:
            if problem.code != Code.INPUT_UNREACHABLE.value:
                raise
            # Further than it ever was: a host that always breaks off, or tells of bytes that it
            # does not have, would be asked for ever if each new beginning counted as an advance.
            failed = failed + 1 if part.size <= reached else 1
            reached = max(reached, part.size)
            asked = int(str(problem.info.detail.get("retry_after_s", 0)))
            hopeless = failed > len(rules.pauses_s) or asked > MAX_ASKED_S
            if hopeless or not problem.retryable:
                raise translated(problem, want.label) from None
        _pause(max(asked, rules.pauses_s[failed - 1]), rules)


def _once(want: Want, part: Part, rules: Rules) -> None:
    """Ask once for what is missing, and take it."""
    origin = part.origin()
    if origin is None or origin.url != Origin.of(want.url).url:
        origin = Origin.of(want.url)
        part.begin(origin)
    if part.size and part.size == (origin.total or want.size):
        return
    resumable = bool(part.size and (origin.validator or want.sha256))
    headers = {"Range": f"bytes={part.size}-"} if resumable else {}
    if resumable and origin.validator:
        headers["If-Range"] = origin.validator
    with stream(
        want.url,
        deadline=rules.deadline,
        allow_hosts=rules.hosts.private,
        cancel=rules.cancel,
        policy=rules.hosts.policy(want.url, headers),
    ) as reply:
        _take(reply, want, part, rules, origin)


def _take(reply: Stream, want: Want, part: Part, rules: Rules, origin: Origin) -> None:
    if reply.status == 416:
        part.begin(Origin.of(want.url))
        raise error(Code.INPUT_UNREACHABLE, f"{reply.name} has fewer bytes than were there")
    check_answer(want.url, reply, rules.hosts)
    total = _total(reply, part, origin)
    _check_size(want, total, rules)
    if reply.status == 200:
        # The whole file: it has changed, or this server knows no ranges.
        part.begin(Origin.of(want.url, _validator(reply), total))
    if total is not None:
        part.promise(total, rules.room)
    _copy(reply, want, part, rules, want.size if total is None else total)


def _total(reply: Stream, part: Part, origin: Origin) -> int | None:
    """Return the whole file's bytes; raise where a partial answer does not fit what is there."""
    if reply.status == 200:
        return reply.length
    found = _RANGE.fullmatch(reply.header("Content-Range"))
    # A host that was told If-Range may leave a Last-Modified out of its answer (RFC 9110, 15.3.7).
    changed = bool(origin.validator) and _validator(reply) not in {"", origin.validator}
    if found is None or int(found[1]) != part.size or changed:
        part.begin(Origin(origin.url))
        raise error(Code.INPUT_UNREACHABLE, f"{reply.name} sends another part than was asked for")
    return origin.total if found[2] == "*" else int(found[2])


def _check_size(want: Want, total: int | None, rules: Rules) -> None:
    if total is None:
        return
    if total > rules.most:
        raise _too_large(want, rules)
    if want.size is not None and total != want.size:
        raise error(
            Code.MODEL_DOWNLOAD_FAILED,
            f"{want.label} has {total} bytes at its host, not {want.size}",
            hint="Correct its size, or find out why the host gives another file.",
            retryable=False,
        )


def _copy(reply: Stream, want: Want, part: Part, rules: Rules, total: int | None) -> None:
    for chunk in reply.chunks():
        size = part.size + len(chunk)
        if size > rules.most:
            part.begin(Origin.of(want.url))
            raise _too_large(want, rules)
        if total is not None and size > total:
            part.begin(Origin.of(want.url))
            raise error(Code.INPUT_UNREACHABLE, f"{reply.name} sends more than {total} bytes")
        if not part.size or size // ROOM_STEP > part.size // ROOM_STEP:
            check_room(part.path.parent, len(chunk))
        part.add(chunk)
        rules.progress(Progress(want.label, part.size, total))
    if total is not None and part.size != total:
        raise error(
            Code.INPUT_UNREACHABLE, f"{reply.name} broke off after {part.size} of {total} bytes"
        )


def _validator(reply: Stream) -> str:
    """Return what If-Range may hold: a strong ETag, or the date of the last change."""
    tag = reply.header("ETag")
    return tag if tag.startswith('"') else reply.header("Last-Modified")


def _too_large(want: Want, rules: Rules) -> PennyreelError:
    return error(
        Code.MODEL_REFUSED,
        f"{want.label} has more than the {rules.most} bytes that a model may have here",
        hint="Use a smaller model, or have the operator raise PENNYREEL_MODEL_MAX_BYTES.",
    )


def _pause(seconds: float, rules: Rules) -> None:
    """Wait before the next attempt, for as long as anybody still wants it."""
    woken = threading.Event()
    rules.cancel.on_cancel(woken.set)
    try:
        woken.wait(rules.deadline.left(seconds))
    finally:
        rules.cancel.forget(woken.set)
    rules.cancel.check()
