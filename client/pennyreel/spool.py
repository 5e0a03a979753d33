"""A job's whole request on this disk, so that another process can go on with it: see `jobs resume`.

It has the prompt and the graph, which the ledger never holds, in a file that only this user may
read. It goes when the job has ended well; else it is kept for a retry, KEPT_S at most. Input files
given by path are named, not copied. A request names its ledger: what is in another one, which uses
the same folder, is that one's to clear out.

Beside it lies the right to drive the job: a locked file, which the system unlocks when the process
dies, however it dies.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pennyreel.backends.base import QUEUE_S, Prompt, Work
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.need import Need
from pennyreel.sources import Source
from pennyreel.terms import Terms
from pennyreel_contract import ModelNeed, Outputs

KEPT_S = 7 * 86400.0
OTHERS_KEPT_S = 30 * 86400.0
"""How long requests of other ledgers are left alone, and those that name none."""

_MANY = (set, frozenset, tuple, list)
_SAFE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Order:
    """What was asked for, where its files go, and by which terms."""

    work: Work
    out_dir: Path
    terms: Terms = field(default_factory=Terms)
    ledger: str = ""
    """Which ledger has the job: `Ledger.identity`."""


class Held:
    """The right to drive a job; it ends with the process at the latest."""

    def __init__(self, lock: FileLock, file: Path) -> None:
        """Keep the lock, which is ours."""
        self._lock, self._file = lock, file

    def release(self, *, ended: bool) -> None:
        """Give it back. Only of a job that has `ended` may the file go.

        Whoever waits for a file that is gone gets it, and must look whether the job has ended.
        """
        if ended:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
        self._lock.release()


class Spool:
    """The folder of requests of jobs that have not ended."""

    def __init__(self, folder: Path) -> None:
        """Keep the folder; it is made with the first request."""
        self.folder = folder

    def put(self, job_id: str, order: Order) -> None:
        """Store a request; it is on the disk when this returns.

        Raises:
            SetupNeeded: it cannot be written; the job must not be sent.

        """
        final = self._file(job_id)
        part = final.with_suffix(f".{secrets.token_hex(4)}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(_written(order), file)
                file.flush()
                os.fsync(file.fileno())
            part.replace(final)
            self.prune(order.ledger)
        except OSError as problem:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise self._unusable(problem) from None

    def get(self, job_id: str) -> Order:
        """Return a job's request.

        Raises:
            BadRequest: it is not here: the job has ended, or began on another machine.

        """
        try:
            return _read(json.loads(self._file(job_id).read_text("utf-8")))
        except (OSError, ValueError, KeyError, TypeError):
            raise error(
                Code.BAD_REQUEST,
                f"what job {job_id} asked for is not on this machine",
                hint="Resume it where it was started; a result is had by: pennyreel result HANDLE",
                detail={"absent": True},
            ) from None

    def hold(self, job_id: str) -> Held | None:
        """Take the right to drive a job; None while another process, or this one, has it.

        Raises:
            SetupNeeded: the folder cannot be written to.

        """
        file = self._file(job_id).with_suffix(".lock")
        lock = FileLock(file, mode=0o600, thread_local=False)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock.acquire(timeout=0)
        except Timeout:
            return None
        except OSError as problem:
            raise self._unusable(problem) from None
        return Held(lock, file)

    def ids(self) -> list[str]:
        """Return the jobs of which anything is here."""
        files = [*self.folder.glob("*.json"), *self.folder.glob("*.lock")]
        return sorted({file.stem for file in files})

    def remove(self, job_id: str) -> None:
        """Forget a job that has ended."""
        with suppress(OSError):
            self._file(job_id).unlink(missing_ok=True)

    def ledger(self, job_id: str) -> str | None:
        """Return which ledger a job's request names, "" for none; None where no request is here."""
        return _named(self._file(job_id))

    def prune(self, ledger: str) -> None:
        """Forget what nobody came back for: of this ledger, and later of any other."""
        for file in [*self.folder.glob("*.json"), *self.folder.glob("*.tmp")]:
            with suppress(OSError):
                age_s = time.time() - file.stat().st_mtime
                if age_s > KEPT_S and (age_s > OTHERS_KEPT_S or _is_of(file, ledger)):
                    file.unlink(missing_ok=True)

    def _unusable(self, problem: OSError) -> PennyreelError:
        return error(
            Code.NOT_CONFIGURED,
            f"the job cannot be kept in {self.folder} ({problem.strerror}), so it was not sent",
            hint="Free some space there, or name another folder in PENNYREEL_HOME.",
        )

    def _file(self, job_id: str) -> Path:
        if not _SAFE.fullmatch(job_id):
            raise error(Code.BAD_REQUEST, f"{job_id[:80]!r} is no job's id")
        return self.folder / f"{job_id}.json"


