"""Where a model file may lie: ComfyUI's folders, and names that never leave them."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from pennyreel_contract import Code, error

FOLDERS: dict[str, tuple[str, ...]] = {
    # ComfyUI 0.3.75; where it reads several, the others are those of older versions.
    "audio_encoders": ("audio_encoders",),
    "checkpoints": ("checkpoints",),
    "classifiers": ("classifiers",),
    "clip_vision": ("clip_vision",),
    "configs": ("configs",),
    "controlnet": ("controlnet", "t2i_adapter"),
    "diffusers": ("diffusers",),
    "diffusion_models": ("diffusion_models", "unet"),
    "embeddings": ("embeddings",),
    "gligen": ("gligen",),
    "hypernetworks": ("hypernetworks",),
    "latent_upscale_models": ("latent_upscale_models",),
    "loras": ("loras",),
    "model_patches": ("model_patches",),
    "photomaker": ("photomaker",),
    "style_models": ("style_models",),
    "text_encoders": ("text_encoders", "clip"),
    "upscale_models": ("upscale_models",),
    "vae": ("vae",),
    "vae_approx": ("vae_approx",),
    # AnimateDiff-Evolved.
    "animatediff_models": ("animatediff_models",),
    "animatediff_motion_lora": ("animatediff_motion_lora",),
    "animatediff_video_formats": ("animatediff_video_formats",),
    # IPAdapter_plus.
    "ipadapter": ("ipadapter",),
}
"""Each folder of models as ComfyUI names it, and the names it has on disk."""

_LEGACY = {"clip": "text_encoders", "unet": "diffusion_models"}
_NO_WEIGHTS = frozenset({"configs", "diffusers", "animatediff_video_formats"})

WEIGHT_FOLDERS = tuple(sorted(set(FOLDERS) - _NO_WEIGHTS))
"""The folders that hold single files of weights."""

SAFE = frozenset({".safetensors", ".sft", ".gguf"})
"""Formats that hold numbers only. The file's head is checked, whatever its name says."""

PICKLES = frozenset({".ckpt", ".pt", ".pt2", ".pth", ".bin", ".pkl"})
"""Formats that may hold a program: taken only with a sha256 that is known beforehand."""

_DRIVE = re.compile(r"[A-Za-z]:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_WINDOWS = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?")


def known_folder(folder: str) -> str:
    """Return the name that ComfyUI has for a folder of models, such as `text_encoders` for `clip`.

    Raises:
        BadRequest: `model_refused`: it has no such folder, or one that holds other things.

    """
    found = _LEGACY.get(folder, folder)
    if found not in WEIGHT_FOLDERS:
        raise error(
            Code.MODEL_REFUSED,
            f"{folder[:80]!r} is no folder of models",
            hint=f"Use one of {', '.join(WEIGHT_FOLDERS)}.",
        )
    return found


def checked_name(name: str) -> str:
    """Return a model's name with forward slashes, sure to stay in its folder on any system.

    Raises:
        BadRequest: `model_refused`: it leads elsewhere, or is no name of weights.

    """
    parts = name.replace("\\", "/").split("/")
    wrong = (
        not name
        or len(name.encode("utf-8", "replace")) > 255
        or _CONTROL.search(name)
        or _DRIVE.match(name)
        or any(not p.strip(" .") or p != p.strip() or _WINDOWS.fullmatch(p) for p in parts)
        or any(p.startswith(".") or p.endswith(".") or set(p) & set('<>:"|?*') for p in parts)
    )
    if wrong:
        raise error(
            Code.MODEL_REFUSED,
            f"{name[:80]!r} is no file name inside a folder of models",
            hint="Use a plain name, with subfolders if need be: detail/lora.safetensors",
        )
    suffix_of(name)
    return "/".join(parts)


def suffix_of(name: str) -> str:
    """Return the ending that says which format a file has, in lower case, such as `.safetensors`.

    Raises:
        BadRequest: `model_refused`: it is no format of weights.

    """
    suffix = PurePosixPath(name.replace("\\", "/")).suffix.lower()
    if suffix not in SAFE | PICKLES:
        raise error(
            Code.MODEL_REFUSED,
            f"{name[:80]!r} does not end like a model",
            hint=f"Models end in {', '.join(sorted(SAFE | PICKLES))}.",
        )
    return suffix


def check_pinned(name: str, sha256: str | None) -> None:
    """Refuse a pickle without a checksum: loading one may run whatever its maker wrote.

    Raises:
        BadRequest: `model_refused`.

    """
    suffix = suffix_of(name)
    if suffix in PICKLES and sha256 is None:
        raise error(
            Code.MODEL_REFUSED,
            f"{name}: {suffix} files may hold a program, and are taken with a sha256 only",
            hint="Give its sha256, or use the same model as .safetensors.",
        )


def place(root: Path, folder: str, name: str) -> Path:
    """Return where a model lies below `root`; links on the way may not lead out of the folder.

    Raises:
        BadRequest: `model_refused`.

    """
    known_folder(folder)
    base = root / folder
    path = base.joinpath(*checked_name(name).split("/"))
    # The folder itself may be a link that the operator made; what lies below it may not lead out.
    if not path.parent.resolve().is_relative_to(base.resolve()):
        raise error(Code.MODEL_REFUSED, f"{folder}/{name}: a link on the way leads elsewhere")
    return path
