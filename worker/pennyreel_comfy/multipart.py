"""One file and a few fields as multipart/form-data, streamed: `requests` would hold it whole."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Mapping
from typing import BinaryIO


class FileForm:
    """A readable body of known length for `requests`' `data=`; send `content_type` with it."""

    def __init__(self, field: str, name: str, content: BinaryIO, fields: Mapping[str, str]) -> None:
        """Lay out the parts; `content` is read from where it stands to its end."""
        boundary = f"pennyreel-{secrets.token_hex(16)}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = "".join(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
            for key, value in fields.items()
        )
        # The same escapes as browsers use; a line break would begin a header of its own.
        shown = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
        head += (
            f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; '
            f'filename="{shown}"\r\nContent-Type: application/octet-stream\r\n\r\n'
        )
        here = content.tell()
        size = content.seek(0, os.SEEK_END) - here
        content.seek(here)
        tail = f"\r\n--{boundary}--\r\n".encode()
        self._parts: list[BinaryIO] = [io.BytesIO(head.encode()), content, io.BytesIO(tail)]
        self._length = len(head.encode()) + size + len(tail)

    def __len__(self) -> int:
        """Bytes of the whole body."""
        return self._length

    def read(self, size: int = -1) -> bytes:
        """Return up to `size` bytes; b"" at the end."""
        if size < 0:
            return b"".join(part.read() for part in self._parts)
        while self._parts:
            if data := self._parts[0].read(size):
                return data
            self._parts.pop(0)
        return b""
