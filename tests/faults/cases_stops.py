"""The worker told to stop, or killed, at any moment. ComfyUI is scripted."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from faults.case import Case
from faults.commands import saved, sleeping
from faults.site import ENDPOINT, Plan, Site

PLAN = Plan(
    env={
        "PENNYREEL_DRAIN_S": "3",
        "PENNYREEL_COMFYUI_START_S": "60",
        "PENNYREEL_LEAD_S": "60",  # the second job is asked for as early as can be
    }
)
WORKER = "the worker"


def stop(at: Site) -> str:
    """SIGTERM to the worker, as the platform sends it; returns the worker's id."""
    worker = at.worker().id
    at.platform.stop_worker(ENDPOINT, worker)
    return str(worker)


def ends_well(at: Site, worker: str) -> None:
    """It ends by itself, not by the platform's SIGKILL, and ComfyUI with it."""
    assert at.exit_code(worker) == 0


def idle(at: Site) -> None:
    began = time.monotonic()
    ends_well(at, stop(at))
    assert time.monotonic() - began < 8


def drains(at: Site) -> None:
    job = at.run(sleeping(2))
    at.running()
    worker = stop(at)
    at.result(job)
    ends_well(at, worker)


def cannot_drain(at: Site) -> None:
    job = at.run(sleeping(60))
    at.running()
    worker = stop(at)
    assert at.failure(job, "worker_stopping").retryable
    ends_well(at, worker)


def with_a_second_job(at: Site) -> None:
    """One job on the GPU and one that waits for it: neither is lost."""
    first, second = at.run(sleeping(3)), at.run(sleeping(60))
    at.until(
        lambda: (
            {at.call("GET", f"status/{j}")["status"] for j in (first, second)} == {"IN_PROGRESS"}
        ),
        "the worker holds both",
    )
    worker = stop(at)
    at.result(first)
    assert at.failure(second, "worker_stopping").retryable
    ends_well(at, worker)


def with_comfyui_stopped(at: Site) -> None:
    at.good()
    at.comfyui().send_signal(signal.SIGSTOP)
    job = at.run(saved())
    at.until(lambda: at.progress(job), "the worker has it")
    worker = stop(at)
    assert at.failure(job, "worker_stopping").retryable
    ends_well(at, worker)


def with_a_file_that_hangs(at: Site) -> None:
    """Nothing ends such a call, but the job is not lost in silence."""
    worker = at.worker()
    job = at.run(**at.hang())
    at.until(lambda: at.progress(job), "the worker has it")
    os.kill(worker.pid, signal.SIGTERM)
    assert at.failure(job, "worker_stopping").retryable
    at.exit_code(worker.id)


def while_starting(at: Site) -> None:
    at.how.write_text("slow")
    at.exit_code(stop(at))
    at.until(lambda: any(w.state == "initializing" for w in at.living()), "the next one starts")
    at.until(lambda: at.comfyui(), "its ComfyUI starts")
    job = at.run(saved())
    began = time.monotonic()
    starting = stop(at)
    at.how.write_text("good")
    at.exit_code(starting)
    took = time.monotonic() - began
    assert took < 8, f"it took {took:.1f} s to leave"
    at.result(job)


def handed_out_late(at: Site) -> None:
    at.platform.configure(ENDPOINT, offer_after_sigterm=True)
    try:
        worker = at.worker().id
        os.kill(at.worker().pid, signal.SIGTERM)
        job = at.run(saved())
        assert at.failure(job, "worker_stopping").retryable
        assert at.exit_code(worker) == 0
    finally:
        at.platform.configure(ENDPOINT, offer_after_sigterm=False)


@contextmanager
def by_hand(at: Site) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that no platform cleans up after."""
    worker = at.worker().id  # before the next line, after which there may be none any more
    at.platform.configure(ENDPOINT, workers_min=0, workers_max=0)
    at.platform.stop_worker(ENDPOINT, worker)
    at.exit_code(worker)
    env = at.environment(f"by-hand-{time.monotonic_ns()}")
    with subprocess.Popen(at.command, env=env, stdin=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()
            at.platform.configure(ENDPOINT, workers_min=1, workers_max=1)
    at.worker()


def killed(at: Site, process: subprocess.Popen[bytes]) -> None:
    """SIGKILL: all that it has started ends by itself."""
    # Its folders go with the container's disk.
    at.killed |= {p.name for p in at.work.iterdir()}
    process.kill()
    at.until(lambda: not at.processes(), "ComfyUI and the pings end with it")


def killed_idle(at: Site) -> None:
    with by_hand(at) as process:
        at.result(at.run(saved()))
        killed(at, process)


def killed_in_mid_job(at: Site) -> None:
    with by_hand(at) as process:
        job = at.run(sleeping(4))
        at.until(lambda: at.progress(job) or None, "it works on the job")
        killed(at, process)
    assert at.ended(job)["status"] == "TIMED_OUT"
    at.call("POST", f"retry/{job}")
    at.result(job)


DRAIN = "pennyreel_worker.loop:Scaler._drain"
GIVE_UP = "pennyreel_worker.app:Worker.give_up"
CASES = (
    Case("told to stop while idle", WORKER, "SIGTERM", "it leaves at once, with 0", 30,
         "pennyreel_worker.loop:Scaler._signalled", idle),
    Case("told to stop in mid-job", WORKER, "SIGTERM 2 s before the job's end",
         "the right result, then it leaves", 30, DRAIN, drains),
    Case("told to stop in a long job", WORKER, "SIGTERM a minute before the job's end",
         "`worker_stopping`, retryable, after PENNYREEL_DRAIN_S", 30, GIVE_UP, cannot_drain),
    Case("told to stop with two jobs", WORKER, "SIGTERM, one job running and one waiting",
         "the right result of one, `worker_stopping` of the other", 40, GIVE_UP,
         with_a_second_job),
    Case("told to stop with ComfyUI stopped", "the worker, ComfyUI",
         "SIGSTOP to the one, SIGTERM to the other", "`worker_stopping`, retryable", 30,
         "pennyreel_worker.execution:_almost_within", with_comfyui_stopped),
    Case("told to stop with a file that hangs", WORKER, "SIGTERM while a job reads a FIFO",
         "`worker_stopping`, retryable", 60, "pennyreel_worker.loop:Scaler._cut_off",
         with_a_file_that_hangs, long=True),
    Case("told to stop while starting", WORKER, "SIGTERM before ComfyUI answers",
         "it leaves at once; the job is the next worker's", 60,
         "pennyreel_comfy.waiting:CancelToken.cancel", while_starting),
    Case("a job comes late", WORKER, "SIGTERM, then a job on the poll that was open",
         "`worker_stopping`, retryable", 30, "pennyreel_worker.loop:Scaler._refuse",
         handed_out_late),
    Case("the worker is killed while idle", WORKER, "SIGKILL, and no platform that cleans up",
         "ComfyUI and the SDK's pings end, too", 40,
         "pennyreel_worker.lifecycle:_end_forks_with_us", killed_idle, fresh=True),
    Case("the worker is killed in mid-job", WORKER, "SIGKILL, and no platform that cleans up",
         "ComfyUI ends, too; the platform's retry has the right result", 40,
         "pennyreel_worker.comfy:_tied", killed_in_mid_job, fresh=True),
)  # fmt: skip
