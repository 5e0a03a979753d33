"""A node pack whose nodes fail on purpose. It is copied into a folder of custom nodes.

Each run of a node adds a line to runs/TAG beside this file; it fails in its first `times` runs.
Standard library, torch and ComfyUI only.
"""

import gc
import os
import resource
import signal
import sys
import time
from pathlib import Path

import comfy.model_management
import torch
from comfy.utils import ProgressBar

RUNS = Path(__file__).parent / "runs"
RUNS.mkdir(exist_ok=True)
_poisoned = []
FLOOD = 128 << 20


def _runs(tag):
    with (RUNS / tag).open("a+") as file:
        file.write("x\n")
        file.flush()
        file.seek(0)
        return len(file.readlines())


def _within(more, allocate):
    """Allocate with the process's address space really limited to `more` bytes above its size."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    former = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + more, former[1]))
    try:
        allocate()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, former)


def _fail(what):
    if what == "vram":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    if what == "ram":
        _within(64 << 20, lambda: torch.empty(1 << 30, dtype=torch.uint8))
    if what == "memoryerror":
        _within(64 << 20, lambda: bytearray(1 << 30))
    if what == "poison":
        _poisoned.append(True)
    if what == "kill":  # as the kernel does when there is no memory left
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":  # ComfyUI's own thread for prompts ends with it
        sys.exit()
    if what == "flood":  # a line without an end
        for _ in range(FLOOD >> 20):
            os.write(1, b"x" * (1 << 20))
    if what == "hang":
        time.sleep(600)


class Fault:
    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {
            "required": {
                "image": ("IMAGE",),
                "what": ("STRING", {"default": "none"}),
                "times": ("INT", {"default": 0, "min": 0, "max": 1000}),
                "tag": ("STRING", {"default": "x"}),
                "seconds": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 600.0}),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "faults"

    @classmethod
    def IS_CHANGED(cls, **_):  # noqa: N802 - ComfyUI's name
        return float("nan")

    def run(self, image, what, times, tag, seconds):
        steps = max(1, int(seconds / 0.1))
        bar = ProgressBar(steps)
        count = _runs(tag)
        for _ in range(steps if seconds else 0):
            comfy.model_management.throw_exception_if_processing_interrupted()
            bar.update(1)
            time.sleep(0.1)
        if count <= times:
            _fail(what)
        if _poisoned:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return (image,)


class FaultPaid(Fault):
    API_NODE = True


class FaultNoise:
    """An image that no PNG makes smaller."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        return {"required": {"size": ("INT", {"default": 64, "min": 1, "max": 8192})}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "run"
    CATEGORY = "faults"

    @classmethod
    def IS_CHANGED(cls, **_):  # noqa: N802 - ComfyUI's name
        return float("nan")

    def run(self, size):
        return (torch.rand(1, size, size, 3),)


NODE_CLASS_MAPPINGS = {"Fault": Fault, "FaultPaid": FaultPaid, "FaultNoise": FaultNoise}
