"""ComfyUI that does not start, or has too little memory as it is. It is scripted."""

from __future__ import annotations

from faults.case import Case
from faults.commands import node, saved
from faults.site import ENDPOINT, Plan, Site

PLAN = Plan(
    env={
        "PENNYREEL_COMFYUI_START_S": "3",
        "PENNYREEL_DRAIN_S": "3",
        "PENNYREEL_LEAD_S": "60",  # the second job is asked for as early as can be
        "PENNYREEL_COMFYUI_OPTIONS": '["--highvram"]',
    },
    device="cuda",
)
CHILD = "ComfyUI"


def exits_once(at: Site) -> None:
    at.how.write_text("once")
    at.kill(at.comfyui())
    problem = at.failure(at.run(saved()), "comfy_start_failed")
    assert problem.retryable
    assert "told to exit at the start" in str(problem.detail["log"])


def exits_at_first(at: Site) -> None:
    at.how.write_text("once")
    at.replace_worker()
    at.result(at.run(saved()))


def hangs_once(at: Site) -> None:
    at.how.write_text("hang")
    at.kill(at.comfyui())
    job = at.run(saved())
    assert "3 s" in at.failure(job, "comfy_start_failed").message
    at.how.write_text("good")


def never_starts(at: Site) -> None:
    worker = at.worker().id
    at.how.write_text("exit")
    at.kill(at.comfyui())
    first, second = at.run(saved()), at.run(saved())
    at.failure(first, "comfy_start_failed")
    at.failure(second, "comfy_start_failed")
    replaced(at, worker)


def replaced(at: Site, worker: str) -> None:
    """It leaves, and the platform starts another one."""
    at.how.write_text("good")
    at.exit_code(worker)
    (ended,) = [w for w in at.platform.workers(ENDPOINT) if w.id == worker]
    assert ended.reason == "stopPod"
    assert at.worker().id != worker


def small_memory(at: Site) -> None:
    job = at.run(saved(a=node("FakeMemory")))
    result = at.result(job, again=True)
    assert "low-memory mode" in " ".join(result.warnings)
    assert "--lowvram" in at.comfyui().cmdline()


def two_modes(at: Site) -> None:
    at.good()
    assert "--highvram" in at.comfyui().cmdline()
    # Of another kind than the case before: jobs of that one may be in the low-memory mode already.
    at.result(at.run(saved(b=node("FakeMemory"))), again=True)
    assert "--highvram" not in at.comfyui().cmdline()


def crashes_always(at: Site) -> None:
    worker = at.worker().id
    for _ in range(3):
        at.failure(at.run(saved(a=node("FakeCrash"))), "comfy_crashed")
    replaced(at, worker)


BREAKS = "pennyreel_worker.app:Worker.breaks"
CASES = (
    Case("its start fails once", CHILD, "exit at its start, the first time after a kill",
         "`comfy_start_failed`, retryable", 30, "pennyreel_worker.comfy:Comfy._revive",
         exits_once),
    Case("its first start fails", CHILD, "exit at the worker's own start, once",
         "the right result", 40, "pennyreel_worker.comfy:Comfy._revive", exits_at_first),
    Case("it hangs at its start", CHILD, "no answer within PENNYREEL_COMFYUI_START_S",
         "`comfy_start_failed`, retryable", 20, "pennyreel_comfy.process:ComfyProcess._too_slow",
         hangs_once),
    Case("it never starts again", CHILD, "SIGKILL, and exit at each start",
         "`comfy_start_failed`, twice, then the worker is replaced", 40, BREAKS, never_starts),
    Case("out of GPU memory until --lowvram", CHILD, "a node without memory in the normal mode",
         "the right result, in the low-memory mode", 30, "pennyreel_worker.comfy:Comfy.shrink",
         small_memory),
    Case("out of GPU memory with --highvram", CHILD, "the same, and a mode that excludes the other",
         "the right result, in the low-memory mode", 30, "pennyreel_worker.comfy:Comfy._in_mode",
         two_modes),
    Case("it crashes in job after job", CHILD, "it exits in each run of three jobs",
         "`comfy_crashed`, and the worker is replaced", 60, "pennyreel_worker.app:Worker._judge",
         crashes_always),
)  # fmt: skip
