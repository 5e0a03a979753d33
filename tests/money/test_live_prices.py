"""RunPod's prices of now, from a server on loopback; the key goes nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from client.support import KEY, Reply, Request, Scripted
from fakes.ports import dead_port
from pennyreel import config
from pennyreel.cli.app import run
from pennyreel.cli.prices import command
from pennyreel.config import Settings
from pennyreel.errors import Code, PennyreelError
from pennyreel.money import catalog, live

NOW = datetime(2026, 11, 27, 12, tzinfo=timezone.utc)


def gpu(name: str, pool: str | None, **price: Any) -> dict[str, Any]:
    return {"id": f"NVIDIA {name}", "name": name, "pool": pool, "manufacturer": "NVIDIA",
            "memory": 24, "secure": True, "community": True, "price": price}  # fmt: skip


GPUS = [
    gpu("L4", "AMPERE_24", secure=0.43, community=None, serverless=0.69),
    gpu("RTX 3090", "AMPERE_24", secure=0.46, community=0.22, serverless=0.72),
    gpu("RTX 4090", "ADA_24", secure=0.69, community=0.34, serverless=0),
    gpu("B300", "BLACKWELL_288", secure=0, community=0, serverless=9.36),
    {**gpu("A30", None, secure=0.5, community=0.3), "community": False},
    {"name": "odd", "price": None},
    "odder",
    gpu("RTX A6000", None, secure=float(10**6), community=True, serverless="cheap"),
]


@contextmanager
def runpod(reply: Reply | None) -> Iterator[Scripted]:
    with Scripted(lambda _: reply) as server:
        yield server


def settings(url: str) -> Settings:
    return config.load(runpod_api_url=f"{url}/v2", runpod_api_key=KEY)


def test_what_runpod_tells_is_kept_with_its_date_and_used(home: Path) -> None:
    with runpod(Reply(body={"gpus": GPUS})) as server:
        count = live.refresh(settings(server.url), NOW)
        (asked,) = server.requests
    assert (asked.method, asked.path) == ("GET", "/v2/catalog/gpus")
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    table = catalog.load(home)
    assert count == 8
    row = table.rows["runpod/AMPERE_24"]
    assert row.microusd == 200, "the pool's dearest GPU: $0.72 an hour"
    assert (row.date, row.certainty.value, row.source) == ("2026-11-27", "known", live.SOURCE)
    assert (row.startup_s, row.idle_s) == (60, 5)
    assert table.rows["runpod-pod/RTX 3090/community"].usd is not None
    assert table.version != catalog.builtin().version
    assert catalog.fetched(home) == "2026-11-27T12:00:00+00:00"


def test_no_price_is_taken_for_nothing(home: Path) -> None:
    with runpod(Reply(body={"gpus": GPUS})) as server:
        live.refresh(settings(server.url), NOW)
    table, before = catalog.load(home), catalog.builtin()
    assert table.rows["runpod/ADA_24"] == before.rows["runpod/ADA_24"]
    assert "runpod-pod/L4/community" not in table.rows
    assert "runpod-pod/A30/secure" in table.rows
    assert "runpod-pod/A30/community" not in table.rows, "it is not offered"
    assert "runpod-pod/RTX A6000/secure" not in table.rows


def test_a_pool_that_is_new_to_us_bills_its_start_like_the_others(home: Path) -> None:
    with runpod(Reply(body={"gpus": GPUS})) as server:
        live.refresh(settings(server.url), NOW)
    row = catalog.load(home).rows["runpod/BLACKWELL_288"]
    assert row.microusd == 2600
    assert (row.startup_s, row.idle_s, row.step_s) == (60, 5, 1)


def test_the_users_own_price_wins_over_runpods(home: Path) -> None:
    with runpod(Reply(body={"gpus": GPUS})) as server:
        live.refresh(settings(server.url), NOW)
    (home / "prices.toml").write_text('[prices."runpod/AMPERE_24"]\nusd = 0.0001\n')
    assert catalog.load(home).rows["runpod/AMPERE_24"].microusd == 100


def test_a_table_that_is_newer_than_what_was_kept_wins(home: Path) -> None:
    with runpod(Reply(body={"gpus": GPUS})) as server:
        live.refresh(settings(server.url), datetime(2026, 1, 1, tzinfo=timezone.utc))
    before = catalog.builtin().rows["runpod/AMPERE_24"]
    assert catalog.load(home).rows["runpod/AMPERE_24"] == before


@pytest.mark.parametrize("text", ["{", "[]", '{"prices": 3}', '{"prices": {"a": {"usd": -1}}}'])
def test_a_kept_file_that_cannot_be_read_is_passed_over(home: Path, text: str) -> None:
    home.mkdir()
    (home / "prices-runpod.json").write_text(text)
    assert catalog.load(home) == catalog.builtin()
    assert catalog.fetched(home) is None


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (Reply(401), Code.UNAUTHORIZED), (Reply(403), Code.UNAUTHORIZED),
        (Reply(429, headers={"Retry-After": "3"}), Code.RATE_LIMITED),
        (Reply(500), Code.BACKEND_UNAVAILABLE), (Reply(200, b"<html>"), Code.BACKEND_UNAVAILABLE),
        (Reply(200, {"gpus": {}}), Code.BACKEND_UNAVAILABLE),
        (Reply(200, {"gpus": []}), Code.BACKEND_UNAVAILABLE), (None, Code.BACKEND_UNAVAILABLE),
        (Reply(302, headers={"Location": "http://127.0.0.1:1/"}), Code.BACKEND_UNAVAILABLE),
    ],
)  # fmt: skip
def test_a_refusal_says_what_it_is_and_keeps_what_was_known(
    home: Path, reply: Reply | None, code: Code
) -> None:
    with runpod(reply) as server, pytest.raises(PennyreelError) as caught:
        live.refresh(settings(server.url), NOW)
    assert caught.value.code == code.value
    assert KEY not in str(caught.value.info)
    assert caught.value.hint
    assert not (home / "prices-runpod.json").exists()


def test_without_a_server_it_is_unavailable(home: Path) -> None:
    with pytest.raises(PennyreelError) as caught:
        live.refresh(settings(f"http://127.0.0.1:{dead_port()}"), NOW)
    assert caught.value.code == Code.BACKEND_UNAVAILABLE.value


def test_the_command_shows_each_price_with_its_certainty_date_and_source(home: Path) -> None:
    done = CliRunner().invoke(command, [])
    assert done.exit_code == 0
    lines = done.output.splitlines()
    (line,) = [one for one in lines if one.startswith("vertex/veo-3.1-fast-generate-001/720p ")]
    assert line.split()[1:6] == ["$0.10", "output", "second", "estimated", "2026-10-07"]
    assert "ai.google.dev" in line
    (unknown,) = [one for one in lines if one.startswith("huggingface/* ")]
    assert unknown.split()[1] == "unknown"
    assert str(home / "prices.toml") in done.output


def test_the_command_gives_json_and_refreshes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with runpod(Reply(body={"gpus": GPUS})) as server:
        monkeypatch.setenv("PENNYREEL_RUNPOD_API_URL", f"{server.url}/v2")
        monkeypatch.setenv("RUNPOD_API_KEY", KEY)
        assert run(["prices", "--refresh", "--json"]) == 0
    out = capsys.readouterr()
    body = json.loads(out.out)
    rows = {row["sku"]: row for row in body["prices"]}
    assert body["runpod_fetched"].endswith("+00:00")
    assert rows["runpod/AMPERE_24"]["usd"] == "0.72"
    assert rows["runpod/AMPERE_24"]["microusd"] == 200
    assert rows["huggingface/*"]["usd"] is None
    assert KEY not in out.out + out.err
    assert KEY not in (home / "prices-runpod.json").read_text()


def test_a_refresh_without_a_key_says_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prices", "--refresh"]) == 4
    assert "RUNPOD_API_KEY" in capsys.readouterr().err


def test_the_config_files_prices_count_and_a_mistake_names_the_file(
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "config.toml"
    monkeypatch.setenv("PENNYREEL_CONFIG", str(file))
    file.write_text('[prices."runpod/ADA_24"]\nusd = 0.0003\n[prices.local]\nkwh_usd = 0.31\n')
    assert run(["prices", "--json"]) == 0
    rows = {row["sku"]: row for row in json.loads(capsys.readouterr().out)["prices"]}
    assert rows["runpod/ADA_24"]["microusd"] == 300
    assert rows["local"]["microusd"] == pytest.approx(350 * 0.31 / 3.6)
    file.write_text('[prices."runpod/ADA_24"]\nusd = "much"\n')
    assert run(["prices"]) == 4
    assert f'{file}: prices."runpod/ADA_24": usd' in capsys.readouterr().err


def test_a_request_for_prices_carries_no_key_in_its_address() -> None:
    def script(request: Request) -> Reply:
        assert KEY not in request.path
        return Reply(body={"gpus": GPUS})

    with Scripted(script) as server:
        assert live.refresh(settings(server.url)) == 8
