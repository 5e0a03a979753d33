"""Results that came with the answer to a submit: nobody else has them, so they go to disk at once.

A handle names such a job by its attempt; another process of this user finds it here.
"""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from pennyreel.backends._hf_offers import write_private
from pennyreel.backends._hf_words import Output, Seen

KEPT_S = 86_400.0
"""A day: who has not fetched it by then has it no more."""


class Answers:
    """Ends of jobs, by attempt id."""

    def __init__(self, folder: Path) -> None:
        """Keep the place; the folder appears with the first answer."""
        self._folder = folder
        self._memory: dict[str, Seen] = {}

    def put(self, attempt_id: str, seen: Seen) -> None:
        """Keep an end. On a full disk it lives as long as this process: it is paid for."""
        self._prune()
        try:
            write_private(self._file(attempt_id), json.dumps(asdict(seen)))
        except OSError:
            self._memory[attempt_id] = seen

    def get(self, attempt_id: str) -> Seen | None:
        """Return an end, or None where it is not known (any more)."""
        if attempt_id in self._memory:
            return self._memory[attempt_id]
        try:
            stored = json.loads(self._file(attempt_id).read_text(encoding="utf-8"))
            outputs = tuple(Output(**o) for o in stored["outputs"])
            return Seen(stored["state"], outputs, str(stored["why"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _file(self, attempt_id: str) -> Path:
        name = hashlib.sha256(attempt_id.encode("utf-8", "replace")).hexdigest()[:40]
        return self._folder / f"{name}.json"

    def _prune(self) -> None:
        oldest = time.time() - KEPT_S
        with suppress(OSError):  # there is no folder
            for file in list(self._folder.glob("*.json")):
                with suppress(OSError):  # another process was first
                    if file.stat().st_mtime < oldest:
                        file.unlink()
