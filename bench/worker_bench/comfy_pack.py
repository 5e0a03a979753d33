"""A node pack, run by ComfyUI itself: a timed job, large files, and a neutral clock.

Both sides of a comparison run this file, so both have the same cost: one line of text for each
executed prompt. Marks are lines of `marks-PID.jsonl` in the folder that holds custom_nodes, with
CLOCK_MONOTONIC, which all processes of a machine share. ComfyUI's own modules and torch only.
"""

import gc
import json
import os
import time
from pathlib import Path

import comfy.utils
import execution
import folder_paths
import torch
from server import PromptServer

PLACE = Path(__file__).resolve().parents[1]
_marks = (PLACE / f"marks-{os.getpid()}.jsonl").open("a", buffering=1, encoding="utf-8")


def _mark(**what):
    _marks.write(json.dumps({"pid": os.getpid(), **what}) + "\n")


_plain_execute = execution.PromptExecutor.execute


def _execute(self, prompt, prompt_id, *args, **kwargs):
    began = time.monotonic()
    try:
        return _plain_execute(self, prompt, prompt_id, *args, **kwargs)
    finally:
        _mark(what="ran", prompt=prompt_id, began=began, ended=time.monotonic())


execution.PromptExecutor.execute = _execute
_plain_collect = gc.collect


def _collect(*args):
    began = time.monotonic()
    try:
        return _plain_collect(*args)
    finally:
        _mark(what="gc", began=began, ended=time.monotonic())


gc.collect = _collect  # ComfyUI calls it between prompts, at most every 10 s
_answered = []


async def _first_answer(_request, response):
    if not _answered and response.status == 200:
        _answered.append(True)
        _mark(what="up", at=time.monotonic())


PromptServer.instance.app.on_response_prepare.append(_first_answer)
_plain_listen = PromptServer.start_multi_address


async def _listen(self, *args, **kwargs):
    await _plain_listen(self, *args, **kwargs)
    _mark(what="listening", at=time.monotonic())


PromptServer.start_multi_address = _listen


class BenchWork:
    """Busy for exactly `seconds`, as a GPU is: the CPU is free meanwhile, steps are reported."""

    CATEGORY, FUNCTION, RETURN_TYPES = "bench", "work", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        """Describe the inputs to ComfyUI."""
        return {
            "required": {
                "seconds": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 600.0, "step": 0.001}),
                "steps": ("INT", {"default": 10, "min": 1, "max": 1000}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**53}),
            }
        }

    def work(self, seconds, steps, seed):
        """Wait, step by step; returns one image of 64x64 whose colour is the seed."""
        began = time.monotonic()
        bar = comfy.utils.ProgressBar(steps)
        for step in range(1, steps + 1):
            time.sleep(max(0.0, began + seconds * step / steps - time.monotonic()))
            bar.update(1)
        colour = torch.tensor([(seed >> shift) & 255 for shift in (0, 8, 16)]) / 255.0
        return (colour.expand(1, 64, 64, 3).clone(),)


class BenchFiles:
    """Put every file of a folder into the job's output as a hard link: large, and at once."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "bench", "save", (), True

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 - ComfyUI's name
        """Describe the inputs to ComfyUI."""
        return {
            "required": {
                "folder": ("STRING", {"default": ""}),
                "most": ("INT", {"default": 1000, "min": 1, "max": 1000}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**53}),
                "filename_prefix": ("STRING", {"default": "bench"}),
            }
        }

    def save(self, folder, most, seed, filename_prefix):
        """Link the first `most` files of a folder in the bench's place."""
        place = folder_paths.get_save_image_path(
            filename_prefix, folder_paths.get_output_directory()
        )
        target, subfolder = Path(place[0]), place[3]
        made = []
        for source in sorted((PLACE / folder).iterdir())[:most]:
            name = f"{seed}-{source.name}"
            (target / name).hardlink_to(source)
            made.append({"filename": name, "subfolder": subfolder, "type": "output"})
        return {"ui": {"files": made}}


NODE_CLASS_MAPPINGS = {"BenchWork": BenchWork, "BenchFiles": BenchFiles}
