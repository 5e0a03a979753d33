"""What a template or a workflow requires, and where each part of it can be had."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pennyreel import needs, workload
from pennyreel.errors import PennyreelError
from pennyreel.need import Need
from pennyreel_comfy import graph as graphs
from pennyreel_comfy import templates
from pennyreel_comfy.install.lock import read_lock
from pennyreel_comfy.models import Entry, Manifest
from pennyreel_comfy.preflight.packs import pack_of
from pennyreel_comfy.templates import Template
from pennyreel_comfy.waiting import Deadline

FETCH_S = 60.0
"""How long a workflow may take that is named by its URL."""


@dataclass(frozen=True)
class PackWanted:
    """A node pack. Without a commit it is not installed by itself: which one would be meant?"""

    name: str
    url: str
    commit: str = ""
    licence: str = ""
    bytes: int | None = None
    """To download, with what it requires; None = not known."""
    classes: tuple[str, ...] = ()
    """Those of it that the graph has, as far as is known."""

    @property
    def pinned(self) -> str:
        """As the installer takes it."""
        return f"{self.url}@{self.commit or 'COMMIT'}"


@dataclass(frozen=True)
class ModelWanted:
    """A model file; no entry = no list of models knows it."""

    folder: str
    """"" = not known."""
    name: str
    entry: Entry | None = None

    @property
    def key(self) -> str:
        """Folder and name."""
        return f"{self.folder or '?'}/{self.name}"


@dataclass(frozen=True)
class Wanted:
    """All of it."""

    what: str
    """What `pennyreel setup` is called with: a template's name, or a workflow's file."""
    classes: tuple[str, ...] = ()
    """Node classes of no pack that is known: ComfyUI's own, or a stranger's."""
    packs: tuple[PackWanted, ...] = ()
    models: tuple[ModelWanted, ...] = ()

    def only(self, classes: tuple[str, ...], models: tuple[tuple[str, str], ...]) -> Wanted:
        """Return what of it these classes and models (folder, name) are about."""
        packs = [
            replace(p, classes=tuple(c for c in p.classes if c in classes)) for p in self.packs
        ]
        return replace(
            self,
            classes=tuple(c for c in self.classes if c in classes),
            packs=tuple(p for p in packs if p.classes),
            models=tuple(m for m in self.models if (m.folder, m.name) in models),
        )


def need_of(what: str) -> Need:
    """Return what a template (by name) or a workflow (a file or URL) requires.

    Raises:
        BadRequest: there is none, or it is no workflow in the API format.

    """
    loaded = workload.load(what, Deadline(FETCH_S))
    if not isinstance(loaded, Template):
        return needs.of_graph(graphs.parse(loaded))
    try:
        return needs.of_template(loaded, loaded.render())
    except PennyreelError:  # it has a parameter without a default: the graph as it is, then
        return needs.of_graph(loaded.graph)


def wanted(need: Need, manifest: Manifest, what: str | None = None) -> Wanted:
    """Return where the parts of a need can be had, by the template's word, else by the lists.

    `what` is how `pennyreel setup` is called for it; the template's name, unless given.
    """
    template = None if need.template is None else templates.load(need.template)
    by_pack: dict[str, list[str]] = {}
    others: list[str] = []
    for name in need.classes:
        found = pack_of(name)
        (others if found is None else by_pack.setdefault(found.name, [])).append(name)
    known = _known_packs(template)
    return Wanted(
        what or need.template or "WORKFLOW.json",
        classes=tuple(others),
        packs=tuple(_pack(known, name, tuple(by_pack[name])) for name in by_pack),
        models=tuple(_model(template, manifest, *model) for model in need.models),
    )


def _known_packs(template: Template | None) -> Mapping[str, PackWanted]:
    """Return the packs whose commit is known: those of the image, then the template's own."""
    found: dict[str, Any] = {p.name: p for p in read_lock().nodes.packs}
    known = {name: PackWanted(name, p.repository, p.commit, p.licence) for name, p in found.items()}
    for listed in templates.list_templates():
        if template is None or listed.name != template.name:
            known |= _packs_of(listed)
    return known | ({} if template is None else _packs_of(template))


def _packs_of(template: Template) -> dict[str, PackWanted]:
    return {
        p.name: PackWanted(p.name, p.url, p.commit, p.licence, p.bytes)
        for p in template.needs.node_packs
    }


def _pack(known: Mapping[str, PackWanted], name: str, classes: tuple[str, ...]) -> PackWanted:
    pack = known.get(name)
    if pack is None:
        found = pack_of(classes[0])
        pack = PackWanted(name, "" if found is None else found.url)
    return replace(pack, classes=classes)


def _model(template: Template | None, manifest: Manifest, folder: str, name: str) -> ModelWanted:
    """The user's own list comes first: an entry of it may be another copy of the same."""
    listed = manifest.find(folder, name)
    if listed is None and not folder:
        listed = next((e for e in manifest.entries if e.name == name), None)
    named = next((m for m in template.models if m.name == name), None) if template else None
    if listed is None and named is not None:
        listed = Entry(**named.model_dump())
    return ModelWanted(folder if listed is None else listed.folder, name, listed)
