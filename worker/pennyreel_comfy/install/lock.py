"""The lock file: what is installed, at which version."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from pydantic import BaseModel, ConfigDict

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ComfyPin(_Table):
    """The ComfyUI version and where it can be had."""

    version: str
    release: str
    horde: str
    horde_sha256: str


class Flavour(_Table):
    """One build of torch: for which device and systems, from which index, and how large."""

    device: str
    systems: tuple[str, ...]
    index: str | None = None
    required: bool
    download_mb: int
    disk_mb: int
    free_mb: int
    minutes: int


class TorchPin(_Table):
    """The torch version, its torchvision, and the flavours they come in."""

    version: str
    torchvision: str
    flavours: tuple[Flavour, ...]

    def flavour(self, device: str, system: str) -> Flavour | None:
        """Return the flavour for a device on a system (as `platform.system()` calls it)."""
        for one in self.flavours:
            if one.device == device and system in one.systems:
                return one
        return None


class Requirements(_Table):
    """What ComfyUI imports, and the pins of all that it brings along."""

    direct: tuple[str, ...]
    pythons: tuple[str, ...]
    pins: tuple[str, ...]


class NodePack(_Table):
    """A node pack of the image, pinned by its commit."""

    name: str
    repository: str
    commit: str
    licence: str


class Nodes(_Table):
    """The node packs of the image, and the pins of what they require."""

    packs: tuple[NodePack, ...]
    pins: tuple[str, ...]


class _File(_Table):
    comfyui: ComfyPin
    torch: TorchPin
    requirements: Requirements
    nodes: Nodes


@dataclass(frozen=True)
class Lock:
    """The lock file, read."""

    comfyui: ComfyPin
    torch: TorchPin
    requirements: Requirements
    nodes: Nodes
    digest: str
    """Of the file: two installations of one digest have the same content."""


@lru_cache(maxsize=1)
def read_lock() -> Lock:
    """Read the lock file that ships with this package."""
    raw = resources.files(__package__).joinpath("lock.toml").read_bytes()
    file = _File.model_validate(tomllib.loads(raw.decode("utf-8")))
    return Lock(
        comfyui=file.comfyui,
        torch=file.torch,
        requirements=file.requirements,
        nodes=file.nodes,
        digest=hashlib.sha256(raw.replace(b"\r\n", b"\n")).hexdigest()[:16],
    )
