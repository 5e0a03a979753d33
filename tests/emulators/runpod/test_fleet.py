"""The fleet: worker processes started and stopped by the queue. Its workers need no SDK."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from emulators.runpod.support import PLAIN, Client, gone, until
from pennyreel_emulators.runpod import (
    EndpointConfig,
    PlatformConfig,
    RunPodPlatform,
    WorkerInfo,
    WorkerReady,
    WorkerStarted,
    WorkerStopped,
)

Fleet = Callable[..., tuple[RunPodPlatform, Client]]


@pytest.fixture
def fleet(session: requests.Session) -> Iterator[Fleet]:
    """`fleet(platform={…}, **endpoint settings)`: a platform with plain workers, and a client."""
    with ExitStack() as stack:

        def make(
            platform: dict[str, Any] | None = None, **endpoint: Any
        ) -> tuple[RunPodPlatform, Client]:
            settings: dict[str, Any] = {"command": PLAIN, "crash_backoff_s": 0.05, **endpoint}
            config = PlatformConfig(
                endpoints={"ep": EndpointConfig(**settings)},
                **{"poll_hold_s": 5.0, "tick_s": 0.02, "close_grace_s": 0.3, **(platform or {})},
            )
            started = stack.enter_context(RunPodPlatform(config))
            return started, Client(started, "ep", session)

        yield make


def live(platform: RunPodPlatform) -> list[WorkerInfo]:
    return [w for w in platform.workers("ep") if w.state != "stopped"]


def test_a_queued_job_starts_the_first_worker(fleet: Fleet) -> None:
    platform, client = fleet()
    assert platform.workers("ep") == ()
    shown = client.runsync()
    assert shown["output"]["worker"] == live(platform)[0].id


def test_workers_min_are_started_without_a_queue(fleet: Fleet) -> None:
    platform, client = fleet(workers_min=2, workers_max=3, idle_timeout_s=0.0)
    until(lambda: client.health()["workers"]["idle"] == 2)
    assert len(platform.workers("ep")) == 2


def test_without_workers_jobs_stay_in_the_queue(fleet: Fleet) -> None:
    platform, client = fleet(workers_max=0)
    job_id = client.run()
    shown = client.post("runsync", {"input": {}}, wait=1000).json()
    assert (client.status(job_id)["status"], shown["status"]) == ("IN_QUEUE", "IN_QUEUE")
    assert platform.workers("ep") == ()
    platform.configure("ep", workers_max=1)
    assert client.ended(job_id)["status"] == "COMPLETED"


def test_idle_workers_are_stopped_down_to_the_minimum(fleet: Fleet) -> None:
    platform, client = fleet(idle_timeout_s=0.2)
    client.runsync()
    until(lambda: not live(platform))
    (stopped,) = [e for e in platform.events if isinstance(e, WorkerStopped)]
    assert (stopped.reason, stopped.exit_code) == ("idle", -signal.SIGTERM)
    assert client.runsync()["status"] == "COMPLETED"  # and starts again from zero


def test_request_count_starts_one_worker_for_so_many_jobs(fleet: Fleet) -> None:
    platform, client = fleet(workers_max=5, scaler="REQUEST_COUNT", scaler_value=2)
    for _ in range(5):
        client.run({"do": "hang"})
    until(lambda: client.health()["workers"]["running"] == 3)
    assert len(platform.workers("ep")) == 3


def test_queue_delay_starts_another_worker_when_a_job_waits_too_long(fleet: Fleet) -> None:
    platform, client = fleet(workers_max=2, scaler_value=0.3)
    client.run({"do": "hang"})
    until(lambda: client.health()["workers"]["running"] == 1)
    second = client.run()
    assert client.ended(second)["delayTime"] >= 300
    assert len(platform.workers("ep")) == 2


def test_there_are_never_more_workers_than_the_maximum(fleet: Fleet) -> None:
    platform, client = fleet(workers_max=2, scaler="REQUEST_COUNT", scaler_value=1)
    for _ in range(6):
        client.run({"do": "hang"})
    until(lambda: client.health()["workers"]["running"] == 2)
    assert len(platform.workers("ep")) == 2
    assert client.health()["jobs"]["inQueue"] == 4


def test_jobs_of_low_priority_start_no_worker(fleet: Fleet) -> None:
    platform, client = fleet()
    low = client.run({}, policy={"lowPriority": True})
    client.post("runsync", {"input": {}, "policy": {"lowPriority": True}}, wait=1000)
    assert platform.workers("ep") == ()
    client.run()
    assert client.ended(low)["status"] == "COMPLETED"


def test_health_tells_initializing_running_and_idle_workers(fleet: Fleet) -> None:
    sleepy = (sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)")
    _, client = fleet(command=sleepy, workers_min=1)
    until(lambda: client.health()["workers"]["initializing"] == 1)
    _, client = fleet(workers_min=2)
    until(lambda: client.health()["workers"]["idle"] == 2)
    client.run({"do": "hang"})
    until(lambda: client.health()["workers"]["running"] == 1)
    assert client.health()["workers"]["idle"] == 1
    assert client.health()["workers"]["ready"] == 1


def test_workers_beyond_the_capacity_are_throttled(fleet: Fleet) -> None:
    platform, client = fleet(workers_min=3, capacity=1)
    until(lambda: client.health()["workers"]["idle"] == 1)
    assert client.health()["workers"]["throttled"] == 2
    platform.configure("ep", capacity=None)
    until(lambda: client.health()["workers"]["idle"] == 3)
    assert client.health()["workers"]["throttled"] == 0


def test_a_worker_that_dies_at_start_is_restarted_with_growing_pauses(fleet: Fleet) -> None:
    platform, client = fleet(env={"MODE": "die"}, workers_max=1, crash_backoff_s=0.1)
    job_id = client.run()
    until(lambda: client.health()["workers"]["unhealthy"] == 1)

    def starts() -> list[float]:
        return [e.at for e in platform.events if isinstance(e, WorkerStarted)]

    until(lambda: len(starts()) >= 4)
    gaps = [b - a for a, b in zip(starts(), starts()[1:], strict=False)]
    assert all(gap >= 0.1 * 2**n for n, gap in enumerate(gaps[:3]))
    assert {w.exit_code for w in platform.workers("ep") if w.state == "stopped"} == {7}
    assert client.status(job_id)["status"] == "IN_QUEUE"


def test_a_command_that_cannot_be_started_is_a_crash_with_a_log(fleet: Fleet) -> None:
    lines: list[str] = []
    config = PlatformConfig(
        endpoints={"ep": EndpointConfig(command=("/no/such/worker",), workers_min=1)}
    )
    with RunPodPlatform(config, on_log=lambda _e, _w, line: lines.append(line)) as platform:
        until(lambda: lines)
        stopped = until(lambda: [e for e in platform.events if isinstance(e, WorkerStopped)])
    assert "cannot start" in lines[0]
    assert (stopped[0].exit_code, stopped[0].reason) == (127, "crashed")


def test_a_worker_that_crashes_with_a_job_is_restarted_though_the_queue_is_empty(
    fleet: Fleet,
) -> None:
    platform, client = fleet(report_timeout_s=0.5)
    job_id = client.run({"do": "crash"})
    until(lambda: len([w for w in platform.workers("ep") if w.exit_code == 3]) == 1)
    until(lambda: client.health()["workers"]["idle"] == 1)
    assert client.ended(job_id)["status"] == "TIMED_OUT"


def test_stop_pod_replaces_the_worker(fleet: Fleet) -> None:
    platform, client = fleet()
    first = client.runsync({"do": "stopPod"})["output"]["worker"]
    until(lambda: client.health()["workers"]["idle"] == 1)
    assert client.runsync()["output"]["worker"] != first
    reasons = [e.reason for e in platform.events if isinstance(e, WorkerStopped)]
    assert reasons == ["stopPod"]


def test_a_worker_that_ignores_sigterm_is_killed_after_the_grace(fleet: Fleet) -> None:
    platform, client = fleet(env={"MODE": "deaf"}, idle_timeout_s=0.1, stop_grace_s=0.3)
    client.runsync()
    (worker,) = platform.workers("ep")
    until(lambda: platform.workers("ep")[0].exit_code == -signal.SIGKILL)
    assert gone(worker.pid)


def test_the_job_of_a_worker_that_the_platform_kills_fails(fleet: Fleet) -> None:
    platform, client = fleet(env={"MODE": "deaf"}, stop_grace_s=0.2)
    job_id = client.run({"do": "hang"})
    until(lambda: client.status(job_id)["status"] == "IN_PROGRESS")
    platform.stop_worker("ep", live(platform)[0].id)
    assert client.ended(job_id)["status"] == "FAILED"


def test_a_worker_being_stopped_gets_no_job(fleet: Fleet) -> None:
    platform, client = fleet(env={"MODE": "deaf"}, workers_min=1, stop_grace_s=1.0)
    until(lambda: client.health()["workers"]["idle"] == 1)
    (worker,) = live(platform)
    platform.stop_worker("ep", worker.id)
    assert client.runsync()["output"]["worker"] != worker.id


def test_the_race_of_a_job_offered_after_sigterm_can_be_had_on_request(fleet: Fleet) -> None:
    platform, client = fleet(
        env={"MODE": "deaf"},
        workers_min=1,
        workers_max=1,
        stop_grace_s=5.0,
        offer_after_sigterm=True,
    )
    until(lambda: client.health()["workers"]["idle"] == 1)
    (worker,) = live(platform)
    platform.stop_worker("ep", worker.id)
    assert client.runsync()["output"]["worker"] == worker.id


def test_the_cold_start_runs_from_the_process_to_its_first_poll(fleet: Fleet) -> None:
    platform, client = fleet()
    client.runsync()
    (worker,) = platform.workers("ep")
    (event,) = [e for e in platform.events if isinstance(e, WorkerReady)]
    assert worker.cold_start_s == event.cold_start_s
    assert 0 < event.cold_start_s < 10


def test_the_output_of_workers_goes_to_tail_callback_and_file(
    tmp_path: Path, session: requests.Session
) -> None:
    lines: list[tuple[str, str, str]] = []
    config = PlatformConfig(endpoints={"ep": EndpointConfig(command=PLAIN)}, log_dir=tmp_path)
    with RunPodPlatform(config, on_log=lambda *args: lines.append(args)) as platform:
        worker = Client(platform, "ep", session).runsync()["output"]["worker"]
        line = f"worker {worker} starts"
        until(lambda: platform.logs(worker) == (line,))
    assert lines == [("ep", worker, line)]
    assert (tmp_path / f"{worker}.log").read_text() == line + "\n"


def test_the_worker_does_not_inherit_anothers_runpod_variables(
    monkeypatch: pytest.MonkeyPatch, fleet: Fleet
) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "somebody's")
    show = "import os; print(sorted(k for k in os.environ if k.startswith('RUNPOD_')))"
    platform, _ = fleet(command=(sys.executable, "-c", show), workers_min=1)
    log = until(lambda: [line for w in platform.workers("ep") for line in platform.logs(w.id)])
    assert "RUNPOD_API_KEY" not in log[0]
    assert log[0] == str(
        sorted(k for k in platform.worker_environment("ep", "x") if k.startswith("RUNPOD_"))
    )


def test_the_workers_home_is_a_folder_that_ends_with_the_platform(fleet: Fleet) -> None:
    config = PlatformConfig(endpoints={"ep": EndpointConfig()})
    with RunPodPlatform(config) as platform:
        home = Path(platform.worker_environment("ep", "w")["HOME"])
        assert home.is_dir()
        assert not list(home.iterdir())
    assert not home.exists()


def test_close_leaves_no_process_and_no_thread(session: requests.Session) -> None:
    config = PlatformConfig(
        endpoints={
            "ep": EndpointConfig(command=PLAIN, env={"MODE": "child"}, workers_min=2, workers_max=2)
        }
    )
    threads = set(threading.enumerate())
    with RunPodPlatform(config) as platform:
        client = Client(platform, "ep", session)
        until(lambda: client.health()["workers"]["idle"] == 2)
        client.run({"do": "hang"})
        until(lambda: client.health()["workers"]["running"] == 1)
        pids = [w.pid for w in live(platform)]
        children = [
            int(line.split()[1])
            for w in live(platform)
            for line in platform.logs(w.id)
            if line.startswith("child")
        ]
    assert len(children) == 2
    assert all(gone(pid) for pid in pids)
    until(lambda: all(gone(pid) for pid in children))
    assert set(threading.enumerate()) <= threads


SCRIPT = """
import sys, time
from pennyreel_emulators.runpod import EndpointConfig, PlatformConfig, RunPodPlatform
config = PlatformConfig(endpoints={"ep": EndpointConfig(
    command=tuple(sys.argv[1:]), env={"MODE": "child"}, workers_min=1)})
