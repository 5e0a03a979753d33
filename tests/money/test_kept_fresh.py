"""RunPod's prices and an endpoint's GPU, asked for by themselves where there is a key."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.support import KEY, Reply, Request, Scripted
from fakes.waits import eventually
from pennyreel import config
from pennyreel.config import Settings
from pennyreel.money import catalog, live
from pennyreel.money.ledger import Ledger

GPUS = [
    {"name": "L4", "pool": "AMPERE_24", "secure": True, "price": {"serverless": 0.69}},
    {"name": "RTX 4090", "pool": "ADA_24", "secure": True, "price": {"serverless": 1.1}},
]
ENDPOINT = {"id": "ep", "gpu": {"pools": ["AMPERE_24", "ADA_24"], "count": 2}}


def tells(endpoint: object = ENDPOINT, status: int = 200) -> Callable[[Request], Reply]:
    def script(request: Request) -> Reply:
        if request.path == "/v2/catalog/gpus":
            return Reply(body={"gpus": GPUS})
        assert request.path == "/v2/serverless/ep"
        return Reply(status, body=endpoint)

    return script


@pytest.fixture
def ledger(home: Path) -> Iterator[Ledger]:
    with Ledger.open(config.load()) as opened:
        yield opened


@contextmanager
def runpod(script: Callable[[Request], Reply | None]) -> Iterator[tuple[Scripted, Settings]]:
    with Scripted(script) as server:
        url = f"{server.url}/v2"
        yield server, config.load(runpod_api_url=url, runpod_api_key=KEY, runpod_endpoint="ep")


def test_an_endpoint_is_priced_as_its_dearest_pool_by_its_number_of_gpus(
    home: Path, ledger: Ledger
) -> None:
    with runpod(tells()) as (server, settings):
        live.keep_fresh(settings, ledger)
        assert [r.path for r in server.requests] == ["/v2/catalog/gpus", "/v2/serverless/ep"]
    table = catalog.load(home)
    row = table.row("runpod/ep")
    assert row is not None
    assert float(row.usd or 0) == 2.2
    assert row.note == "2 x ADA_24, the dearest of its pools"
    assert (row.startup_s, row.idle_s) == (60, 5), "as its pool"
    assert dict(table.pools) == {"ep": "ADA_24"}


@pytest.mark.parametrize(
    ("endpoint", "status"),
    [
        ({"title": "Forbidden"}, 403),
        ({"title": "Not found"}, 404),
        ({"id": "ep"}, 200),
        ({"id": "ep", "gpu": None}, 200),
        ({"id": "ep", "gpu": {"pools": ["ADA_24", "OF_TOMORROW"]}}, 200),
        ({"id": "ep", "gpu": {"pools": ["ADA_24"], "count": 999}}, 200),
        ({"id": "ep", "gpu": {"pools": "ADA_24"}}, 200),
        (["odd"], 200),
    ],
)
def test_an_endpoint_of_which_runpod_does_not_tell_has_an_unknown_price(
    endpoint: object, status: int, home: Path, ledger: Ledger
) -> None:
    with runpod(tells(endpoint, status)) as (_, settings):
        live.keep_fresh(settings, ledger)
    table = catalog.load(home)
    row = table.row("runpod/ep")
    assert row is not None
    assert row.microusd is None
    assert "pennyreel config set runpod.gpu" in row.note
    assert float(table.rows["runpod/ADA_24"].usd or 0) == 1.1, "the pools' prices are kept"
    assert not table.pools


def test_it_is_asked_once_a_day_and_sooner_after_a_failure(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runpod(tells()) as (server, settings):
        for _ in range(3):
            live.keep_fresh(settings, ledger)
        assert len(server.requests) == 2
        monkeypatch.setattr(live, "FRESH_S", -1.0)
        live.keep_fresh(settings, ledger)
        assert len(server.requests) == 4


def test_a_runpod_that_is_down_costs_a_job_nothing_and_is_left_alone_for_a_while(
    home: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with runpod(lambda _: Reply(401, body={"title": "no"})) as (server, settings):
        live.keep_fresh(settings, ledger)
        asked = len(server.requests)
        assert asked
        live.keep_fresh(settings, ledger)
        assert len(server.requests) == asked
        monkeypatch.setattr(live, "AGAIN_S", -1.0)
        live.keep_fresh(settings, ledger)
        assert len(server.requests) > asked
    assert catalog.load(home).version == catalog.builtin().version


def test_one_that_hangs_is_waited_for_briefly_and_its_answer_is_used_later(
    home: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WAIT_S", 0.05)
    go_on, answer = threading.Event(), tells()

    def slowly(request: Request) -> Reply:
        go_on.wait(30)
        return answer(request)

    with runpod(slowly) as (_, settings):
        live.keep_fresh(settings, ledger)
        assert not catalog.load(home).pools
        go_on.set()
        eventually(lambda: bool(catalog.load(home).pools))
        eventually(lambda: "pennyreel-prices" not in {t.name for t in threading.enumerate()})


def test_without_a_key_or_with_another_job_api_nobody_is_asked(ledger: Ledger) -> None:
    with runpod(tells()) as (server, _):
        url = f"{server.url}/v2"
        live.keep_fresh(config.load(runpod_api_url=url), ledger)
        live.keep_fresh(config.load(runpod_base_url=url, runpod_api_key=KEY), ledger)
        assert not server.requests
