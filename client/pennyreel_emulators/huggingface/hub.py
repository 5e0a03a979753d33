"""The Hub's own API: who a token is, and who serves a model. Nothing of it costs anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from pennyreel_emulators.huggingface.config import HubConfig, Served
from pennyreel_emulators.huggingface.store import Refused


class Hub:
    """Handlers of /api."""

    def __init__(self, config: HubConfig) -> None:
        self.models: Mapping[str, Mapping[str, Served]] = config.models
        self._config = config

    def add_routes(self, app: web.Application) -> None:
        """Mount the routes."""
        app.router.add_get("/api/whoami-v2", self._whoami)
        app.router.add_get("/api/models/{owner}/{name}", self._model)

    async def _whoami(self, _: web.Request) -> web.Response:
        """The account, as far as clients of inference look at it."""
        config = self._config
        token: dict[str, Any] = {"displayName": "emulated", "role": config.role}
        if config.role == "fineGrained":
            token["fineGrained"] = {
                "global": [],
                "scoped": [
                    {
                        "entity": {"type": "user", "name": config.user},
                        "permissions": list(config.permissions),
                    }
                ],
            }
        return web.json_response(
            {
                "type": "user",
                "name": config.user,
                "isPro": config.pro,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": token},
            }
        )

    async def _model(self, request: web.Request) -> web.Response:
        """A model: everything, or what `expand` names."""
        model = f"{request.match_info['owner']}/{request.match_info['name']}"
        served = self.models.get(model)
        if served is None:
            raise Refused(404, {"error": "Repository not found"})
        body: dict[str, Any] = {"_id": "0" * 24, "id": model}
        expand = {*request.query.getall("expand", []), *request.query.getall("expand[]", [])}
        if "inferenceProviderMapping" in expand:
            body["inferenceProviderMapping"] = {name: _entry(s) for name, s in served.items()}
        if not expand:
            body["pipeline_tag"] = next((s.task for s in served.values()), None)
            body["tags"] = []
        return web.json_response(body)


def _entry(served: Served) -> dict[str, Any]:
    entry = {"status": served.status, "providerId": served.provider_id, "task": served.task}
    if served.adapter_weights_path is not None:
        entry |= {"adapter": "lora", "adapterWeightsPath": served.adapter_weights_path}
    return entry
