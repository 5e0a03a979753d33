"""Requests as the stock worker's users send them: its examples' nodes and links, our own words.

The pictures are small and of few steps, since the tests run them on a CPU.
"""

from __future__ import annotations

import base64
from typing import Any

from fakes.comfyui import PNG

IMAGE = base64.b64encode(PNG).decode()
CHECKPOINTS = (
    "flux1-dev-fp8.safetensors",
    "sd3_medium_incl_clips_t5xxlfp8.safetensors",
    "sd_xl_turbo_1.0_fp16.safetensors",
)
NO_BASE64 = "abcde"  # one character more than a multiple of four


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def _sampled(
    checkpoint: str, latent: str = "EmptyLatentImage", prefix: str = "ComfyUI", **sampler: Any
) -> dict[str, Any]:
    """Checkpoint, two texts, an empty latent, a sampler, a decoder and a saver."""
    settings = {"seed": 243, "steps": 2, "cfg": 1, "sampler_name": "euler", "scheduler": "simple"}
    links = {"model": ["30", 0], "positive": ["6", 0], "negative": ["33", 0]}
    return {
        "6": node("CLIPTextEncode", text="a lighthouse in the snow", clip=["30", 1]),
        "8": node("VAEDecode", samples=["31", 0], vae=["30", 2]),
        "9": node("SaveImage", filename_prefix=prefix, images=["8", 0]),
        "27": node(latent, width=64, height=64, batch_size=1),
        "30": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "31": node(
            "KSampler", latent_image=["27", 0], denoise=1, **{**settings, **links, **sampler}
        ),
        "33": node("CLIPTextEncode", text="", clip=["30", 1]),
    }


def _flux() -> dict[str, Any]:
    graph = _sampled(CHECKPOINTS[0], "EmptySD3LatentImage", positive=["35", 0])
    return {**graph, "35": node("FluxGuidance", guidance=3.5, conditioning=["6", 0])}


def _parts(unet: str) -> dict[str, Any]:
    """Flux of four files and the custom sampler."""
    return {
        "5": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "6": node("CLIPTextEncode", text="a lighthouse in the snow", clip=["11", 0]),
        "8": node("VAEDecode", samples=["13", 0], vae=["10", 0]),
        "9": node("SaveImage", filename_prefix="ComfyUI", images=["8", 0]),
        "10": node("VAELoader", vae_name="ae.safetensors"),
        "11": node(
            "DualCLIPLoader",
            clip_name1="t5xxl_fp8_e4m3fn.safetensors",
            clip_name2="clip_l.safetensors",
            type="flux",
        ),
        "12": node("UNETLoader", unet_name=unet, weight_dtype="fp8_e4m3fn"),
        "13": node(
            "SamplerCustomAdvanced",
            noise=["25", 0],
            guider=["22", 0],
            sampler=["16", 0],
            sigmas=["17", 0],
            latent_image=["5", 0],
        ),
        "16": node("KSamplerSelect", sampler_name="euler"),
        "17": node("BasicScheduler", scheduler="sgm_uniform", steps=4, denoise=1, model=["12", 0]),
        "22": node("BasicGuider", model=["12", 0], conditioning=["6", 0]),
        "25": node("RandomNoise", noise_seed=108),
    }


def _with_image() -> dict[str, Any]:
    twice = {"38": node("PreviewImage", images=["8", 0]), "40": _flux()["9"]}
    pair = {"name": "test.png", "image": f"data:image/png;base64,{IMAGE}"}
    return {"images": [pair], "workflow": {**_flux(), **twice}}


def _sd3() -> dict[str, Any]:
    sampler = {"sampler_name": "dpmpp_2m", "scheduler": "sgm_uniform", "model": ["13", 0]}
    graph = _sampled(CHECKPOINTS[1], "EmptySD3LatentImage", "sd3/sd3", **sampler)
    return {**graph, "13": node("ModelSamplingSD3", shift=3, model=["30", 0])}


def _webp() -> dict[str, Any]:
    graph = _sampled(CHECKPOINTS[2])
    named = {"output_path": "here", "filename_prefix": "a", "extension": "webp", "quality": 10}
    return {**graph, "9": node("Image Save", images=["8", 0], **named)}


