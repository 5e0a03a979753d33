"""A real file system of 64 MB as the worker's disk, really filled. ComfyUI is the real one."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from faults.case import Case
from faults.commands import faulty, node
from faults.site import ENDPOINT, Plan, Site

SIZE = 64 << 20
PLAN = Plan(
    "real",
    {"PENNYREEL_LEAST_FREE_BYTES": str(16 << 20), "PENNYREEL_COMFYUI_START_S": "60"},
    disk_bytes=SIZE,
)
DISK = "the worker's disk"


def too_large(at: Site) -> None:
    """Its outputs do not fit, and are gone with the job: the worker goes on."""
    graph = {
        "1": node("FaultNoise", size=6000),
        "2": node("SaveImage", images=["1", 0], filename_prefix="made"),
    }
    worker = at.worker().id
    assert at.failure(at.run(graph), "disk_full").retryable
    assert at.worker().id == worker


@contextmanager
def filled(at: Site) -> Iterator[None]:
    """Fill the disk to its last byte."""
    filler = at.work / "filler"
    try:
        with filler.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(1 << 20)):
                pass
        assert shutil.disk_usage(at.work).free == 0
        yield
    finally:
        filler.unlink()


def full(at: Site) -> None:
    """Somebody else has filled it: the worker has to be replaced."""
    worker = at.worker().id
    with filled(at):
        at.failure(at.run(faulty("none", 0)), "disk_full")
    at.exit_code(worker)
    (ended,) = [w for w in at.platform.workers(ENDPOINT) if w.id == worker]
    assert ended.reason == "stopPod"


def full_for_inputs(at: Site) -> None:
    worker = at.worker().id
    data = base64.b64encode(os.urandom(1 << 16)).decode()
    with filled(at):
        at.failure(at.run(faulty("none", 0), inputs=[{"name": "a.bin", "data": data}]), "disk_full")
    at.exit_code(worker)


def hangs(at: Site) -> None:
    worker = at.worker().id
    at.failure(at.run(**at.hang(), timeout_s=3), "timeout")
    at.exit_code(worker)


CASES = (
    Case("a job is too large for it", DISK, "filled by SaveImage", "`disk_full`, retryable", 60,
         "pennyreel_comfy.session:execution_failure", too_large),
    Case("it is full", DISK, "filled by another program",
         "`disk_full`, and the worker is replaced", 30, "pennyreel_worker.app:Worker.breaks",
         full),
    Case("it is full of inputs", DISK, "filled by another program, before an input comes",
         "`disk_full`, and the worker is replaced", 30, "pennyreel_worker.app:Worker.breaks",
         full_for_inputs),
    Case("a file hangs", "a file", "a FIFO that nobody writes, as on a volume that hangs",
         "`timeout`, and the worker is replaced", 60, "pennyreel_worker.app:Worker._patience_s",
         hangs),
)  # fmt: skip
