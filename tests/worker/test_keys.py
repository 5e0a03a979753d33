"""Keys and other people's lines stay where they are: in no reply, no log, no environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pennyreel_worker.log import redactor
from worker.support import SAVE, SECRET, Bench, comfy_of, node, request, settings_of, until

KEY, OTHER = "comfyui-canary-0123456789", "comfyui-stranger-9876543210"


@pytest.fixture
def own() -> Iterator[Bench]:
    """A worker with a ComfyUI of its own, which may be ended; its operator has a key."""
    settings = settings_of(COMFY_ORG_API_KEY=KEY)
    redactor.add([KEY])
    with comfy_of(settings) as comfy:
        comfy.start()
        comfy.first_ready()
        made = Bench(comfy, settings)
        yield made
        made.worker.close()
    redactor.remove([KEY])


def test_a_node_that_quotes_its_key_in_an_error_does_not_tell_it_to_the_client(
    own: Bench, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    graph = {"1": node("FakeError", tell=True)}
    assert "401 for" in json.dumps(own.run(request(graph)))
    stock = own.run({"workflow": graph, "comfy_org_api_key": OTHER})
    assert "401 for" in json.dumps(stock)
    own.worker.settle()
    out, err = capfd.readouterr()
    told = json.dumps(own.posts) + out + err + caplog.text
    assert KEY not in told
    assert OTHER not in told


def test_a_crash_shows_neither_a_key_nor_another_jobs_lines(own: Bench) -> None:
    own.run({"workflow": {"1": node("FakeEcho"), **SAVE}, "comfy_org_api_key": OTHER})
    until(lambda: "key:" in "".join(own.comfy.process.tail()))  # else it comes with the next job's
    problem = own.bad(request({"1": node("FakeEcho"), "2": node("FakePaid")}))
    log = json.dumps(problem.detail["log"])
    assert log.count("key:") == 1  # its own line, and none of the former job's
    assert KEY not in log
    assert OTHER not in log


def test_comfyuis_environment_has_no_key_and_video_helper_suite_is_strict(
    monkeypatch: pytest.MonkeyPatch, make_own: Callable[..., Bench]
) -> None:
    names = (
        "BUCKET_SECRET_ACCESS_KEY", "BUCKET_ACCESS_KEY_ID", "RUNPOD_AI_API_KEY", "RUNPOD_API_KEY",
        "COMFY_ORG_API_KEY", "HF_TOKEN", "CIVITAI_API_KEY", "AWS_SECRET_ACCESS_KEY",
    )  # fmt: skip
    for name in names:
        monkeypatch.setenv(name, f"{SECRET}-{name}")
    for allowed, strict in (("", True), ("LoadImageOutput", True), ("VHS_LoadVideoPath", False)):
        bench = make_own(PENNYREEL_ALLOW_NODES=allowed)
        environ = Path(f"/proc/{bench.comfy.process.pid}/environ").read_bytes()
        assert SECRET.encode() not in environ
        assert (b"VHS_STRICT_PATHS=1" in environ.split(b"\0")) is strict


@pytest.fixture
def make_own() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(**env: str) -> Bench:
        settings = settings_of(**env)
        comfy = comfy_of(settings)
        entered = comfy.__enter__()
        entered.start()
        entered.first_ready()
        bench = Bench(entered, settings)
        bench.close = comfy.__exit__  # type: ignore[attr-defined]
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.worker.close()
        bench.close(None, None, None)  # type: ignore[attr-defined]


@pytest.mark.parametrize("where", ["comfy_org_api_key", "accessId", "accessSecret"])
def test_a_key_that_is_no_key_keeps_nobody_waiting(where: str, bench: Bench) -> None:
    """To hide a value of a million letters would take minutes, in which no other job goes on."""
    key = "k" * 1_000_000
    job: dict[str, Any] = {"workflow": SAVE}
    more = {} if where == "comfy_org_api_key" else {"s3Config": {where: key}}
    began = time.perf_counter()
    reply = bench.run(job if more else {**job, where: key}, **more)
    assert reply["code"] == "bad_request"
    assert len(json.dumps(reply)) < 1000
    assert time.perf_counter() - began < 10
    assert "images" in bench.run({**job, "comfy_org_api_key": "k" * 1000})


PEER = """
import ctypes, os, sys
from pennyreel_worker import lifecycle
if os.getuid() == 0:  # whom /proc hides nothing from
    os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which another user takes away
if sys.argv[1] == "hidden":
    lifecycle._hide()
worker = os.getpid()
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
try:
    with open(f"/proc/{worker}/environ", "rb") as file:
        os._exit(0 if b"CANARY" in file.read() else 9)
except PermissionError:
    os._exit(7)
"""


@pytest.mark.parametrize(("how", "code"), [("hidden", 7), ("open", 0)])
def test_a_process_of_the_same_user_cannot_read_the_workers_environment(
    how: str, code: int
) -> None:
    """ComfyUI is one, and runs other people's nodes."""
    ended = subprocess.run(
        [sys.executable, "-c", PEER, how],
        env={**os.environ, "KEY": "CANARY"}, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == code
