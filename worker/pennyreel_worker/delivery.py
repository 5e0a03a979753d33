"""Hands a job's outputs over: inline as base64, or to S3; never more than the platform carries."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO

from pennyreel_comfy.events import Image
from pennyreel_comfy.outputs import OutputFile, OutputText, plain_name
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Artifact, Code, JobRequest, PennyreelError, Result, error
from pennyreel_worker.settings import Settings
from pennyreel_worker.storage import Store

RUN_LIMIT = 10_000_000
RUNSYNC_LIMIT = 20_000_000
"""Bytes of a result that the platform carries (external-apis section 1). Beyond them it drops the
output and still says COMPLETED. "MB" is read the small way, with room for what wraps the output."""

_WRAPPING = 4096
_SURELY = 1_000_000
"""Half of this holds all of a result that is no artifact: metadata, warnings, timings."""
_PIECE = 1 << 20


@dataclass(frozen=True)
class Made:
    """One output before delivery: a file on disk, or bytes that are in no file."""

    node: str
    name: str
    kind: str
    mime: str
    temp: bool = False
    path: Path | None = None
    content: bytes = b""

    def size(self) -> int:
        """Bytes. Raises as `opened` does, as the other methods do."""
        if self.path is None:
            return len(self.content)
        with _reading(self.path.name):
            return self.path.lstat().st_size

    def sha256(self, check: Callable[[], None] | None = None) -> str:
        """Hex digest; a file is read in pieces, `check` called before each."""
        digest = hashlib.sha256(self.content)
        if self.path is not None:
            view = memoryview(bytearray(_PIECE))
            with opened(self.path) as file:
                while count := file.readinto(view):  # type: ignore[attr-defined]
                    if check is not None:
                        check()
                    digest.update(view[:count])
        return digest.hexdigest()

    def base64(self) -> str:
        """The whole content, for inline delivery only."""
        content = self.content
        if self.path is not None:
            with opened(self.path) as file:
                content = file.read()
        return base64.b64encode(content).decode("ascii")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open an output that is a plain file, and nothing that only looks like one.

    One with a second name is plain, too: who could link it could have copied it.

    Raises:
        JobFailed: `output_missing` where it is not there, is no such file or cannot be read;
            `disk_full`.

    """
    flags = os.O_RDONLY
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):  # not each on each system
        flags |= getattr(os, name, 0)
    with _reading(path.name), os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise error(Code.OUTPUT_MISSING, f"{path.name} is no plain file: not delivered")
        yield file


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Make what a disk says of an output an error of ours."""
    try:
        yield
    except OSError as problem:
        full = problem.errno in {errno.ENOSPC, errno.EDQUOT}
        raise error(
            Code.DISK_FULL if full else Code.OUTPUT_MISSING,
            f"the output {name} cannot be read: {problem.strerror}",
        ) from None


def gather(
    files: Sequence[OutputFile],
    texts: Sequence[OutputText],
    images: Sequence[Image],
    locate: Callable[[OutputFile], Path],
) -> list[Made]:
    """Find every output: on disk, in /history (texts), or sent over the websocket."""
    made = [Made(f.node, f.name, f.kind, f.mime, f.temp, path=locate(f)) for f in files]
    made += [
        Made(t.node, t.name, "text", "text/plain", content=t.text.encode("utf-8", "replace"))
        for t in texts
    ]
    for n, image in enumerate(images, 1):
        ending = "png" if image.mime == "image/png" else "jpg"
        name = f"node-{image.node}-{n:03}.{ending}"
        made.append(Made(image.node or "", name, "image", image.mime, content=image.data))
    return _named(made)


def _named(made: Sequence[Made]) -> list[Made]:
    """Give each a plain name of its own: a node's id is the client's text, and is in some names."""
    taken: set[str] = set()
    named = []
    for one in made:
        plain = plain_name(one.name)
        stem, dot, suffix = plain.rpartition(".")
        name, n = plain, 1
        while name.casefold() in taken:
            n += 1
            name = f"{stem}-{n}.{suffix}" if dot else f"{plain}-{n}"
        taken.add(name.casefold())
        named.append(replace(one, name=name))
    return named


def limit_of(job_id: str, settings: Settings) -> int:
    """Return how many bytes of result this job may have: /runsync's ids begin with `sync-`."""
    if settings.inline_max_bytes is not None:
        return settings.inline_max_bytes
    return RUNSYNC_LIMIT if job_id.startswith("sync-") else RUN_LIMIT


