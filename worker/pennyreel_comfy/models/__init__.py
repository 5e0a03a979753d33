"""Models: what there is to have, where it lies, and how it gets there.

Reading order: `manifest` (models.toml), `names` and `hosts` (what is allowed), `download` and
`parts` (one file), `store` (a manifest's files), `jobs`, `eviction` and `records` (what jobs ask
for), `rename` (the graph), `roots` (ComfyUI's paths). `docs/models.md` is for users.
"""

from __future__ import annotations

from pennyreel_comfy.models.download import Progress, Rules
from pennyreel_comfy.models.eviction import Shelf
from pennyreel_comfy.models.hosts import Hosts
from pennyreel_comfy.models.jobs import Ensured, JobModels
from pennyreel_comfy.models.manifest import Entry, Manifest, load
from pennyreel_comfy.models.rename import rename_models
from pennyreel_comfy.models.roots import VOLUMES, Root, find_roots, paths_yaml
from pennyreel_comfy.models.store import Pulled, Stale, Store, Verified

__all__ = [
    "VOLUMES",
    "Ensured",
    "Entry",
    "Hosts",
    "JobModels",
    "Manifest",
    "Progress",
    "Pulled",
    "Root",
    "Rules",
    "Shelf",
    "Stale",
    "Store",
    "Verified",
    "find_roots",
    "load",
    "paths_yaml",
    "rename_models",
]
