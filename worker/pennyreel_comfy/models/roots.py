"""Where models are on this machine, and the file that tells ComfyUI all of it.

ComfyUI reads more folders of models from `--extra-model-paths-config FILE`. What that file does
not name is not found, however the volume is laid out: so it names every folder that ComfyUI and
the node packs of the image know.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pennyreel_comfy.models.names import FOLDERS, WEIGHT_FOLDERS, checked_name, known_folder
from pennyreel_contract import Code, error

VOLUMES = (Path("/runpod-volume"), Path("/workspace"))
"""Where RunPod mounts a network volume: in a serverless worker, and in a pod."""

LAYOUTS = ("models", "ComfyUI/models", "comfyui/models", "runpod-slim/ComfyUI/models", ".")
"""Where on a volume models lie: as the stock worker has them, as ComfyUI in a pod has them, as
RunPod's own pod image has them, and, a common slip, without a folder above them."""

CACHE = "huggingface-cache/hub"
"""Where on the volume RunPod puts the repositories that an endpoint has cached."""


@dataclass(frozen=True)
class Root:
    """A folder of models."""

    path: Path
    kind: Literal["models", "cached"] = "models"
    """models: it has a folder for each kind. cached: one repository of Hugging Face."""


def find_roots(candidates: Iterable[Path] = VOLUMES) -> list[Root]:
    """Return the roots on volumes, and in folders that an operator names; those that are there.

    A candidate is a volume, in any of `LAYOUTS`, or itself a folder of models. Of a cached
    repository, the revision that `refs/main` names counts, else the newest.
    """
    found: list[Root] = []
    for volume in (candidate.absolute() for candidate in candidates):
        found += [Root(p) for p in (volume / layout for layout in LAYOUTS) if _holds_models(p)]
        found += [Root(path, "cached") for path in _cached(volume / CACHE)]
    return _distinct(found)


def paths_yaml(roots: Sequence[Root | Path]) -> str:
    """Return the content of ComfyUI's `extra_model_paths.yaml` for these roots, in their order.

    Put ComfyUI's own folder of models among them: IPAdapter_plus looks there only as long as
    nobody names another folder. A repository is offered in every folder of weights, since only
    its user knows what its files are. A root that is not there yet may be named.

    Raises:
        SetupNeeded: `not_configured`: ComfyUI's file cannot express a path.

    """
    lines = ["pennyreel:"]
    for folder, names in FOLDERS.items():
        paths = [path for root in map(as_root, roots) for path in _paths(root, folder, names)]
        for path in paths:
            if not path.isprintable():
                raise error(
                    Code.NOT_CONFIGURED,
                    f"a folder of models has a line break or the like in its path: {path!r}",
                    hint="Use a plain path.",
                )
        if paths:
            # No base_path: ComfyUI would take $ and ~ in it for variables. JSON texts are YAML.
            text = json.dumps("\n".join(dict.fromkeys(paths)), ensure_ascii=False)
            lines.append(f"  {folder}: {text}")
    return "\n".join(lines) + "\n" if len(lines) > 1 else "{}\n"


def locate(roots: Iterable[Root], folder: str, name: str) -> tuple[Root, Path] | None:
    """Return the first file of that name, as ComfyUI would find it, and the root it is in.

    The server's own files may be links, as in a cache of Hugging Face: they are followed.

    Raises:
        BadRequest: `model_refused`: no folder of weights, or no name in one.

    """
    known, parts = known_folder(folder), checked_name(name).split("/")
    for root in roots:
        for base in _paths(root, known, FOLDERS[known]):
            path = Path(base, *parts)
            if path.is_file():
                return root, path
    return None


def as_root(root: Root | Path) -> Root:
    """Take a plain path for a folder of models."""
    return root if isinstance(root, Root) else Root(root)


def _paths(root: Root, folder: str, names: Sequence[str]) -> list[str]:
    base = root.path.absolute()
    if root.kind == "models":
        return [str(base / name) for name in names]
    inner = [base / place / name for place in (".", "split_files") for name in names]
    there = [str(path) for path in inner if path.is_dir()]
    return [*there, str(base)] if folder in WEIGHT_FOLDERS else there


def _holds_models(path: Path) -> bool:
    """Whether it looks like ComfyUI's folder of models, by names that nothing else uses."""
    if path.name == "models" and path.is_dir():
        return True
    telling = ("checkpoints", "diffusion_models", "unet", "loras", "animatediff_models")
    return any((path / name).is_dir() for name in telling)


def _cached(hub: Path) -> list[Path]:
    """Return the snapshot of each repository in a cache of Hugging Face."""
    found = []
    for repository in sorted(hub.glob("models--*")):
        snapshots = [p for p in (repository / "snapshots").glob("*") if p.is_dir()]
        named = [p for p in snapshots if p.name == _revision(repository)]
        newest = sorted(snapshots, key=lambda p: (p.stat().st_mtime, p.name))[-1:]
        found += named or newest
    return found


def _revision(repository: Path) -> str:
    try:
        return (repository / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _distinct(roots: Sequence[Root]) -> list[Root]:
    """Drop a root that is another one under a second name, as /workspace may be."""
    seen: dict[Path, Root] = {}
    for root in roots:
        seen.setdefault(root.path.resolve(), root)
    return list(seen.values())