def inline(made: Sequence[Made], *, limit: int) -> tuple[Artifact, ...] | None:
    """Return artifacts that carry their data, or None where they would be over `limit`."""
    if sum(4 * ((m.size() + 2) // 3) for m in made) > limit - _WRAPPING:
        return None
    return tuple(_artifact(m, m.sha256(), data=m.base64()) for m in made)


def to_store(
    made: Sequence[Made],
    store: Store,
    *,
    request: JobRequest,
    job_id: str,
    template: str,
    pool: Executor,
    deadline: Deadline,
    cancel: CancelToken,
    progress: Callable[[float], None] = lambda _: None,
) -> tuple[Artifact, ...]:
    """Upload all, several at a time, and return artifacts with their URLs, in order.

    `progress` is told what share of the bytes has gone, from 0 to 1, in any thread.
    """
    sent = _Sent(sum(one.size() for one in made), progress)

    def check() -> None:
        cancel.check()
        if deadline.expired:
            raise deadline.error("the delivery")

    def send(one: Made) -> Artifact:
        check()
        key = key_of(template, one, attempt_id=request.attempt_id, job_id=job_id)
        if one.path is not None:
            with opened(one.path):  # the upload opens it by its name, whatever it is
                pass
            # Hashed while it is on its way: the file is read from disk once, and no time is added.
            with store.upload(
                one.path, key, one.mime, deadline=deadline, cancel=cancel, progress=sent.add
            ) as place:
                digest = one.sha256(check)
        else:
            digest = one.sha256()
            place = store.put(key, one.content, one.mime, deadline=deadline, cancel=cancel)
            sent.add(one.size())
        url, expires = store.presign(place, request.outputs.url_ttl_s)
        return _artifact(one, digest, url=url, url_expires=expires, s3=place)

    return tuple(pool.map(send, made))


class _Sent:
    """Adds up what has gone, and tells of each hundredth."""

    def __init__(self, total: int, tell: Callable[[float], None]) -> None:
        self._total, self._tell = total, tell
        self._size = self._told = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Count bytes that have gone."""
        with self._lock:
            self._size += size
            done = 100 * self._size // max(self._total, 1)
            if done <= self._told:
                return
            self._told = done
        self._tell(min(done, 100) / 100)


def key_of(template: str, made: Made, *, attempt_id: str, job_id: str) -> str:
    """Return the object's key."""
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return template.format(
        attempt_id=attempt_id, job_id=job_id, name=made.name, kind=made.kind, date=date
    )


def too_large(artifacts: Sequence[Made | Artifact], limit: int) -> PennyreelError:
    """Return the error for a result that fits nowhere."""
    sizes = [(a.name, a.bytes if isinstance(a, Artifact) else a.size()) for a in artifacts]
    return error(
        Code.RESULT_TOO_LARGE,
        f"{len(sizes)} outputs of {sum(s for _, s in sizes)} bytes do not fit into a result of "
        f"{limit} bytes",
        detail={"outputs": [{"name": name, "bytes": size} for name, size in sizes[:50]]},
    )


def check_size(result: Result, job_id: str, settings: Settings) -> None:
    """Raise `result_too_large` where the platform would drop this result."""
    limit = limit_of(job_id, settings)
    if not fits(result, limit):
        raise too_large(result.artifacts, limit)


def fits(result: Result, limit: int) -> bool:
    """Whether the platform carries this result. One that is far smaller is not measured exactly."""
    content = sum(len(a.data or "") + len(a.url or "") + _WRAPPING for a in result.artifacts)
    if content < limit // 2 and limit > _SURELY:
        return True
    return measure(result.wire()) <= limit


def measure(body: Mapping[str, Any]) -> int:
    """Return the bytes of a result as it will be sent. (The SDK's own check never warns.)"""
    return len(json.dumps({"output": body}, ensure_ascii=False).encode())


def _artifact(made: Made, digest: str, **where: Any) -> Artifact:
    return Artifact(
        name=made.name,
        kind=made.kind,
        mime=made.mime,
        bytes=made.size(),
        sha256=digest,
        node=made.node,
        temp=made.temp,
        **where,
    )
