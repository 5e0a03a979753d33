"""Input files of a job: base64, data URI, guarded URL or S3 -> files in the job's own folder."""

from __future__ import annotations

import base64
import binascii
import errno
import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pennyreel_comfy.fetch import fetch
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import BadRequest, Code, InputFile, error
from pennyreel_worker.settings import Settings
from pennyreel_worker.storage import Store


def place(
    files: Iterable[InputFile],
    folder: Path,
    *,
    settings: Settings,
    store: Store | None,
    deadline: Deadline,
    cancel: CancelToken,
) -> None:
    """Write every input into `folder` under its name, checked against its sha256 if it has one.

    Raises:
        BadRequest: `bad_input`, `input_too_large`, `address_refused`; names the input.
        JobFailed: `input_unreachable`, `storage_failed`, `disk_full`.

    """
    limits = _Limits(settings, deadline, cancel)
    for item in files:
        cancel.check()
        if deadline.expired:
            raise deadline.error("fetching the inputs")
        path = folder / item.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            digest = _write(item, path, store, limits)
        except OSError as problem:  # a full disk; a refused address is an error of ours already
            full = problem.errno in {errno.ENOSPC, errno.EDQUOT}
            raise error(
                Code.DISK_FULL if full else Code.STORAGE_FAILED,
                f"input {item.name!r} cannot be written: {problem.strerror}",
                hint="Give the worker more disk (container disk or volume).",
            ) from None
        if item.sha256 and digest != item.sha256:
            raise error(
                Code.BAD_INPUT,
                f"input {item.name!r} has sha256 {digest}, not {item.sha256}",
                hint="Send the file again, or correct its sha256.",
            )


@dataclass(frozen=True)
class _Limits:
    settings: Settings
    deadline: Deadline
    cancel: CancelToken


def _write(item: InputFile, path: Path, store: Store | None, limits: _Limits) -> str:
    """Write one input, if it leaves room for what the job on the GPU writes; return its sha256."""
    settings = limits.settings
    room = shutil.disk_usage(path.parent).free - settings.least_free_bytes
    most = min(settings.input_max_bytes, max(room, 0))
    try:
        return _written(item, path, store, limits, most)
    except BadRequest as problem:
        if problem.code != Code.INPUT_TOO_LARGE.value or most == settings.input_max_bytes:
            raise
        raise error(
            Code.DISK_FULL,
            f"input {item.name!r} does not fit: the disk has room for {most} bytes of inputs",
            hint="Send smaller inputs, or give the worker more disk (container disk or volume).",
        ) from None


def _written(item: InputFile, path: Path, store: Store | None, limits: _Limits, most: int) -> str:
    """Write one input; returns its sha256, which is only looked up where one is wanted."""
    within = Deadline(limits.deadline.left(limits.settings.input_timeout_s))
    if item.data is not None:
        path.write_bytes(_decode(item.name, item.data, most))
    elif item.url is not None:
        return fetch(
            item.url,
            path,
            most=most,
            deadline=within,
            allow_hosts=limits.settings.allow_hosts,
            cancel=limits.cancel,
            pages=item.name.lower().endswith((".html", ".htm")),
        )
    elif store is not None:
        store.download(
            item.s3 or "",
            path,
            most=most,
            deadline=within,
            cancel=limits.cancel,
            reserved=limits.settings.results_prefix,
        )
    else:
        raise error(
            Code.BAD_INPUT,
            f"input {item.name!r} is in S3, and this worker has no bucket",
            hint="Set BUCKET_* on the endpoint, or pass a presigned URL.",
        )
    return _hash(path) if item.sha256 else ""


def _decode(name: str, data: str, most: int) -> bytes:
    """Read base64, bare or in a data URI; white space is allowed, anything else is not."""
    text = data
    if text[:5].lower() == "data:":
        header, comma, text = text.partition(",")
        if not comma or not header.lower().endswith(";base64"):
            raise error(Code.BAD_INPUT, f"input {name!r}: a data URI must be base64")
    text = "".join(text.split())
    if len(text) * 3 // 4 > most:
        raise error(Code.INPUT_TOO_LARGE, f"input {name!r} is over {most} bytes")
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise error(
            Code.BAD_INPUT,
            f"input {name!r} is not valid base64",
            hint="Encode the file's bytes as base64, with or without a data: prefix.",
        ) from None
    if not content:
        raise error(Code.BAD_INPUT, f"input {name!r} is empty")
    return content


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
