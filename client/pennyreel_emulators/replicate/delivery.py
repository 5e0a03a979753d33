"""The origin of output files: another port, no authentication, nothing after an hour."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from pennyreel_emulators.replicate import hotshot
from pennyreel_emulators.replicate.http import Faults, Recorded, play, recorded
from pennyreel_emulators.replicate.store import Store


class Delivery:
    """Serves what predictions made, and notes who sent a token along."""

    def __init__(self, store: Callable[[], Store], faults: Faults) -> None:
        self._store, self._faults = store, faults
        self.requests: list[Recorded] = []

    def application(self) -> web.Application:
        """The origin's routes."""
        app = web.Application()
        app.router.add_get("/files/{id}/{name}", self._file)
        return app

    async def _file(self, request: web.Request) -> web.StreamResponse:
        """A file of a prediction."""
        self.requests.append(await recorded(request))
        fault = self._faults.take("file")
        if fault is not None and fault.cut_at is None:
            return play(fault, request)
        store = self._store()
        made = store.get(request.match_info["id"])
        # That an expired file is a 404 is UNVERIFIED: perhaps 403 or 410.
        if made is None or store.expired(made) or store.status(made) != "succeeded":
            return web.Response(status=404)
        name, content = hotshot.render(made.input, made.seed)
        if name != request.match_info["name"]:
            return web.Response(status=404)
        kind = "video/mp4" if name.endswith("mp4") else "image/gif"
        if fault is not None:
            return await _broken_off(request, content, kind, fault.cut_at or 0)
        return web.Response(body=content, content_type=kind)


async def _broken_off(
    request: web.Request, content: bytes, kind: str, cut_at: int
) -> web.StreamResponse:
    """Announce the whole, send a part, and end the connection."""
    answer = web.StreamResponse(headers={"Content-Type": kind})
    answer.content_length = len(content)
    await answer.prepare(request)
    await answer.write(content[:cut_at])
    if request.transport is not None:
        request.transport.close()
    return answer
