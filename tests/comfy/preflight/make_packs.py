"""Write packs.toml anew: which node pack has which classes, as compact as it can be told.

    python tests/comfy/preflight/make_packs.py object_info.json extension-node-map.json ...

The first file is ComfyUI's /object_info, whose own classes belong to no pack. The others are
ComfyUI-Manager's (https://github.com/Comfy-Org/ComfyUI-Manager), read from the packs' own
NODE_CLASS_MAPPINGS; an older one adds packs that a newer one has dropped. Names that begin alike
become one prefix, where no other pack of the whole map has a name that begins so. Forks, which
share most names with a pack, do not count as others.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

OUT = Path(__file__).parents[3] / "worker" / "pennyreel_comfy" / "preflight" / "packs.toml"

# The widely used packs, by their repositories. An earlier one wins a name that two packs have.
PACKS = [
    "Kosinkadink/ComfyUI-AnimateDiff-Evolved",
    "Kosinkadink/ComfyUI-VideoHelperSuite",
    "cubiq/ComfyUI_IPAdapter_plus",
    "Kosinkadink/ComfyUI-Advanced-ControlNet",
    "ltdrdata/ComfyUI-Impact-Pack",
    "ltdrdata/ComfyUI-Impact-Subpack",
    "ltdrdata/ComfyUI-Inspire-Pack",
    "kijai/ComfyUI-KJNodes",
    "Fannovel16/ComfyUI-Frame-Interpolation",
    "Fannovel16/comfyui_controlnet_aux",
    "rgthree/rgthree-comfy",
    "WASasquatch/was-node-suite-comfyui",
    "cubiq/ComfyUI_essentials",
    "yolain/ComfyUI-Easy-Use",
    "city96/ComfyUI-GGUF",
    "Lightricks/ComfyUI-LTXVideo",
    "kijai/ComfyUI-WanVideoWrapper",
    "kijai/ComfyUI-HunyuanVideoWrapper",
    "kijai/ComfyUI-CogVideoXWrapper",
    "kijai/ComfyUI-Florence2",
    "kijai/ComfyUI-segment-anything-2",
    "storyicon/comfyui_segment_anything",
    "Suzie1/ComfyUI_Comfyroll_CustomNodes",
    "jags111/efficiency-nodes-comfyui",
    "pythongosssss/ComfyUI-Custom-Scripts",
    "crystian/ComfyUI-Crystools",
    "melMass/comfy_mtb",
    "ssitu/ComfyUI_UltimateSDUpscale",
    "chflame163/ComfyUI_LayerStyle",
    "sipherxyz/comfyui-art-venture",
    "chrisgoringe/cg-use-everywhere",
    "cubiq/ComfyUI_InstantID",
    "Gourieff/ComfyUI-ReActor",
    "FizzleDorf/ComfyUI_FizzNodes",
    "cubiq/PuLID_ComfyUI",
    "Jonseed/ComfyUI-Detail-Daemon",
    "TinyTerra/ComfyUI_tinyterraNodes",
    "pythongosssss/ComfyUI-WD14-Tagger",
    "nullquant/ComfyUI-BrushNet",
    "Acly/comfyui-inpaint-nodes",
    "lquesada/ComfyUI-Inpaint-CropAndStitch",
    "1038lab/ComfyUI-RMBG",
    "kijai/ComfyUI-SUPIR",
    "kijai/ComfyUI-LivePortraitKJ",
    "kijai/ComfyUI-DepthAnythingV2",
    "kijai/ComfyUI-IC-Light",
    "pollockjj/ComfyUI-MultiGPU",
    "alexopus/ComfyUI-Image-Saver",
    "mcmonkeyprojects/sd-dynamic-thresholding",
    "logtd/ComfyUI-Fluxtapoz",
    "nunchaku-tech/ComfyUI-nunchaku",
    "welltop-cn/ComfyUI-TeaCache",
    "huchenlei/ComfyUI-layerdiffuse",
    "city96/ComfyUI_ExtraModels",
]

# What the map tells by a pattern, not by names: the endings that the packs give all their nodes.
SUFFIXES = {
    "rgthree/rgthree-comfy": (" (rgthree)",),
    "crystian/ComfyUI-Crystools": (" [Crystools]",),
    "ltdrdata/ComfyUI-Inspire-Pack": ("//Inspire",),
    "melMass/comfy_mtb": (" (mtb)",),
    "pythongosssss/ComfyUI-Custom-Scripts": ("|pysssss",),
}

# The beginnings that a pack gives to its nodes, so that nodes of its newer versions are known too.
PREFIXES = {
    "Kosinkadink/ComfyUI-AnimateDiff-Evolved": ("ADE_",),
    "Kosinkadink/ComfyUI-VideoHelperSuite": ("VHS_",),
    "Kosinkadink/ComfyUI-Advanced-ControlNet": ("ACN_",),
    "cubiq/ComfyUI_IPAdapter_plus": ("IPAdapter",),
    "ltdrdata/ComfyUI-Impact-Pack": ("Impact",),
    "yolain/ComfyUI-Easy-Use": ("easy ",),
    "kijai/ComfyUI-WanVideoWrapper": ("WanVideo",),
    "kijai/ComfyUI-HunyuanVideoWrapper": ("HyVideo",),
    "kijai/ComfyUI-CogVideoXWrapper": ("CogVideo",),
    "Suzie1/ComfyUI_Comfyroll_CustomNodes": ("CR ",),
    "chflame163/ComfyUI_LayerStyle": (
        *("LayerUtility: ", "LayerMask: ", "LayerFilter: ", "LayerColor: ", "LayerStyle: "),
    ),
    "TinyTerra/ComfyUI_tinyterraNodes": ("ttN ",),
    "nunchaku-tech/ComfyUI-nunchaku": ("Nunchaku",),
}

_SHORTEST = 7  # letters of a prefix
_FEWEST = 3  # names that a prefix has to stand for
_FORK = 0.3  # of the names in common makes the other a fork


def others(mine: set[str], packs: Iterable[set[str]]) -> set[str]:
    """Return all names of packs that are no forks of the one with the names `mine`."""
    found: set[str] = set()
    for names in packs:
        common = len(names & mine)
        if names and common < _FORK * min(len(names), len(mine)):
            found |= names
    return found - mine


def prefixes(mine: set[str], foreign: set[str]) -> list[str]:
    """Return the shortest prefixes that stand for names of `mine` and for no foreign one."""
    taken = {name[:size] for name in foreign for size in range(_SHORTEST, len(name) + 1)}
    rest, found = set(mine), []
    for size in range(_SHORTEST, 24):
        counts: dict[str, int] = {}
        for name in rest:
            if len(name) > size:
                counts[name[:size]] = counts.get(name[:size], 0) + 1
        for prefix, count in counts.items():
            if count >= _FEWEST and prefix not in taken:
                found.append(prefix)
        rest = {name for name in rest if not name.startswith(tuple(found))}
    return sorted(found)


def main(object_info: str, *mappings: str) -> None:
    """Write the table."""
    packs: dict[str, set[str]] = {}
    for mapping in mappings:
        for url, (names, _meta) in json.loads(Path(mapping).read_text("utf-8")).items():
            if not url.endswith("/ComfyUI"):
                packs.setdefault(url.removeprefix("https://github.com/"), set(names))
    core = {
        name
        for name, info in json.loads(Path(object_info).read_text("utf-8")).items()
        if not info["python_module"].startswith("custom_nodes.")
    }
    taken: set[str] = set()
    lines = ["# Which node pack has which classes. Generated by make_packs.py in the tests.", ""]
    for repo in PACKS:
        own, endings = PREFIXES.get(repo, ()), SUFFIXES.get(repo, ())
        mine = packs.get(repo, set()) - core - taken
        mine = {name for name in mine if not name.startswith(own) and not name.endswith(endings)}
        short = prefixes(mine, others(mine, packs.values()) | core)
        left = sorted(name for name in mine if not name.startswith(tuple(short)))
        taken |= mine
        short = [*own, *short]
        if not packs.get(repo) and not endings:
            raise SystemExit(f"not in the map: {repo}")
        lines += ["[[pack]]", f"name = {json.dumps(repo.split('/')[1])}"]
        lines += [f"url = {json.dumps('https://github.com/' + repo)}"]
        for key, names in (("prefixes", short), ("suffixes", endings), ("classes", left)):
            if names:
                lines.append(f"{key} = {json.dumps(list(names), ensure_ascii=False)}")
        lines.append("")
    OUT.write_text("\n".join(lines), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