with RunPodPlatform(config) as platform:
    while True:
        for worker in platform.workers("ep"):
            for line in platform.logs(worker.id):
                if line.startswith("child"):
                    print(worker.pid, line.split()[1], flush=True)
                    time.sleep(600)
        time.sleep(0.02)
"""


def test_workers_die_with_a_platform_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *PLAIN],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        worker, child = map(int, process.stdout.readline().split())
        assert not gone(worker)
        os.kill(process.pid, signal.SIGKILL)
    until(lambda: gone(worker) and gone(child))
    until(lambda: not list(tmp_path.iterdir()))


def test_a_platform_whose_port_is_taken_says_so_and_leaves_nothing(fleet: Fleet) -> None:
    platform, _ = fleet()
    threads = set(threading.enumerate())
    second = RunPodPlatform(PlatformConfig(endpoints={"ep": EndpointConfig()}, port=platform.port))
    with pytest.raises(OSError, match="address already in use"):
        second.start()
    assert set(threading.enumerate()) <= threads
    second.close()


def test_a_hundred_jobs_of_four_workers_are_each_completed_once(fleet: Fleet) -> None:
    platform, client = fleet(workers_min=4, workers_max=4)
    started = time.monotonic()
    ids = [client.run() for _ in range(100)]
    served = {client.ended(job_id)["output"]["worker"] for job_id in ids}
    assert len(served) > 1
    assert all(len(platform.posts(job_id)) == 1 for job_id in ids)
    assert time.monotonic() - started < 30


def test_a_worker_gets_this_process_variables_only_where_that_is_wanted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BUCKET_SECRET_ACCESS_KEY", "mine")
    config = PlatformConfig(
        endpoints={
            "open": EndpointConfig(),
            "closed": EndpointConfig(inherit_environment=False, env={"PATH": "/bin"}),
        }
    )
    with RunPodPlatform(config) as platform:
        assert platform._whole_environment("open", "w")["BUCKET_SECRET_ACCESS_KEY"] == "mine"
        closed = platform._whole_environment("closed", "w")
    assert "BUCKET_SECRET_ACCESS_KEY" not in closed
    assert closed["PATH"] == "/bin"
