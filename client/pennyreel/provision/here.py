"""Which folder of models is meant, which lists of models there are, and who may be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pennyreel import config
from pennyreel.config import Secret, Settings
from pennyreel.errors import Code, error
from pennyreel_comfy import models
from pennyreel_comfy.install import Installation
from pennyreel_comfy.models import Entry, Hosts, Manifest, Pulled, Store
from pennyreel_comfy.models.lock import locked
from pennyreel_comfy.models.manifest import parse, written
from pennyreel_comfy.waiting import CancelToken, Deadline

NO_LIMIT = 1 << 50
"""Bytes: who runs this says what is to come, and the disk says where it ends."""


@dataclass(frozen=True)
class Here:
    """The folder that is meant, and the lists of models."""

    settings: Settings
    store: Store
    manifest: Manifest
    mine: Path

    @classmethod
    def load(
        cls,
        root: Path | None = None,
        manifests: Sequence[Path] = (),
        *,
        settings: Settings | None = None,
    ) -> Here:
        """Read the settings and the lists: the built-in one, the user's own, `manifests`.

        Args:
            root: the folder of models; that of the installed ComfyUI, unless given.
            manifests: more lists.
            settings: they are read, unless given.

        Raises:
            SetupNeeded: `not_installed`: no root is given, and no ComfyUI is installed.

        """
        settings = settings or config.load()
        mine = settings.home / "models.toml"
        files = [*([mine] if mine.exists() else []), *manifests]
        store = models.Store(root or _installed(settings))
        return cls(settings, store, models.load(files), mine)

    def hosts(self, allow: Sequence[str]) -> Hosts:
        """Return the hosts that may be asked, with the user's tokens."""
        return Hosts(
            allow,
            hf_token=_revealed(self.settings.hf_token),
            civitai_token=_revealed(self.settings.civitai_token),
        )

    def check_new(self, entry: Entry) -> None:
        """Refuse what the user's own list has already: which of the two would be meant?"""
        known = parse(self.mine.read_bytes(), str(self.mine)) if self.mine.exists() else ()
        if entry.key in {one.key for one in known}:
            raise error(
                Code.BAD_REQUEST,
                f"{self.mine} has {entry.key} already",
                hint="Choose another --name, or take it out of that file.",
            )

    def check_meant(self, done: Pulled) -> None:
        """Refuse a file that was there before: its content need not be what the URL leads to."""
        if done.sha256:
            return
        (found,) = self.store.verify([done.entry], deadline=Deadline(None), cancel=CancelToken())
        raise error(
            Code.BAD_REQUEST,
            f"{done.path} was there already, and nothing says that it is what the URL leads to",
            hint=f"If it is, add --sha256 {found.sha256}; if not, choose another --name.",
        )

    def write(self, entry: Entry) -> None:
        """Add an entry to the user's own list, whoever else does that now."""
        self.mine.parent.mkdir(parents=True, exist_ok=True)
        with locked(
            self.mine.with_suffix(".lock"),
            deadline=Deadline(30),
            cancel=CancelToken(),
            doing=f"waiting for {self.mine}",
        ):
            self.check_new(entry)
            before = self.mine.read_text(encoding="utf-8") if self.mine.exists() else ""
            gap = "\n" if before else ""
            temporary = self.mine.with_suffix(".tmp")
            temporary.write_text(f"{before.rstrip()}{gap * 2}{written(entry)}", encoding="utf-8")
            temporary.replace(self.mine)


def raise_failed(failed: Sequence[Pulled], of: int) -> None:
    """Raise what went wrong: the first one's error, with the others named."""
    problems = [one.problem for one in failed if one.problem is not None]
    if not problems:
        return
    if len(problems) == 1:
        raise problems[0]
    first = problems[0]
    raise error(
        Code(first.code),
        f"{len(problems)} of {of} models did not come: " + "; ".join(str(p) for p in problems),
        hint=first.hint,
        retryable=any(p.retryable for p in problems),
        detail={"models": [one.entry.key for one in failed]},
    )


def _installed(settings: Settings) -> Path:
    found = Installation.load(settings.comfyui_home)
    if found is None:
        raise error(
            Code.NOT_INSTALLED,
            f"ComfyUI is not installed in {settings.comfyui_home}",
            hint="Run: pennyreel comfyui install. Or name a folder of models with --root.",
        )
    return found.layout.comfy / "models"


def _revealed(secret: Secret | None) -> str | None:
    return secret.reveal() if secret else None
