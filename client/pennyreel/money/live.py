"""RunPod's prices as its API tells them now, for who has a key.

Source: RunPod's REST API v2 (docs.runpod.io, api-reference-v2, August 2026): GET /catalog/gpus
`{"gpus": [{id, name, pool, secure, community, price: {secure, community, serverless}}]}`, dollars
an hour for one GPU. A serverless endpoint gets any GPU of its pool, so that a pool costs what its
dearest does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import requests

from pennyreel import _http
from pennyreel.config import Settings
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.catalog import builtin, remember
from pennyreel.need import Unit

SOURCE = "RunPod's API, /v2/catalog/gpus"
MOST_USD = 1000
"""An hour of one GPU above it is no price, but a change of the API."""


def refresh(settings: Settings, now: datetime | None = None) -> int:
    """Ask RunPod for its prices and keep them in the home folder; return how many rows they are.

    Raises:
        SetupNeeded: there is no key, or RunPod refuses it.
        Unavailable: RunPod cannot be reached, or its answer cannot be read.

    """
    if not settings.runpod_api_key:
        raise error(
            Code.NOT_CONFIGURED,
            "RunPod tells its prices to those who have an API key, and none is set",
            hint="Set RUNPOD_API_KEY; without it the built-in prices hold: pennyreel prices",
        )
    when = now or datetime.now(timezone.utc)
    rows = rows_of(_fetch(settings), when.date().isoformat())
    if not rows:
        raise error(Code.BACKEND_UNAVAILABLE, "RunPod's answer has no price in it that we can read")
    try:
        remember(settings.home, rows, when.isoformat(timespec="seconds"))
    except OSError as problem:
        raise error(
            Code.NOT_CONFIGURED,
            f"prices cannot be kept in {settings.home} ({problem.strerror})",
            hint="Free some space there, or name another folder in PENNYREEL_HOME.",
        ) from None
    return len(rows)


def rows_of(gpus: Iterable[Any], date: str) -> dict[str, dict[str, Any]]:
    """Return rows, as TOML would have them, of the API's GPUs. What is unreadable is left out."""
    found: dict[str, dict[str, Any]] = {}
    for sku, usd in _prices(gpus):
        if sku not in found or found[sku]["usd"] < usd:
            found[sku] = _row(sku, usd, date)
    return dict(sorted(found.items()))


def _prices(gpus: Iterable[Any]) -> Iterator[tuple[str, float]]:
    """Yield sku and dollars an hour."""
    for gpu in gpus:
        if not isinstance(gpu, Mapping) or not isinstance(gpu.get("price"), Mapping):
            continue
        price, pool, name = gpu["price"], gpu.get("pool"), gpu.get("name")
        if pool and isinstance(pool, str) and _sound(price.get("serverless")):
            yield f"runpod/{pool}", price["serverless"]
        for cloud in ("secure", "community"):
            if name and isinstance(name, str) and gpu.get(cloud) and _sound(price.get(cloud)):
                yield f"runpod-pod/{name}/{cloud}", price[cloud]


def _sound(usd: object) -> bool:
    """Whether it is a price: 0 and null mean that there is none."""
    return isinstance(usd, (int, float)) and not isinstance(usd, bool) and 0 < usd < MOST_USD


def _row(sku: str, usd: float, date: str) -> dict[str, Any]:
    row = {
        "usd": usd,
        "per": "hour",
        "unit": Unit.GPU_SECOND.value,
        "certainty": "known",
        "date": date,
        "source": SOURCE,
    }
    if sku.startswith("runpod/") and sku not in builtin().rows:
        usual = builtin().rows["runpod/AMPERE_24"]
        row |= {n: getattr(usual, n) for n in ("startup_s", "idle_s", "step_s")}
    return row


def _fetch(settings: Settings) -> list[Any]:
    api = _http.Api(settings.runpod_api_url, settings.runpod_api_key)
    try:
        reply = api.call("GET", "/catalog/gpus")
    except requests.RequestException as problem:
        raise error(
            Code.BACKEND_UNAVAILABLE,
            f"{_http.shown(settings.runpod_api_url)} does not answer ({type(problem).__name__})",
            hint="Try again later; until then the prices that are known hold: pennyreel prices",
        ) from None
    finally:
        api.close()
    if reply.status_code != 200:
        raise _refused(reply)
    try:
        gpus = reply.json()["gpus"]
    except (ValueError, KeyError, TypeError):
        gpus = None
    if not isinstance(gpus, list):
        raise error(Code.BACKEND_UNAVAILABLE, "RunPod's answer is no list of GPUs")
    return gpus


def _refused(reply: requests.Response) -> PennyreelError:
    status = reply.status_code
    if status in {401, 403}:
        return error(
            Code.UNAUTHORIZED,
            f"RunPod refuses the API key ({status})",
            hint="Check RUNPOD_API_KEY: it has to be allowed to read the account.",
        )
    code = Code.RATE_LIMITED if status == 429 else Code.BACKEND_UNAVAILABLE
    return error(
        code,
        f"RunPod answers {status} to a question for its prices",
        detail={"status": status, "retry_after_s": _http.retry_after(reply)},
    )
