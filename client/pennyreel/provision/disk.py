"""What an installed ComfyUI has, by its folders: it need not run for that.

Only a running ComfyUI knows for sure which node classes it has. Here a class counts as there where
a source file has its name in quotation marks, as registering it takes, or its pack has a folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from pennyreel.errors import PennyreelError
from pennyreel.need import Lacks
from pennyreel.provision.wanted import ModelWanted, PackWanted, Wanted
from pennyreel_comfy.models.names import FOLDERS, WEIGHT_FOLDERS
from pennyreel_comfy.models.roots import Root, locate

MOST_SOURCE_BYTES = 64 << 20
"""So much source is read at most; what it does not reach counts as unknown."""

_OWN = ("nodes.py", "comfy_extras", "comfy_api_nodes")
_PACKS = "custom_nodes"
_PATHS = ("extra_model_paths.yaml", "extra_model_paths.yml")


class Disk:
    """One ComfyUI tree."""

    def __init__(self, comfy: Path) -> None:
        """Keep the path of the folder that has main.py; nothing is read yet."""
        self._comfy = comfy

    @property
    def models(self) -> Path:
        """Its folder of models."""
        return self._comfy / "models"

    def lacks(self, wanted: Wanted) -> Lacks:
        """Return what is not there of it."""
        every = {*wanted.classes, *(c for p in wanted.packs for c in p.classes)}
        there, whole = self._found(every)
        absent = [c for p in wanted.packs if not self.has_pack(p) for c in p.classes]
        # A class of no known pack that was not found is a stranger's, unless not all was read.
        absent += wanted.classes if whole else ()
        models = [m for m in wanted.models if not self.has_model(m)]
        # With more folders named, which only ComfyUI reads, it may find them there.
        elsewhere = any((self._comfy / name).exists() for name in _PATHS)
        missing = tuple((m.folder, m.name) for m in models)
        return Lacks(
            classes=tuple(sorted({c for c in absent if c not in there})),
            models=() if elsewhere else missing,
            unsure=missing if elsewhere else (),
        )

    def has_pack(self, pack: PackWanted) -> bool:
        """Whether a pack has a folder here, in whatever spelling."""
        try:
            names = [path.name for path in (self._comfy / _PACKS).iterdir()]
        except OSError:
            return False
        return _spelled(pack.name) in map(_spelled, names)

    def has_model(self, model: ModelWanted) -> bool:
        """Whether a file of that name is there: it is what ComfyUI would load."""
        return self._file(model) is not None

    def differs(self, model: ModelWanted) -> bool:
        """Whether a file of that name is there, with another size than its list says."""
        size = None if model.entry is None else model.entry.bytes
        file = self._file(model)
        return file is not None and size is not None and file.stat().st_size != size

    def _file(self, model: ModelWanted) -> Path | None:
        folders = [model.folder] if model.folder in FOLDERS else WEIGHT_FOLDERS
        for folder in folders:
            with suppress(PennyreelError):  # a name that no list of models would take
                found = locate([Root(self.models)], folder, model.name)
                if found is not None:
                    return found[1]
        plain = self.models / model.folder / model.name
        return plain if model.folder and plain.is_file() else None

    def _found(self, names: Iterable[str]) -> tuple[set[str], bool]:
        """Return those of the classes that the sources name, and whether all sources were read."""
        found: set[str] = set()
        left, read = set(names), 0
        for path in self._sources():
            if not left:
                break
            try:
                text = path.read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            read += len(text)
            if read > MOST_SOURCE_BYTES:
                return found, False
            seen = {name for name in left if f'"{name}"' in text or f"'{name}'" in text}
            found |= seen
            left -= seen
        return found, True

    def _sources(self) -> Iterator[Path]:
        for name in (*_OWN, _PACKS):
            path = self._comfy / name
            if path.is_file():
                yield path
            for folder, inside, files in os.walk(path):
                inside[:] = sorted(n for n in inside if not n.startswith((".", "__pycache__")))
                yield from (Path(folder, n) for n in sorted(files) if n.endswith(".py"))


def _spelled(name: str) -> str:
    return re.sub(r"[-_. ]+", "-", name).casefold()