def _is_of(file: Path, ledger: str) -> bool:
    return file.suffix == ".tmp" or (ledger != "" and _named(file) == ledger)


def _named(file: Path) -> str | None:
    try:
        told = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return ""
    return str(told.get("ledger") or "") if isinstance(told, dict) else ""


def read_need(told: Mapping[str, Any]) -> Need:
    """Return what a job requires, from JSON; what this version does not know is passed over."""
    known: dict[str, Any] = {
        k: tuple(map(_hashable, v)) if isinstance(v, list) else v
        for k, v in told.items()
        if k in Need.__dataclass_fields__
    }
    return Need(**known)


def _written(order: Order) -> dict[str, Any]:
    work = order.work
    prompt = None if work.prompt is None else {**_shallow(work.prompt), "image": None}
    image = None if work.prompt is None else work.prompt.image
    return {
        "ledger": order.ledger,
        "out_dir": str(order.out_dir.absolute()),
        "attempt_id": work.attempt_id,
        "graph": dict(work.graph),
        "sources": [_source(s) for s in work.sources],
        "outputs": work.outputs.model_dump(mode="json"),
        "models": [m.model_dump(mode="json") for m in work.models],
        "seed": work.seed,
        "timeout_s": work.timeout_s,
        "queue_s": work.queue_s,
        "preview": work.preview,
        "metadata": dict(work.metadata),
        "prompt": prompt,
        "image": None if image is None else _source(image),
        "need": asdict(work.need),
        "terms": {k: list(v) if isinstance(v, _MANY) else v for k, v in order.terms.items()},
    }


def _read(body: dict[str, Any]) -> Order:
    prompt = None
    if body["prompt"] is not None:
        image = None if body["image"] is None else _given(body["image"])
        prompt = replace(Prompt(**body["prompt"]), image=image)
    work = Work(
        attempt_id=body["attempt_id"],
        graph=body["graph"],
        sources=tuple(_given(s) for s in body["sources"]),
        outputs=Outputs.model_validate(body["outputs"]),
        models=tuple(ModelNeed.model_validate(m) for m in body["models"]),
        seed=body["seed"],
        timeout_s=body["timeout_s"],
        queue_s=body.get("queue_s", QUEUE_S),  # those of a former version have none
        preview=body["preview"],
        metadata=body["metadata"],
        prompt=prompt,
        need=read_need(body["need"]),
    )
    return Order(work, Path(body["out_dir"]), body["terms"], body.get("ledger", ""))


def _shallow(prompt: Prompt) -> dict[str, Any]:
    return {f.name: getattr(prompt, f.name) for f in fields(prompt)}


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _source(source: Source) -> dict[str, Any]:
    data = None if source.data is None else base64.b64encode(source.data).decode()
    path = None if source.path is None else str(source.path.absolute())
    return {"name": source.name, "path": path, "data": data, "url": source.url, "s3": source.s3}


def _given(body: dict[str, Any]) -> Source:
    data = None if body["data"] is None else base64.b64decode(body["data"])
    path = None if body["path"] is None else Path(body["path"])
    return Source(body["name"], path, data, body["url"], body["s3"])
