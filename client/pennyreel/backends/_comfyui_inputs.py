"""Inputs of a ComfyUI job: from this disk, from a bucket or from a URL, by /upload."""

from __future__ import annotations

import hashlib
import tempfile
import time
from typing import IO

from pennyreel import _http, _s3
from pennyreel.backends.base import unsent
from pennyreel.config import S3
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.sources import Source
from pennyreel_comfy.http import ComfyHttp
from pennyreel_comfy.waiting import Deadline

MAX_INPUT_BYTES = 2 << 30


def upload(
    http: ComfyHttp, source: Source, subfolder: str, *, s3: S3 | None, deadline: Deadline
) -> str:
    """Put an input into the server's input folder; return the name under which graphs find it.

    Raises:
        BadRequest, JobFailed: it cannot be had, or the server refuses it.
        JobTimeout: the deadline passed before it was sent.

    """
    unsent(deadline)
    if source.local:
        with source.open() as content:
            return http.upload(source.name, content, subfolder=subfolder)
    url = source.url
    if source.s3 is not None:
        url = _s3.presign(_s3.require(s3, source.s3), source.s3)
    with tempfile.TemporaryFile() as content:
        _download(url or "", content, deadline)
        content.seek(0)
        return http.upload(source.name, content, subfolder=subfolder)


class _Bounded:
    """A sink for an input that is fetched here, to be uploaded."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest, self.size = hashlib.sha256(), 0


def _download(url: str, content: IO[bytes], deadline: Deadline) -> None:
    """Fetch the user's own URL with the user's own means: any address they name is theirs."""
    try:
        _http.download(
            url,
            _Bounded(content),
            local=True,
            pause=time.sleep,
            most=MAX_INPUT_BYTES,
            plain=True,
            deadline=deadline,
        )
    except PennyreelError as problem:
        if problem.code in {Code.RESULT_EXPIRED.value, Code.STORAGE_FAILED.value}:
            raise error(
                Code.INPUT_UNREACHABLE, str(problem), hint="Check that the URL answers from here."
            ) from None
        raise
