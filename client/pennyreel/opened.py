"""The backends that a client has opened: one connection each, shared by its threads."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from pennyreel.config import Settings
from pennyreel.errors import PennyreelError
from pennyreel.types import Health

if TYPE_CHECKING:  # it brings requests along, which costs a tenth of a second
    from pennyreel.backends.base import Backend


class Opened:
    """Thread-safe; nothing is opened before it is asked for."""

    def __init__(self, settings: Settings) -> None:
        """Keep the settings."""
        self._settings = settings
        self._lock = threading.Lock()
        self._open: dict[tuple[str, str | None], Backend] = {}

    def get(self, name: str, target: str | None = None) -> Backend:
        """Return a backend by name, opened once."""
        with self._lock:
            if name == "dev":  # its address changes with each `pennyreel dev`
                _close(self._open.pop((name, target), None))
            if (name, target) not in self._open:
                self._open[name, target] = self.fresh(name, target)
            return self._open[name, target]

    def fresh(self, name: str, target: str | None = None) -> Backend:
        """Return one that whoever asks for it closes."""
        from pennyreel.backends import registry  # noqa: PLC0415 - see above

        return registry.open_backend(name, self._settings, target)

    def health(self, name: str) -> Health:
        """Ask one how it is, at no cost. Never raises."""
        try:
            return self.get(name).health()
        except PennyreelError as problem:
            return Health(name, False, str(problem), problem.hint)

    def healths(self) -> list[Health]:
        """Ask each that is there, and the installed ComfyUI where it runs elsewhere."""
        from pennyreel import localcomfy  # noqa: PLC0415 - see above
        from pennyreel.backends import registry  # noqa: PLC0415

        found = [self.health(name) for name in registry.names()]
        server = localcomfy.running(self._settings.comfyui_home)
        if server is not None and server.url != self._settings.comfyui_url:
            found.append(self.get("comfyui", server.url).health())
        return found

    def close(self) -> None:
        """Let their connections go."""
        with self._lock:
            opened, self._open = self._open, {}
        for backend in opened.values():
            _close(backend)


def _close(backend: Backend | None) -> None:
    if backend is not None:
        backend.close()
