"""Make models of random weights that ComfyUI's real nodes accept, to run real samplers on a CPU.

    <ComfyUI's python> make_tiny_models.py COMFY_DIR [sd15] [sd15-animatediff] [motion-v3] [sdxl]

It writes the named ones (all, if none is named) under COMFY_DIR/models and prints a line for each;
what is there already is left as it is. The weights are the same on every run.

    sd15               479 MiB  two levels only: the fastest that CheckpointLoaderSimple takes
    sd15-animatediff   1.7 GiB  the layout of levels and blocks that AnimateDiff needs
    motion-v3          0.8 GiB  told to be v3 by its lack of a middle block and 32 positions
    sdxl               2.3 GiB  transformer depths 0, 0, 2, 2, 10, 10: what tells an SDXL

What the pictures show is noise. What they prove is that nodes, links and names are right.
"""

# ruff: noqa: T201 - a program that prints

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FILES = {
    "sd15": "checkpoints/pennyreel_tiny_sd15.safetensors",
    "sd15-animatediff": "checkpoints/pennyreel_tiny_sd15_animatediff.safetensors",
    "motion-v3": "animatediff_models/pennyreel_tiny_motion_v3.safetensors",
    "sdxl": "checkpoints/pennyreel_tiny_sdxl.safetensors",
}

Weights = dict[str, Any]
Shape = tuple[int, ...]

_BIG_CLIP = "conditioner.embedders.1.model."
_BIG_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}


def main() -> int:
    """Make what the command line names."""
    if len(sys.argv) < 2 or not (Path(sys.argv[1]) / "comfy").is_dir():
        print(__doc__)
        return 2
    folder = Path(sys.argv[1]).resolve()
    wanted = sys.argv[2:] or list(FILES)
    unknown = [name for name in wanted if name not in FILES]
    if unknown:
        print(f"no such model: {', '.join(unknown)}; there are {', '.join(FILES)}")
        return 2
    missing = [name for name in wanted if not (folder / "models" / FILES[name]).exists()]
    if missing:
        # ComfyUI reads its own options from sys.argv when it is imported.
        sys.argv = [sys.argv[0], "--cpu"]
        sys.path.insert(0, str(folder))
        make(folder, missing)
    for name in wanted:
        print(f"{name}\t{FILES[name]}\t{(folder / 'models' / FILES[name]).stat().st_size} bytes")
    return 0


