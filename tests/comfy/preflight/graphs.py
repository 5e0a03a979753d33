"""Small graphs for the tests of the preflight, each new, so that a test may spoil it."""

from __future__ import annotations

from typing import Any

from pennyreel_comfy.preflight import Finding, NodeCatalogue
from pennyreel_contract import Code

Graph = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """Return one node."""
    return {"class_type": class_type, "inputs": inputs}


def image() -> Graph:
    """One pixel, made larger and saved."""
    return {
        "1": node("EmptyImage", width=1, height=1, batch_size=1, color=7),
        "2": node(
            "ImageScale",
            image=["1", 0],
            upscale_method="bilinear",
            width=2,
            height=2,
            crop="disabled",
        ),
        "3": node("SaveImage", images=["2", 0], filename_prefix="x"),
    }


def two_outputs() -> Graph:
    """Two images with nothing in common, each saved."""
    more = {
        "4": node("EmptyImage", width=1, height=1, batch_size=1, color=8),
        "5": node("PreviewImage", images=["4", 0]),
    }
    return {**image(), **more}


def text() -> Graph:
    """Two texts, joined and shown."""
    return {
        "1": node("PrimitiveString", value="a"),
        "2": node("StringConcatenate", string_a=["1", 0], string_b="b", delimiter="/"),
        "3": node("PreviewAny", source=["2", 0]),
    }


def mask() -> Graph:
    """A mask as an image, shown."""
    return {
        "1": node("SolidMask", value=0.5, width=2, height=2),
        "2": node("MaskToImage", mask=["1", 0]),
        "3": node("PreviewImage", images=["2", 0]),
    }


def latent() -> Graph:
    """An empty latent, made larger and saved."""
    return {
        "1": node("EmptyLatentImage", width=16, height=16, batch_size=1),
        "2": node(
            "LatentUpscale",
            samples=["1", 0],
            upscale_method="area",
            width=32,
            height=32,
            crop="center",
        ),
        "3": node("SaveLatent", samples=["2", 0], filename_prefix="x"),
    }


def diffusion(model: str) -> Graph:
    """One step of SD1.5."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=model),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a cat"),
        "3": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "4": node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["2", 0],
            latent_image=["3", 0],
            seed=1,
            steps=1,
            cfg=1.0,
            sampler_name="euler",
            scheduler="normal",
            denoise=1.0,
        ),
        "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
        "6": node("SaveImage", images=["5", 0], filename_prefix="x"),
    }


def fails_in_the_run(found: Finding, live: NodeCatalogue) -> bool:
    """Tell whether ComfyUI may accept the graph all the same, and then hangs or fails."""
    spec = live.get(found.class_type)
    if spec is None or found.input is None:
        return False
    declared = spec.inputs.get(found.input)
    if found.code is Code.MISSING_MODEL:
        return declared is not None and not declared.listed
    return declared is None or found.type == "dependency_cycle"
