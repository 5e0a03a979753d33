"""RunPod's prices as its API tells them now, for who has a key.

Source: RunPod's REST API v2 (docs.runpod.io, api-reference-v2, August 2026): GET /catalog/gpus
`{"gpus": [{id, name, pool, secure, community, price: {secure, community, serverless}}]}`, dollars
an hour for one GPU. A serverless endpoint gets any GPU of its pool, so that a pool costs what its
dearest does. GET /serverless/ID `{gpu: {pools: [...], count}}` tells the pools of an endpoint.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

import requests

from pennyreel import _http
from pennyreel.config import RUNPOD_API_URL, RUNPOD_URL, Settings
from pennyreel.errors import Code, PennyreelError, error
from pennyreel.money.catalog import builtin, remember
from pennyreel.money.ledger import Ledger
from pennyreel.need import Unit

SOURCE = "RunPod's API, /v2/catalog/gpus"
MOST_USD = 1000
"""An hour of one GPU above it is no price, but a change of the API."""

MOST_GPUS = 16
"""A worker with more is none."""

FRESH_S = 86_400.0
"""RunPod is asked again when its prices are as old as this,"""

AGAIN_S = 600.0
"""or so long after it could not be asked."""

WAIT_S = 3.0
"""How long a job waits for its answer; after that the prices that are known hold."""

LIMIT_S = 30.0
_ASKED = "prices of RunPod"
_ID = re.compile(r"^[A-Za-z0-9_-]{1,64}$")


def keep_fresh(settings: Settings, ledger: Ledger) -> None:
    """Ask RunPod for its prices where there is a key, once a day for all processes together.

    Nothing of it fails a job, and a job waits for WAIT_S at most.
    """
    # Whoever has another job API at that address has no use for the prices of RunPod's own.
    elsewhere = settings.runpod_base_url != RUNPOD_URL and settings.runpod_api_url == RUNPOD_API_URL
    if not settings.runpod_api_key or elsewhere:
        return
    done = threading.Event()

    def ask() -> Mapping[str, Any]:
        try:
            return {"rows": refresh(settings)}
        except PennyreelError as problem:
            return {"problem": problem.code}

    def work() -> None:
        with suppress(Exception):  # whatever it is, the prices that are known hold
            old = ledger.probe(_ASKED)
            fresh = AGAIN_S if old is not None and "problem" in old.answer else FRESH_S
            ledger.probed(_ASKED, ask, fresh_s=fresh, limit_s=LIMIT_S)
        done.set()

    threading.Thread(target=work, name="pennyreel-prices", daemon=True).start()
    done.wait(WAIT_S)


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
    api = _http.Api(settings.runpod_api_url, settings.runpod_api_key)
    try:
        rows = rows_of(_list(_ask(settings, api, "/catalog/gpus")), when.date().isoformat())
        if not rows:
            told = "RunPod's answer has no price in it that we can read"
            raise error(Code.BACKEND_UNAVAILABLE, told)
        pools = _endpoints(settings, api, rows)
    finally:
        api.close()
    try:
        remember(settings.home, rows, when.isoformat(timespec="seconds"), pools)
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
        row |= _besides("runpod/AMPERE_24")
    return row


def _besides(sku: str) -> dict[str, Any]:
    """Return what is billed besides the run there, as the built-in table has it."""
    known = builtin().rows.get(sku) or builtin().rows["runpod/AMPERE_24"]
    return {name: getattr(known, name) for name in ("startup_s", "idle_s", "step_s")}


def _endpoints(
    settings: Settings, api: _http.Api, rows: dict[str, dict[str, Any]]
) -> dict[str, str]:
    """Return the endpoint's pool, and add its row; {} where nobody tells, or it is no GPU's."""
    endpoint = settings.runpod_endpoint or ""
    if not _ID.match(endpoint):
        return {}
    reply = _ask(settings, api, f"/serverless/{endpoint}")
    try:  # a key may be allowed to run jobs, and not to see this
        gpu = reply.json()["gpu"] if reply.status_code == 200 else {}
        count = int(gpu.get("count") or 1)
        known = {str(pool): rows.get(f"runpod/{pool}") for pool in gpu.get("pools") or ()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    priced = {pool: row for pool, row in known.items() if row is not None}
    if not priced or len(priced) < len(known) or not 0 < count <= MOST_GPUS:
        return {}
    pool = max(priced, key=lambda name: float(priced[name]["usd"]))
    each, sku = priced[pool], f"runpod/{pool}"
    note = f"{count} x {pool}, the dearest of its pools"
    own = {"usd": each["usd"] * count, "note": note}
    rows[f"runpod/{endpoint}"] = {**each, **_besides(sku), **own}
    return {endpoint: pool}


def _ask(settings: Settings, api: _http.Api, path: str) -> requests.Response:
    try:
        return api.call("GET", path)
    except requests.RequestException as problem:
        raise error(
            Code.BACKEND_UNAVAILABLE,
            f"{_http.shown(settings.runpod_api_url)} does not answer ({type(problem).__name__})",
            hint="Try again later; until then the prices that are known hold: pennyreel prices",
        ) from None


def _list(reply: requests.Response) -> list[Any]:
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
