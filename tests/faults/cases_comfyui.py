"""Faults of the real ComfyUI: killed, stopped, hung, out of memory, poisoned."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil

from faults.case import Case
from faults.commands import faulty
from faults.site import Plan, Site

PLAN = Plan(
    "real",
    {
        "PENNYREEL_STALL_S": "4",
        "WEBSOCKET_RECONNECT_ATTEMPTS": "1",
        "WEBSOCKET_RECONNECT_DELAY_S": "1",
        "PENNYREEL_COMFYUI_START_S": "60",
    },
    s3=True,
)
CHILD = "ComfyUI"
REMEDY = "pennyreel_worker.execution:Execution._remedy"
LIMIT = f"{REMEDY}#limit"
PAID = f"{REMEDY}#paid"
REVIVE = "pennyreel_worker.comfy:Comfy._revive"


def killed_idle(at: Site) -> None:
    at.kill(at.comfyui())
    at.result(at.run(faulty("none"), timeout_s=90))


def killed_in_mid_job(at: Site) -> None:
    job = at.run(faulty("none", seconds=2), timeout_s=90)
    at.kill(at.running())
    at.result(job, again=True)


def killed_twice(at: Site) -> None:
    job = at.run(faulty("kill", 2, tag="twice"), timeout_s=90)
    problem = at.failure(job, "comfy_crashed")
    assert problem.retryable
    assert "SIGKILL" in problem.message
    assert "memory" in f"{problem.message} {problem.hint}"
    assert problem.detail["log"], "the log's tail is told"


def killed_while_delivering(at: Site) -> None:
    held = at.s3.add(lambda m, p, _: m == "PUT" and "made" in p, "hold")
    job = at.run(faulty("none"), outputs={"delivery": "s3"}, timeout_s=90)
    at.until(held.hit.is_set, "the upload has begun")
    at.kill(at.comfyui())
    held.go_on.set()
    at.result(job)


def killed_at_start(at: Site) -> None:
    former = at.comfyui()
    at.kill(former)
    job = at.run(faulty("none"), timeout_s=90)
    at.until(lambda: at.comfyui().pid != former.pid, "it is started anew")
    at.kill(at.comfyui())  # before it answers
    problem = at.failure(job, "comfy_start_failed")
    assert problem.retryable


def stopped_in_mid_job(at: Site) -> None:
    job = at.run(faulty("none", seconds=2), timeout_s=200)
    at.running().send_signal(signal.SIGSTOP)
    at.result(job, again=True)


def hangs_once(at: Site) -> None:
    at.result(at.run(faulty("hang"), timeout_s=60), again=True)


def hangs_always(at: Site) -> None:
    problem = at.failure(at.run(faulty("hang", 9), timeout_s=90), "stalled")
    assert problem.retryable
    assert "node 2" in problem.message


def cannot_be_cancelled(at: Site) -> None:
    job = at.run(faulty("hang", 9, tag="stubborn"))
    before = at.running()
    at.until(lambda: at.runs("stubborn") or None, "the node has begun")
    at.cancel(job)
    at.result(at.run(faulty("none"), timeout_s=90))
    assert at.comfyui().pid != before.pid


def vram_once(at: Site) -> None:
    at.result(at.run(faulty("vram"), timeout_s=60), again=True)


def vram_always(at: Site) -> None:
    problem = at.failure(at.run(faulty("vram", 9, tag="vram")), "out_of_memory")
    assert not problem.retryable
    assert problem.detail["node"] == "2"
    assert at.runs("vram") == 2, "once more after its models were freed, and no more on a CPU"


def ram_once(at: Site) -> None:
    at.result(at.run(faulty("ram"), timeout_s=60), again=True)


def ram_always(at: Site) -> None:
    problem = at.failure(at.run(faulty("memoryerror", 9)), "out_of_memory")
    assert "MemoryError" in problem.message


def kernel_kill(at: Site) -> None:
    at.result(at.run(faulty("kill"), timeout_s=90), again=True)


def poisoned(at: Site) -> None:
    before = at.comfyui().pid
    at.result(at.run(faulty("poison"), timeout_s=90), again=True)
    assert at.comfyui().pid != before


def paid_killed(at: Site) -> None:
    job = at.run(faulty("kill", 9, kind="FaultPaid", tag="paid"), timeout_s=90)
    problem = at.failure(job, "comfy_crashed")
    assert not problem.retryable
    assert at.runs("paid") == 1


def paid_out_of_memory(at: Site) -> None:
    job = at.run(faulty("vram", 9, kind="FaultPaid", tag="paid-vram"), timeout_s=90)
    assert not at.failure(job, "out_of_memory").retryable
    assert at.runs("paid-vram") == 1


def stopped_idle(at: Site) -> None:
    at.good()
    at.comfyui().send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert at.failure(at.run(faulty("none"), timeout_s=5), "comfy_crashed").retryable
    assert time.monotonic() - began < 20, "not as long as a call may take"


def ends_its_thread(at: Site) -> None:
    at.result(at.run(faulty("exit"), timeout_s=90), again=True)


def floods_its_log(at: Site) -> None:
    """The worker's memory stays as it was."""
    at.good()
    worker = psutil.Process(at.worker().pid)
    before = worker.memory_info().rss
    at.result(at.run(faulty("flood"), timeout_s=60))
    status = Path(f"/proc/{worker.pid}/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)) << 10
    assert peak - before < FLOODED, f"{peak - before >> 20} MB more"


FLOODED = 64 << 20
AGAIN = "the right result, by a second run"
CASES = (
    Case(
        "killed while idle", CHILD, "SIGKILL before a job", "the right result", 100, REVIVE,
        killed_idle,
    ),
    Case("killed in mid-job", CHILD, "SIGKILL while a node runs", AGAIN, 100, REMEDY,
         killed_in_mid_job),
    Case(
        "killed twice in one job", CHILD, "SIGKILL in both runs", "`comfy_crashed`, retryable", 100,
        LIMIT, killed_twice,
    ),
    Case(
        "killed while delivering", CHILD, "SIGKILL while the output is uploaded",
        "the right result", 100, REVIVE, killed_while_delivering,
    ),
    Case(
        "killed at its start", CHILD, "SIGKILL before it answers",
        "`comfy_start_failed`, retryable", 100, REVIVE, killed_at_start,
    ),
    Case("stopped", CHILD, "SIGSTOP while a node runs", AGAIN, 210, REMEDY, stopped_in_mid_job),
    Case("stopped while idle", CHILD, "SIGSTOP before a job of 5 s", "`comfy_crashed`, retryable",
         40, "pennyreel_worker.execution:_almost_within", stopped_idle),
    Case("a node ends its thread", CHILD, "sys.exit in a node: it answers, and runs nothing more",
         AGAIN, 100, "pennyreel_comfy.session:Run._check_stall", ends_its_thread),
    Case("a line without an end", "ComfyUI's log", "128 MB without a newline, by a node",
         "the right result, in no more memory", 60, "pennyreel_comfy.process:lines",
         floods_its_log, fresh=True),
    Case("a node hangs", CHILD, "a node that does not end, the first time", AGAIN, 100,
         "pennyreel_comfy.session:Run._check_stall", hangs_once),
    Case("a node always hangs", CHILD, "a node that never ends", "`stalled`, retryable", 100,
         "pennyreel_worker.comfy:Comfy.condemn", hangs_always),
    Case(
        "cannot be cancelled", CHILD, "a cancel, and a node that hears no interrupt",
        "cancelled, and ComfyUI replaced", 60, "pennyreel_worker.comfy:Comfy.condemn",
        cannot_be_cancelled,
    ),
    Case("out of GPU memory once", CHILD, "torch.OutOfMemoryError in a node", AGAIN, 60, REMEDY,
         vram_once),
    Case(
        "out of GPU memory always", CHILD, "torch.OutOfMemoryError in each run",
        "`out_of_memory`", 60, "pennyreel_comfy.session:execution_failure", vram_always,
    ),
    Case(
        "out of RAM once", CHILD, "torch.empty beyond a real RLIMIT_AS", AGAIN, 60, REMEDY,
        ram_once,
    ),
    Case(
        "out of RAM always", CHILD, "a MemoryError by a real RLIMIT_AS, in each run",
        "`out_of_memory`", 60, "pennyreel_comfy.session:execution_failure", ram_always,
    ),
    Case("killed for its memory", CHILD, "SIGKILL by itself, as the kernel does it", AGAIN, 100,
         REMEDY, kernel_kill),
    Case(
        "a poisoned CUDA context", CHILD, "a CUDA error in every node from now on", AGAIN, 100,
        "pennyreel_comfy.session:execution_failure", poisoned,
    ),
    Case(
        "killed with paid nodes", CHILD, "SIGKILL in a graph with API nodes",
        "`comfy_crashed`, not retryable, run once", 100,
        PAID, paid_killed,
    ),
    Case(
        "out of memory with paid nodes", CHILD, "torch.OutOfMemoryError beside API nodes",
        "`out_of_memory`, run once", 100, PAID,
        paid_out_of_memory,
    ),
)  # fmt: skip
