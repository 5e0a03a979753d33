"""Graphs of the benches. Each has a seed of its own, so that ComfyUI's cache answers nothing."""

from __future__ import annotations

import itertools
from typing import Any

Graph = dict[str, Any]
_seeds = itertools.count(1)
TINY = "pennyreel_tiny_sd15.safetensors"


def work(seconds: float) -> Graph:
    """Busy for `seconds` in steps of at most 0.1 s, then one image of 64x64 in one colour."""
    steps = max(4, round(seconds / 0.1))
    seed = next(_seeds)
    return {
        "1": _node("BenchWork", seconds=seconds, steps=steps, seed=seed),
        "2": _node("SaveImage", images=["1", 0], filename_prefix="bench"),
    }


def tiny() -> Graph:
    """As little as ComfyUI can be asked for: one image of 16x16."""
    return {
        "1": _node("EmptyImage", width=16, height=16, batch_size=1, color=next(_seeds)),
        "2": _node("SaveImage", images=["1", 0], filename_prefix="bench"),
    }


def files(folder: str, most: int) -> Graph:
    """The files of `folder`, in the bench's place, as outputs."""
    inputs = {"folder": folder, "most": most, "seed": next(_seeds), "filename_prefix": "bench"}
    return {"1": _node("BenchFiles", **inputs)}


def sampler(steps: int) -> Graph:
    """A KSampler on the SD1.5 of random weights that tests/programs/make_tiny_models.py makes."""
    return {
        "1": _node("CheckpointLoaderSimple", ckpt_name=TINY),
        "2": _node("CLIPTextEncode", text="a paper boat", clip=["1", 1]),
        "3": _node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "4": _node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["2", 0],
            latent_image=["3", 0],
            seed=next(_seeds),
            steps=steps,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "5": _node("VAEDecode", samples=["4", 0], vae=["1", 2]),
        "6": _node("SaveImage", images=["5", 0], filename_prefix="bench"),
    }


def _node(class_type: str, **inputs: Any) -> Graph:
    return {"class_type": class_type, "inputs": inputs}