def make(folder: Path, names: list[str]) -> None:
    """Make models with ComfyUI's own classes, which know the names and shapes of their weights."""
    import comfy.options

    comfy.options.enable_args_parsing()
    from safetensors.torch import save_file

    makers: dict[str, Callable[[Path], Weights]] = {
        "sd15": _sd15,
        "sd15-animatediff": _sd15_animatediff,
        "motion-v3": _motion_v3,
        "sdxl": _sdxl,
    }
    for number, name in enumerate(names):
        _seed(number)
        path = folder / "models" / FILES[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")  # two may make it at once
        save_file({key: value.contiguous() for key, value in makers[name](folder).items()}, part)
        os.replace(part, path)  # noqa: PTH105 - the same, and atomic by its name


def _seed(number: int) -> None:
    import torch

    torch.manual_seed(number)


def _random(name: str, shape: Shape) -> Any:
    """Return weights that keep the size of what passes through: no overflow in half precision."""
    import torch

    if name.endswith("bias"):
        return torch.zeros(shape, dtype=torch.float16)
    if len(shape) <= 1:
        return torch.ones(shape, dtype=torch.float16)  # a norm
    return (torch.randn(shape) * (0.5 / math.sqrt(math.prod(shape[1:]) or 1))).half()


def _filled(module: Any, prefix: str) -> Weights:
    return {
        prefix + name: _random(name, tuple(value.shape))
        for name, value in module.state_dict().items()
    }


def _unet(**layout: Any) -> Weights:
    import comfy.ops
    import torch
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    with torch.device("meta"):
        module = UNetModel(
            image_size=32,
            in_channels=4,
            out_channels=4,
            model_channels=320,
            use_spatial_transformer=True,
            legacy=False,
            operations=comfy.ops.disable_weight_init,
            dtype=torch.float16,
            **layout,
        )
    return _filled(module, "model.diffusion_model.")


def _vae() -> Weights:
    import torch
    from comfy.ldm.models.autoencoder import AutoencoderKL

    layout = {
        "double_z": True,
        "z_channels": 4,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": 128,
        "ch_mult": [1, 2, 4, 4],
        "num_res_blocks": 2,
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    with torch.device("meta"):
        module = AutoencoderKL(ddconfig=layout, embed_dim=4)
    return _filled(module, "first_stage_model.")


def _clip(folder: Path, config: str, prefix: str) -> Weights:
    import comfy.clip_model
    import comfy.ops
    import torch

    layout = json.loads((folder / "comfy" / config).read_text("utf-8"))
    with torch.device("meta"):
        module = comfy.clip_model.CLIPTextModel(
            layout, torch.float16, "meta", comfy.ops.disable_weight_init
        )
    weights = _filled(module, prefix)
    return {name: value for name, value in weights.items() if "text_projection" not in name}


def _small_clip(folder: Path, prefix: str) -> Weights:
    return _clip(folder, "sd1_clip_config.json", prefix)


def _sd15(folder: Path) -> Weights:
    unet = _unet(
        num_res_blocks=[1, 1],
        channel_mult=(1, 1),
        transformer_depth=[1, 1],
        transformer_depth_middle=1,
        transformer_depth_output=[1, 1, 1, 1],
        context_dim=768,
        num_heads=8,
    )
    return {**unet, **_vae(), **_small_clip(folder, "cond_stage_model.transformer.")}


def _sd15_animatediff(folder: Path) -> Weights:
    unet = _unet(
        num_res_blocks=[2, 2, 2, 2],
        channel_mult=(1, 2, 4, 4),
        transformer_depth=[1, 1, 0, 0, 0, 0, 0, 0],
        transformer_depth_middle=-1,
        transformer_depth_output=[0] * 9 + [1, 1, 1],
        context_dim=768,
        num_heads=8,
    )
    return {**unet, **_vae(), **_small_clip(folder, "cond_stage_model.transformer.")}


def _motion_v3(folder: Path) -> Weights:
    del folder
    widths = (320, 640, 1280, 1280)
    shapes: dict[str, Shape] = {}
    for level, width in enumerate(widths):
        for block in range(2):
            shapes |= _motion_block(f"down_blocks.{level}.motion_modules.{block}", width)
    for level, width in enumerate(reversed(widths)):
        for block in range(3):
            shapes |= _motion_block(f"up_blocks.{level}.motion_modules.{block}", width)
    return {name: _random(name, shape) for name, shape in shapes.items()}


def _motion_block(prefix: str, width: int) -> dict[str, Shape]:
    outer = f"{prefix}.temporal_transformer"
    block = f"{outer}.transformer_blocks.0"
    shapes: dict[str, Shape] = {}

    def layer(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = weight[:1]

    layer(f"{outer}.norm", width)
    for name in ("proj_in", "proj_out"):
        layer(f"{outer}.{name}", width, width)
    for number in (0, 1):
        attention = f"{block}.attention_blocks.{number}"
        for name in ("to_q", "to_k", "to_v"):
            shapes[f"{attention}.{name}.weight"] = (width, width)
        layer(f"{attention}.to_out.0", width, width)
        shapes[f"{attention}.pos_encoder.pe"] = (1, 32, width)
        layer(f"{block}.norms.{number}", width)
    layer(f"{block}.ff.net.0.proj", width * 8, width)
    layer(f"{block}.ff.net.2", width, width * 4)
    layer(f"{block}.ff_norm", width)
    return shapes


def _sdxl(folder: Path) -> Weights:
    unet = _unet(
        num_res_blocks=[2, 2, 2],
        channel_mult=(1, 1, 1),
        transformer_depth=[0, 0, 2, 2, 10, 10],
        transformer_depth_middle=10,
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 10, 10, 10],
        context_dim=2048,
        num_head_channels=64,
        num_classes="sequential",
        adm_in_channels=2816,
        use_linear_in_transformer=True,
    )
    small = _small_clip(folder, "conditioner.embedders.0.transformer.")
    big = _open_clip(_clip(folder, "clip_config_bigg.json", ""))
    return {**unet, **_vae(), **small, **big}


def _open_clip(weights: Weights) -> Weights:
    """Rename Hugging Face's weights to OpenCLIP's, as SDXL checkpoints have them."""
    import torch

    renamed: Weights = {}
    for name, value in weights.items():
        plain = name.replace("text_model.", "")
        if plain == "embeddings.token_embedding.weight":
            renamed["token_embedding.weight"] = value
        elif plain == "embeddings.position_embedding.weight":
            renamed["positional_embedding"] = value
        elif plain.startswith("final_layer_norm"):
            renamed[plain.replace("final_layer_norm", "ln_final")] = value
        elif plain.startswith("encoder.layers."):
            number, part = plain.removeprefix("encoder.layers.").split(".", 1)
            block = f"transformer.resblocks.{number}."
            stem, kind = part.rsplit(".", 1)
            if stem == "self_attn.q_proj":
                # OpenCLIP keeps the three projections in one.
                parts = [weights[name.replace("q_proj", f"{axis}_proj")] for axis in "qkv"]
                renamed[f"{block}attn.in_proj_{kind}"] = torch.cat(parts)
            elif stem in _BIG_CLIP_LAYER:
                renamed[f"{block}{_BIG_CLIP_LAYER[stem]}.{kind}"] = value
    renamed["text_projection"] = _random("weight", (1280, 1280))
    return {_BIG_CLIP + name: value for name, value in renamed.items()}


if __name__ == "__main__":
    sys.exit(main())
