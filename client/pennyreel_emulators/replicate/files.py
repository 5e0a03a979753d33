"""POST /files and its kin: uploads that inputs may name (docs: HTTP API, files)."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from aiohttp import BodyPartReader, web

from pennyreel_emulators.replicate.http import Refused, not_found


@dataclass(frozen=True)
class _File:
    view: dict[str, Any]
    content: bytes


class Files:
    """The account's uploads."""

    def __init__(self, base: Callable[[], str]) -> None:
        self._base = base
        self._all: dict[str, _File] = {}

    async def create(self, request: web.Request) -> web.StreamResponse:
        """Take `content` of a multipart body, and `metadata` (JSON) where it is there."""
        content, name, kind, metadata = b"", "file", "application/octet-stream", "{}"
        if not request.content_type.startswith("multipart/"):
            raise Refused(400, "Bad request", "The body is not multipart/form-data.")
        reader = await request.multipart()
        while isinstance(part := await reader.next(), BodyPartReader):
            if part.name == "content":
                content = bytes(await part.read())
                name = part.filename or name
                kind = part.headers.get("Content-Type", kind)
            elif part.name == "metadata":
                metadata = await part.text()
        return web.json_response(self._keep(content, name, kind, metadata).view, status=201)

    async def list(self, _: web.Request) -> web.StreamResponse:
        """All of them."""
        views = [f.view for f in self._all.values()]
        return web.json_response({"previous": None, "next": None, "results": views})

    async def get(self, request: web.Request) -> web.StreamResponse:
        """One's description."""
        return web.json_response(self._find(request).view)

    async def content(self, request: web.Request) -> web.StreamResponse:
        """One's bytes."""
        found = self._find(request)
        return web.Response(body=found.content, content_type=found.view["content_type"])

    async def delete(self, request: web.Request) -> web.StreamResponse:
        """Forget one."""
        self._find(request)
        del self._all[request.match_info["id"]]
        return web.Response(status=204)

    def _keep(self, content: bytes, name: str, kind: str, metadata: str) -> _File:
        now = datetime.now(timezone.utc)
        identity, digest = secrets.token_hex(12), hashlib.sha256(content).hexdigest()
        view = {
            "id": identity,
            "name": name,
            "content_type": kind,
            "size": len(content),
            "etag": digest[:32],
            "checksums": {"sha256": digest},
            "metadata": json.loads(metadata),
            "created_at": now.isoformat(),
            "expires_at": (now + timedelta(days=1)).isoformat(),
            "urls": {"get": f"{self._base()}/v1/files/{identity}/content"},
        }
        self._all[identity] = _File(view, content)
        return self._all[identity]

    def _find(self, request: web.Request) -> _File:
        found = self._all.get(request.match_info["id"])
        if found is None:
            raise not_found()
        return found
