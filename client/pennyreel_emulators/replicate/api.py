"""The routes of api.replicate.com/v1 that a client of predictions needs."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from pennyreel_emulators.replicate import files, hotshot
from pennyreel_emulators.replicate.http import (
    Faults,
    Limiter,
    Recorded,
    Refused,
    bad_version,
    cut,
    invalid,
    no_credit,
    not_found,
    play,
    recorded,
    unauthenticated,
)
from pennyreel_emulators.replicate.store import FINAL, Prediction, Store

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_BODY = frozenset(
    {"version", "input", "webhook", "webhook_completed", "webhook_events_filter", "stream"}
)
_PREFER = re.compile(r"^wait(=([1-9]|[1-5][0-9]|60))?$")
_AFTER = re.compile(r"^(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s?)?$")
_LOOK_S = 0.005
# GET /hardware; names and skus as the SDK's documentation and public price lists have them.
_HARDWARE = [
    {"sku": "cpu", "name": "CPU"},
    {"sku": "gpu-t4", "name": "Nvidia T4 GPU"},
    {"sku": "gpu-l40s", "name": "Nvidia L40S GPU"},
    {"sku": "gpu-a100-large", "name": "Nvidia A100 (80GB) GPU"},
    {"sku": "gpu-h100", "name": "Nvidia H100 GPU"},
]
_MADE = "2023-10-11T06:34:12.000000Z"


class Api:
    """Handlers of the API's origin."""

    def __init__(
        self, store: Store, faults: Faults, urls: Callable[[], tuple[str, str]], limits: Any
    ) -> None:
        self._store, self._faults, self._urls = store, faults, urls
        self._creates: Limiter
        self._others: Limiter
        self._creates, self._others = limits
        self._files = files.Files(lambda: self._urls()[0])
        self.requests: list[Recorded] = []

    def application(self) -> web.Application:
        """The origin's routes, each with its name for faults."""
        app = web.Application(client_max_size=100_000_000)
        model = "/v1/models/{owner}/{name}"
        for method, path, operation, handler in (
            ("POST", "/v1/predictions", "create", self._create),
            ("POST", f"{model}/predictions", "create", self._create_official),
            ("GET", "/v1/predictions", "list", self._list),
            ("GET", "/v1/predictions/{id}", "get", self._get),
            ("POST", "/v1/predictions/{id}/cancel", "cancel", self._cancel),
            ("GET", "/v1/account", "account", self._account),
            ("GET", "/v1/hardware", "hardware", self._hardware),
            ("GET", model, "model", self._model),
            ("GET", f"{model}/versions", "versions", self._versions),
            ("GET", f"{model}/versions/{{version}}", "version", self._version),
            ("POST", "/v1/files", "files", self._files.create),
            ("GET", "/v1/files", "files", self._files.list),
            ("GET", "/v1/files/{id}", "files", self._files.get),
            ("GET", "/v1/files/{id}/content", "files", self._files.content),
            ("DELETE", "/v1/files/{id}", "files", self._files.delete),
        ):
            app.router.add_route(method, path, self._guarded(operation, handler))
        return app

    def _guarded(self, operation: str, handler: Handler) -> Handler:
        """Note the request; play the script; check the token and the rate; answer."""

        async def answer(request: web.Request) -> web.StreamResponse:
            self.requests.append(await recorded(request))
            fault = self._faults.take(operation)
            if fault is not None:
                return play(fault, request)
            try:
                self._authorize(request)
                throttled = (self._creates if operation == "create" else self._others).admit()
                return throttled or await handler(request)
            except Refused as refused:
                return refused.response

        return answer

    def _authorize(self, request: web.Request) -> None:
        sent = request.headers.get("Authorization", "")
        # The documentation shows Bearer; SDKs before 0.25 sent Token, which still works.
        token = sent.removeprefix("Bearer ").removeprefix("Token ")
        if token == sent or not hmac.compare_digest(token, self._store.config.token):
            raise unauthenticated()

    async def _create(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        if not isinstance(body.get("version"), str):
            raise invalid([{"type": "required", "field": "", "description": "version is required"}])
        if body["version"].rpartition(":")[2] != hotshot.VERSION:
            raise bad_version()
        return await self._accept(request, body)

    async def _create_official(self, request: web.Request) -> web.StreamResponse:
        """Only official models may be run without a version (docs), and none is here."""
        self._named(request)
        await _body(request)
        raise not_found()

    async def _accept(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        prefer, after = request.headers.get("Prefer"), request.headers.get("Cancel-After")
        if prefer is not None and not _PREFER.match(prefer):
            raise Refused(400, "Bad request", f"Prefer: {prefer} is not wait=n, n from 1 to 60")
        limit = _seconds(after, self._store.config.cancel_after_min_s)
        wrong = hotshot.problems(body.get("input") or {})
        if wrong:
            raise invalid(wrong)
        if not self._store.config.credit:
            raise no_credit()
        made = self._store.create(hotshot.MODEL, body, limit)
        if made.behaviour.answer == "lost":
            cut(request)
        if made.behaviour.answer == "garbled":
            return web.Response(status=201, text="<html>", content_type="text/html")
        done = await self._wait(made, prefer)
        # 202 where the wait was too short (docs: create-a-prediction, sync mode).
        return web.json_response(self._view(made), status=201 if done or prefer is None else 202)

    async def _wait(self, made: Prediction, prefer: str | None) -> bool:
        """Hold the request as `Prefer` asks; by real time, for the injected clock may stand."""
        if prefer is None:
            return False
        asked = float(prefer.partition("=")[2] or 60)
        until = time.monotonic() + min(asked, self._store.config.hold_s)
        while self._store.status(made) not in FINAL:
            if time.monotonic() >= until:
                return False
            await asyncio.sleep(_LOOK_S)
        return True

    async def _get(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(self._view(self._find(request)))

    async def _cancel(self, request: web.Request) -> web.StreamResponse:
        made = self._find(request)
        self._store.cancel(made)
        return web.json_response(self._view(made))

    async def _list(self, request: web.Request) -> web.StreamResponse:
        """Newest first; without output and logs (UNVERIFIED), which only GET of one has."""
        try:
            start = int(request.query.get("cursor", "0"))
        except ValueError:
            raise not_found() from None
        size = self._store.config.page
        views = [self._view(made) for made in self._store.newest()]
        after, before = request.query.get("created_after"), request.query.get("created_before")
        views = [
            v for v in views
            if (not after or v["created_at"] >= after) and (not before or v["created_at"] < before)
        ]  # fmt: skip
        base = f"{self._urls()[0]}/v1/predictions?cursor="
        return web.json_response(
            {
                "previous": f"{base}{max(0, start - size)}" if start else None,
                "next": f"{base}{start + size}" if start + size < len(views) else None,
                "results": views[start : start + size],
            }
        )

    async def _account(self, _: web.Request) -> web.StreamResponse:
        name = self._store.config.username
        return web.json_response(
            {"type": "user", "username": name, "name": name, "github_url": None}
        )

    async def _hardware(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(_HARDWARE)

    async def _model(self, request: web.Request) -> web.StreamResponse:
        owner, name = self._named(request)
        return web.json_response(
            {
                "url": f"https://replicate.com/{owner}/{name}",
                "owner": owner,
                "name": name,
                "description": "emulated",
                "visibility": "public",
                "github_url": None,
                "paper_url": None,
                "license_url": None,
                "run_count": len(self._store.newest()),
                "cover_image_url": None,
                "default_example": None,
                "latest_version": _version(),
            }
        )

    async def _versions(self, request: web.Request) -> web.StreamResponse:
        self._named(request)
        return web.json_response({"previous": None, "next": None, "results": [_version()]})

    async def _version(self, request: web.Request) -> web.StreamResponse:
        self._named(request)
        if request.match_info["version"] != hotshot.VERSION:
            raise not_found()
        return web.json_response(_version())

    def _named(self, request: web.Request) -> tuple[str, str]:
        owner, name = request.match_info["owner"], request.match_info["name"]
        if f"{owner}/{name}" != hotshot.MODEL:
            raise not_found()
        return owner, name

    def _find(self, request: web.Request) -> Prediction:
        made = self._store.get(request.match_info["id"])
        if made is None:
            raise not_found()
        return made

    def _view(self, made: Prediction) -> dict[str, Any]:
        here = f"{self._urls()[0]}/v1/predictions/{made.id}"
        urls = {
            "get": here,
            "cancel": f"{here}/cancel",
            "web": f"https://replicate.com/p/{made.id}",
        }
        return {**self._store.view(made, self._output), "urls": urls}

    def _output(self, made: Prediction) -> Any:
        name, content = hotshot.render(made.input, made.seed)
        if made.behaviour.output == "data":
            kind = "video/mp4" if name.endswith("mp4") else "image/gif"
            return f"data:{kind};base64,{base64.b64encode(content).decode()}"
        url = f"{self._urls()[1]}/files/{made.id}/{name}"
        return [url] if made.behaviour.output == "list" else url


async def _body(request: web.Request) -> dict[str, Any]:
    """The JSON object; what does not belong into it is refused, as public repositories quote it."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        raise Refused(400, "Bad request", "The body is not JSON.") from None
    if not isinstance(body, dict) or not isinstance(body.get("input") or {}, dict):
        raise Refused(400, "Bad request", "The body is no object with an object `input`.")
    unknown = [
        {
            "type": "additional_property_not_allowed",
            "field": "",
            "description": f"Additional property {name} is not allowed",
        }
        for name in body
        if name not in _BODY
    ]
    if unknown:
        raise invalid(unknown)
    return body


def _seconds(after: str | None, least: float) -> float | None:
    """Read Cancel-After: 30, 30s, 5m, 1h30m45s. What is wrong with it is a 400 (UNVERIFIED)."""
    if after is None:
        return None
    found = _AFTER.match(after.strip())
    hours, minutes, seconds = (int(n or 0) for n in found.groups()) if found else (0, 0, 0)
    total = hours * 3600 + minutes * 60 + seconds
    if total < least:
        raise Refused(400, "Bad request", f"Cancel-After: {after} is not {least:g} seconds or more")
    return float(total)


def _version() -> dict[str, Any]:
    return {
        "id": hotshot.VERSION,
        "created_at": _MADE,
        "cog_version": "0.8.6",
        "openapi_schema": hotshot.schema(),
    }
