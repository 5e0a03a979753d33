"""Tells a graph the names that models have on the disk. Pure."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from pennyreel_comfy.graph import MODEL_SUFFIXES, Graph
from pennyreel_comfy.models.names import PICKLES, SAFE, known_folder
from pennyreel_contract import Code, PennyreelError, error

_SUFFIXES = tuple({*MODEL_SUFFIXES, *SAFE, *PICKLES})

# A model's name is read by inputs called so, in ComfyUI and in the packs that were looked at.
# A prompt, a title or a file prefix that happens to read like one is left alone.
_LOADS = re.compile(
    r"ckpt|checkpoint|lora|model|unet|vae|clip|control|adapter|embed|hypernet|upscal|style"
    r"|gligen|encoder|motion|weight|photomaker|_name\d*$|^(name|file)$|_(name|file)$",
    re.IGNORECASE,
)
_NEVER = re.compile(
    r"prefix|prompt|text(?!.?enc)|title|note|comment|caption|output|save", re.IGNORECASE
)

_HINTS = {
    "animatediff_models": "motion|animatediff|ade_",
    "animatediff_motion_lora": "motion.?lora",
    "audio_encoders": "audio",
    "checkpoints": "ckpt|checkpoint",
    "clip_vision": "clip.?vision",
    "controlnet": "control",
    "diffusion_models": "unet|diffusion",
    "embeddings": "embed",
    "gligen": "gligen",
    "hypernetworks": "hypernet",
    "ipadapter": "ip.?adapter",
    "latent_upscale_models": "latent.*upscal",
    "loras": "lora",
    "model_patches": "patch",
    "photomaker": "photomaker",
    "style_models": "style",
    "text_encoders": "text.?enc|clip_name|clip.?loader",
    "upscale_models": "upscal",
    "vae": "vae",
    "vae_approx": "approx",
}


def rename_models(graph: Graph, names: Mapping[tuple[str, str], str]) -> Graph:
    """Return a copy in which inputs that name a model have its new name.

    Only inputs that load models, and whose text is exactly the old name, are changed. Embeddings
    are named inside prompts, as `embedding:NAME`: there, too.

    Args:
        graph: left as it is.
        names: (folder, old name) -> new name.

    Raises:
        BadRequest: `bad_workflow`: two folders have a model of this name, and the node does not
            say which of them it reads.

    """
    changed = copy.deepcopy(graph)
    wanted: dict[str, dict[str, str]] = {}
    for (folder, old), new in names.items():
        wanted.setdefault(old, {})[known_folder(folder)] = new
    embeddings = {old: new["embeddings"] for old, new in wanted.items() if "embeddings" in new}
    for key, node in changed.items():
        for name, value in node["inputs"].items():
            where = f"{name} {node['class_type']}"
            node["inputs"][name] = _renamed(key, name, where, value, wanted)
            if isinstance(value, str) and embeddings:
                node["inputs"][name] = _embedded(node["inputs"][name], embeddings)
    return changed


def _renamed(
    key: str, name: str, where: str, value: Any, wanted: Mapping[str, Mapping[str, str]]
) -> Any:
    """Return an input's value, renamed where it is a model's name, or an object that has one."""
    if isinstance(value, dict):  # some packs keep a row of settings in one input
        return {
            inner: _renamed(key, inner, f"{inner} {where}", one, wanted)
            for inner, one in value.items()
        }
    if not isinstance(value, str) or not value.lower().endswith(_SUFFIXES):
        return value
    folders = wanted.get(value)
    if folders is None or _NEVER.search(name) or not _LOADS.search(name):
        return value
    if len(folders) == 1:
        return next(iter(folders.values()))
    meant = [f for f in folders if re.search(_HINTS.get(f, "(?!)"), where, re.IGNORECASE)]
    if len(meant) != 1:
        raise _ambiguous(key, name, value, folders)
    return folders[meant[0]]


def _ambiguous(key: str, name: str, value: str, folders: Mapping[str, str]) -> PennyreelError:
    return error(
        Code.BAD_WORKFLOW,
        f"node {key!r}: {name} is {value!r}, which is asked for in {' and '.join(folders)}",
        hint="Give the two models different names, in the graph and in the request.",
    )


def _embedded(text: str, names: Mapping[str, str]) -> str:
    """Rename embeddings in a prompt, with or without the file's ending."""
    for old, new in names.items():
        stem, dot, suffix = old.rpartition(".")
        ending = f"(?:{re.escape(dot + suffix)})?"
        pattern = rf"(embedding:){re.escape(stem)}{ending}(?![\w.\-/\\])"
        text = re.sub(pattern, lambda found, new=new: found[1] + new, text)  # type: ignore[misc]
    return text