EXAMPLES: dict[str, dict[str, Any]] = {
    "flux checkpoint with an unused image": _with_image(),
    "flux checkpoint": {"workflow": _flux()},
    "sd3": {"workflow": _sd3()},
    "sdxl turbo": {
        "workflow": _sampled(
            CHECKPOINTS[2], prefix="images/rome", sampler_name="euler_ancestral", scheduler="normal"
        )
    },
    "flux dev in parts": {"workflow": _parts("flux1-dev.safetensors")},
    "flux schnell in parts": {"workflow": _parts("flux1-schnell.safetensors")},
    "webp by a node pack": {"workflow": _webp()},
}


def _empty(**inputs: Any) -> dict[str, Any]:
    return node("EmptyImage", **{"width": 16, "height": 16, "batch_size": 1, "color": 7, **inputs})


def _saved(prefix: str = "x", **inputs: Any) -> dict[str, Any]:
    save = node("SaveImage", images=["1", 0], filename_prefix=prefix)
    return {"1": _empty(**inputs), "2": save}


def _loaded(*images: tuple[str, str]) -> dict[str, Any]:
    graph = {**_saved(), "1": node("LoadImage", image="in.png")}
    return {"workflow": graph, "images": [{"name": n, "image": i} for n, i in images]}


def _failing_beside() -> dict[str, Any]:
    """A picture, and a node that fails after it: three channels have no alpha."""
    fails = {
        "3": node("ImageToMask", image=["1", 0], channel="alpha"),
        "4": node("MaskToImage", mask=["3", 0]),
        "5": node("SaveImage", images=["4", 0], filename_prefix="y"),
    }
    return {**_saved(), **fails}


_ANIMATED = {"fps": 6.0, "lossless": True, "quality": 80, "method": "default"}

# Not here: an input that is no object. The platform refuses it; test_stock.py has those.
OTHERS: dict[str, dict[str, Any]] = {
    "batch in a folder": {"workflow": _saved("sub/x", batch_size=3)},
    "input image": _loaded(("in.png", IMAGE)),
    "input image as data uri": _loaded(("in.png", f"data:image/png;base64,{IMAGE}")),
    "input image with line breaks": _loaded(("in.png", f"{IMAGE[:20]}\n{IMAGE[20:]}\n")),
    "input image with blanks": _loaded(("in.png", f" {IMAGE[:20]} !{IMAGE[20:]}")),
    "empty input image that nobody reads": {
        "workflow": _saved(),
        "images": [{"name": "in.png", "image": ""}],
    },
    "preview beside": {"workflow": {**_saved(), "3": node("PreviewImage", images=["1", 0])}},
    "nothing but a preview": {
        "workflow": {"1": _empty(), "2": node("PreviewImage", images=["1", 0])}
    },
    "animated webp": {
        "workflow": {
            "1": _empty(batch_size=3),
            "2": node("SaveAnimatedWEBP", images=["1", 0], filename_prefix="a", **_ANIMATED),
        }
    },
    "mp4": {
        "workflow": {
            "1": _empty(batch_size=3, width=64, height=64),
            "2": node("CreateVideo", images=["1", 0], fps=8.0),
            "3": node("SaveVideo", video=["2", 0], filename_prefix="v", format="mp4", codec="h264"),
        }
    },
    "no workflow": {"images": []},
    "images of no list": {"workflow": _saved(), "images": "x"},
    "image without a key": {"workflow": _saved(), "images": [{"name": "a.png"}]},
    "image that is no base64": _loaded(("in.png", NO_BASE64)),
    "two images that are no base64": _loaded(
        ("in.png", NO_BASE64), ("b.png", NO_BASE64), ("c.png", IMAGE)
    ),
    "image that is no picture": _loaded(("in.png", "aGVsbG8=")),
    "image that was not sent": {**_loaded(), "images": None},
    "unknown node": {"workflow": {"1": node("NoSuchNode")}},
    "missing model": {
        "workflow": {
            "4": node("CheckpointLoaderSimple", ckpt_name="no.safetensors"),
            "5": node("VAEDecode", samples=["6", 0], vae=["4", 2]),
            "6": node("EmptyLatentImage", width=64, height=64, batch_size=1),
            "7": node("SaveImage", images=["5", 0], filename_prefix="y"),
        }
    },
    "wrong type": {"workflow": _saved(width="wide")},
    "out of range": {"workflow": _saved(width=0)},
    "missing link": {"workflow": {**_saved(), "2": node("SaveImage", filename_prefix="x")}},
    "no output node": {"workflow": {"1": _empty()}},
    "picture before a node fails": {"workflow": _failing_beside()},
}
