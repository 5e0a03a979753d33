"""What a job made, out of its /history entry: files of every kind, and texts. No I/O but paths.

Any list entry under any key that carries `filename` is a file (images, gifs, audio, video, 3d …):
node packs invent keys, and the stock worker's users lose their videos by a list of known ones.
"""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from pennyreel_contract import Code, error

# The platform's own table lacks these, or differs by system.
_MIME = {
    ".avif": "image/avif",
    ".exr": "image/x-exr",
    ".fbx": "model/fbx",
    ".flac": "audio/flac",
    ".gif": "image/gif",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".latent": "application/octet-stream",
    ".m4a": "audio/mp4",
    ".mkv": "video/x-matroska",
    ".mov": "video/quicktime",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".obj": "model/obj",
    ".ogg": "audio/ogg",
    ".opus": "audio/opus",
    ".ply": "model/ply",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".spz": "model/spz",
    ".stl": "model/stl",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".usdz": "model/vnd.usdz+zip",
    ".wav": "audio/wav",
    ".webm": "video/webm",
    ".webp": "image/webp",
}
_KINDS = {"image", "video", "audio", "text"}


@dataclass(frozen=True)
class OutputFile:
    """A file in ComfyUI's output, temp or input folder; `name` is unique within the job."""

    node: str
    name: str
    filename: str
    subfolder: str
    type: str
    kind: str
    mime: str

    @property
    def temp(self) -> bool:
        """Whether it is a preview's file, which ComfyUI deletes at its next start."""
        return self.type == "temp"


@dataclass(frozen=True)
class OutputText:
    """A text that a node showed, such as PreviewAny."""

    node: str
    name: str
    text: str


def mime_of(filename: str) -> tuple[str, str]:
    """Return (kind, MIME type) by the name's ending; an animated GIF or WEBP is an image."""
    suffix = PurePosixPath(filename).suffix.lower()
    mime = _MIME.get(suffix) or mimetypes.guess_type(filename)[0] or "application/octet-stream"
    family = mime.split("/", 1)[0]
    if family == "model":
        return "model3d", mime
    return (family if family in _KINDS else "file"), mime


def collect(
    entry: Mapping[str, Any],
    *,
    temp: bool = False,
    nodes: Collection[str] | None = None,
    kinds: Collection[str] | None = None,
) -> tuple[list[OutputFile], list[OutputText]]:
    """List a job's outputs in the order of its nodes.

    Args:
        entry: the /history entry of the job.
        temp: also previews' files.
        nodes: only these nodes' outputs.
        kinds: only these kinds (image, video, audio, model3d, text, file).

    """
    files: list[OutputFile] = []
    texts: list[OutputText] = []
    seen: set[tuple[str, str, str]] = set()
    for node, key, item in _entries(entry):
        if nodes is not None and node not in nodes:
            continue
        if isinstance(item, str):
            safe = re.sub(r"[^\w-]", "_", f"node-{node}-{key}-{len(texts)}")
            name = plain_name(f"{safe}.txt")
            texts.append(OutputText(node, name, item))
            continue
        made = _file(node, item)
        place = (made.type, made.subfolder, made.filename)
        if place in seen or (made.temp and not temp):
            continue
        seen.add(place)
        files.append(made)
    if kinds is not None:
        files = [f for f in files if f.kind in kinds]
        texts = texts if "text" in kinds else []
    return _named(files, texts)


def _entries(entry: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any] | str]]:
    for node, by_key in _mapping(entry.get("outputs")).items():
        if not isinstance(by_key, dict):
            continue
        for key, items in by_key.items():
            for item in items if isinstance(items, (list, tuple)) else (items,):
                is_text = isinstance(item, str) and key in {"text", "string", "texts"}
                if is_text or (isinstance(item, dict) and isinstance(item.get("filename"), str)):
                    yield str(node), str(key), item


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _file(node: str, item: dict[str, Any]) -> OutputFile:
    filename = item["filename"]
    kind, mime = mime_of(filename)
    return OutputFile(
        node=node,
        name=plain_name(filename),
        filename=filename,
        subfolder=str(item.get("subfolder") or ""),
        type=str(item.get("type") or "output"),
        kind=kind,
        mime=mime,
    )


def plain_name(filename: str) -> str:
    """Return a name without any folder, safe on every system."""
    last = PureWindowsPath(filename).name
    kept = "".join(c if c.isprintable() and c not in '<>:"/\\|?*' else "_" for c in last)
    kept = kept.strip(" .").encode()[-200:].decode(errors="ignore").strip(" .")
    return kept or "output"


def _named(
    files: list[OutputFile], texts: list[OutputText]
) -> tuple[list[OutputFile], list[OutputText]]:
    """Give each a name of its own: files of the same name in different folders get a number."""
    taken: set[str] = set()

    def own(plain: str) -> str:
        name, n = plain, 1
        stem, dot, suffix = plain.rpartition(".")
        while name.casefold() in taken:
            n += 1
            name = f"{stem}-{n}.{suffix}" if dot else f"{plain}-{n}"
        taken.add(name.casefold())
        return name

    return (
        [replace(f, name=own(f.name)) for f in files],
        [replace(t, name=own(t.name)) for t in texts],
    )


def locate(made: OutputFile, folders: Mapping[str, Path]) -> Path:
    """Return an output's path on this machine, or raise where it leaves its folder.

    `folders` maps the types (output, temp, input) to ComfyUI's folders.
    """
    root = folders.get(made.type)
    if root is None:
        raise error(Code.OUTPUT_MISSING, f"{made.filename}: its folder type {made.type!r} is new")
    root = root.resolve()
    try:
        path = (root / made.subfolder / made.filename).resolve()
        found = path.is_file()
    except (OSError, ValueError, RuntimeError):  # NUL, too long, a loop of links
        raise error(Code.OUTPUT_MISSING, f"{made.name} is no file's name") from None
    if not path.is_relative_to(root):
        raise error(Code.OUTPUT_MISSING, f"{made.filename} points outside ComfyUI's folders")
    if not found:
        raise error(Code.OUTPUT_MISSING, f"ComfyUI says it made {made.filename}; it is not there")
    return path
