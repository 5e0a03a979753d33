"""What the SDK does not reach: times, bills, deadlines, expiry; the door and its imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from pennyreel_emulators import replicate
from pennyreel_emulators.replicate import (
    VERSION,
    Behaviour,
    Bill,
    Config,
    Fault,
    RateLimit,
    ReplicatePlatform,
)

BODY = {"version": VERSION, "input": {"prompt": "a boat", "seed": 1}}


class Bench:
    """A platform whose clock stands still until it is moved, and plain HTTP."""

    def __init__(self, config: Config | None = None) -> None:
        self.now = 1000.0
        self.platform = ReplicatePlatform(config, clock=lambda: self.now)
        self.session = requests.Session()

    def call(self, method: str, path: str, token: str | None = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {token or self.platform.config.token}"}
        headers |= options.pop("headers", {})
        url = self.platform.base_url + path
        return self.session.request(method, url, headers=headers, timeout=30, **options)

    def create(self, **headers: str) -> dict[str, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = self.call("POST", "/predictions", json=BODY, headers=named)
        assert reply.status_code in {201, 202}, reply.text
        made: dict[str, Any] = reply.json()
        return made

    def get(self, made: dict[str, Any]) -> dict[str, Any]:
        seen: dict[str, Any] = self.call("GET", f"/predictions/{made['id']}").json()
        return seen


@pytest.fixture
def bench() -> Iterator[Bench]:
    one = Bench(Config(boot_s=10.0, run_s=20.0))
    with one.platform, one.session:
        yield one


def test_a_prediction_starts_runs_and_ends_by_the_clock(bench: Bench) -> None:
    made = bench.create()
    assert (made["status"], made["started_at"], made["metrics"]) == ("starting", None, {})
    bench.now += 15
    seen = bench.get(made)
    assert seen["status"] == "processing"
    assert " 7/30 " in seen["logs"]
    bench.now += 100
    seen = bench.get(made)
    assert seen["status"] == "succeeded"
    assert seen["metrics"] == {"predict_time": 20.0, "total_time": 30.0}


def test_only_what_ran_is_billed(bench: Bench) -> None:
    late, hung, failed = Behaviour(boot_s=99), Behaviour(hangs=True), Behaviour(error="no")
    bench.platform.script(late, hung, failed)
    aborted, canceled, broken = (bench.create(Cancel_After="30s") for _ in range(3))
    bench.now += 60
    ends = [bench.get(made)["status"] for made in (aborted, canceled, broken)]
    assert ends == ["aborted", "canceled", "failed"]
    assert bench.platform.billed == (
        Bill(canceled["id"], 20.0, "gpu-l40s"),
        Bill(broken["id"], 20.0, "gpu-l40s"),
    )


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("30", 30), ("90s", 90), ("5m", 300), ("1h30m45s", 5445), ("4s", None), ("soon", None)],
)
def test_cancel_after_is_read_as_documented(
    given: str, seconds: float | None, bench: Bench
) -> None:
    bench.platform.script(Behaviour(hangs=True))
    reply = bench.call("POST", "/predictions", json=BODY, headers={"Cancel-After": given})
    assert reply.status_code == (400 if seconds is None else 201)
    if seconds is None:
        assert bench.platform.accepted == ()
        return
    bench.now += seconds - 1
    assert bench.get(reply.json())["status"] == "processing"
    bench.now += 1
    assert bench.get(reply.json())["status"] == "canceled"


def test_after_an_hour_the_data_is_gone_and_the_rest_stays(bench: Bench) -> None:
    made = bench.create()
    bench.now += 30
    url = bench.get(made)["output"]
    assert url.startswith(bench.platform.delivery_url)
    assert bench.session.get(url, timeout=30).content[:6] == b"GIF89a"
    bench.now += 3600
    seen = bench.get(made)
    assert (seen["status"], seen["data_removed"]) == ("succeeded", True)
    assert (seen["output"], seen["input"], seen["logs"]) == (None, {}, None)
    assert seen["metrics"]["predict_time"] == 20.0
    assert bench.session.get(url, timeout=30).status_code == 404


def test_one_seed_gives_one_file_and_another_seed_another(bench: Bench) -> None:
    files = []
    for seed in (1, 1, 2):
        body = {**BODY, "input": {**BODY["input"], "seed": seed}}  # type: ignore[dict-item]
        made = bench.call("POST", "/predictions", json=body).json()
        bench.now += 30
        files.append(bench.session.get(bench.get(made)["output"], timeout=30).content)
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer r8_other", "r8_EMULATED", "Basic eDp5"])
def test_who_has_not_the_token_is_told_nothing(header: str, bench: Bench) -> None:
    for method, path in (("GET", "/account"), ("GET", "/predictions"), ("POST", "/predictions")):
        reply = bench.call(method, path, json=BODY, headers={"Authorization": header})
        assert reply.status_code == 401
        assert reply.json()["title"] == "Unauthenticated"
    assert bench.platform.accepted == ()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"input": {}}, 422, "version is required"),
        ({**BODY, "idempotency_key": "a"}, 422, "Additional property idempotency_key"),
        ({**BODY, "input": []}, 201, ""),
        ({**BODY, "input": [1]}, 400, "object"),
        ([], 400, "object"),
    ],
)
def test_bodies_are_strict(body: Any, status: int, says: str, bench: Bench) -> None:
    reply = bench.call("POST", "/predictions", json=body)
    assert reply.status_code == status
    assert says in reply.text


def test_a_lost_answer_is_a_prediction_all_the_same(bench: Bench) -> None:
    bench.platform.script(Behaviour(answer="lost"))
    with pytest.raises(requests.ConnectionError):
        bench.create()
    assert len(bench.platform.accepted) == 1


def test_a_fault_is_no_prediction_and_ends_after_its_times(bench: Bench) -> None:
    bench.platform.fault("create", Fault())
    with pytest.raises(requests.ConnectionError):
        bench.create()
    bench.platform.fault("create", Fault(503, {"detail": "down"}, {"Retry-After": "3"}))
    reply = bench.call("POST", "/predictions", json=BODY)
    assert (reply.status_code, reply.headers["Retry-After"]) == (503, "3")
    assert bench.platform.accepted == ()
    assert bench.create()["status"] == "starting"


def test_limits_are_of_a_window_and_apart_for_creates() -> None:
    bench = Bench(Config(creates=RateLimit(1), others=RateLimit(2)))
    with bench.platform, bench.session:
        made = bench.create()
        bench.now += 20
        reply = bench.call("POST", "/predictions", json=BODY)
        assert (reply.status_code, reply.headers["Retry-After"]) == (429, "40")
        assert reply.json()["detail"].endswith("Your rate limit resets in ~40s.")
        assert [bench.call("GET", "/account").status_code for _ in range(3)] == [200, 200, 429]
        bench.now += 40
        assert bench.create()["id"] != made["id"]


def test_lists_can_be_of_a_time(bench: Bench) -> None:
    first = bench.create()
    bench.now += 60
    second = bench.create()
    since = {"created_after": second["created_at"]}
    found = bench.call("GET", "/predictions", params=since).json()["results"]
    assert [p["id"] for p in found] == [second["id"]]
    before = {"created_before": second["created_at"]}
    found = bench.call("GET", "/predictions", params=before).json()["results"]
    assert [p["id"] for p in found] == [first["id"]]


def test_it_starts_once(bench: Bench) -> None:
    with pytest.raises(RuntimeError, match="already"):
        bench.platform.start()


def test_a_port_that_is_taken_is_told(bench: Bench) -> None:
    taken = int(bench.platform.base_url.rpartition(":")[2].partition("/")[0])
    with pytest.raises(OSError, match="address"):
        ReplicatePlatform(Config(port=taken)).start()


def test_the_door_is_complete() -> None:
    assert len(set(replicate.__all__)) == len(replicate.__all__)
    assert all(hasattr(replicate, name) for name in replicate.__all__)


def test_the_emulator_imports_neither_ours_nor_the_sdks_code() -> None:
    script = """
import sys
import pennyreel_emulators.replicate
ours = [m for m in sys.modules if m.split(".")[0].startswith("pennyreel")]
assert all(m.startswith("pennyreel_emulators") for m in ours), ours
assert not {"replicate", "requests", "httpx", "pydantic"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)
