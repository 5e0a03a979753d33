"""What keeps a backend from a job though it is there, or would be: nodes, models, itself."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from pennyreel import localcomfy
from pennyreel.backends.base import LACKS_S, Backend, Stocked
from pennyreel.config import Settings
from pennyreel.errors import PennyreelError
from pennyreel.money.ledger import Ledger
from pennyreel.need import Lacks, Need
from pennyreel.provision import offer
from pennyreel.provision.offer import Offer
from pennyreel.routing.facts import Place
from pennyreel.types import Health

FRESH_S = 30.0
"""So long all processes believe that a place has what a job requires."""


def lacks(
    settings: Settings, ledger: Ledger, need: Need, backend: Backend, place: Place, health: Health
) -> Offer | None:
    """Return what it lacks, and what would mend it; None: nothing, or nobody knows.

    Of this machine's own ComfyUI that is stopped, the disk tells; where there is none, all is
    lacking.
    """
    try:
        if health.reachable and isinstance(backend, Stocked):
            told = _told(ledger, need, backend)
            if not told:
                return None
            found = (
                offer.here(settings, need, told) if offer.ours(settings, backend.target) else None
            )
            return found or offer.elsewhere(settings, need, told)
        if health.reachable or backend.name != "comfyui" or place is not Place.LOCAL:
            return None
        if localcomfy.running(settings.comfyui_home) is not None:  # at another address
            return None
        found = offer.here(settings, need)
    except (PennyreelError, OSError):  # it cannot be installed here, or not be looked at
        return None
    return None if found is None else found._replace(why=f"{health.detail}; {found.why}")


def _told(ledger: Ledger, need: Need, backend: Stocked) -> Lacks | None:
    """Ask it, or use what another process has heard."""
    digest = hashlib.sha256(repr((need.classes, need.models)).encode("utf-8", "replace"))

    def ask() -> dict[str, Any]:
        try:
            told = backend.lacks(need)
        except Exception:  # noqa: BLE001 - another package's: then it is not known
            told = None
        return {} if told is None else asdict(told)

    with suppress(PennyreelError):
        answer = ledger.probed(
            f"lacks {backend.name}:{backend.target} {digest.hexdigest()[:16]}",
            ask,
            fresh_s=FRESH_S,
            limit_s=LACKS_S,
            keep=lambda answer: not _read(answer),  # what is missing is about to be mended
        ).answer
        return _read(answer)
    return None


def _read(answer: Mapping[str, Any]) -> Lacks:
    models = {
        name: tuple((str(folder), str(file)) for folder, file in answer.get(name, ()))
        for name in ("models", "unsure")
    }
    return Lacks(tuple(map(str, answer.get("classes", ()))), **models)
