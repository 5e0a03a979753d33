"""What tells the credentials of a backend from others, and tells nothing else about them.

What is known of a backend's health is known of the key that it was asked with: whoever sets
another begins anew. So breakers and probes, which all processes share, are kept by this mark too.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator

from pennyreel.config.dev import dev_stack
from pennyreel.config.secret import Secret
from pennyreel.config.settings import Settings
from pennyreel.errors import PennyreelError

_VERTEX = ("vertex_token",)
_SECRETS: dict[str, tuple[str, ...]] = {
    "comfyui": ("comfyui_auth",),
    "gemini": ("gemini_api_key",),
    "huggingface": ("hf_token",),
    "replicate": ("replicate_api_token",),
    "runpod": ("runpod_api_key",),
    "veo": _VERTEX,
    "veo-fast": _VERTEX,
}
_DIGITS = 4
"""Enough to tell a few keys of one user apart, and so few that a guessed key proves nothing: of a
million passwords, sixteen have the same mark."""

_LABEL = b"pennyreel credentials 1"


def credentials_mark(settings: Settings, backend: str) -> str:
    """Return a few hexadecimal digits of a backend's credentials; "" = it has none, or none to see.

    A key in the keyring is asked for. Never raises.
    """
    try:
        parts = list(_parts(settings, backend))
    except PennyreelError:  # the keyring does not give it: nor does it to the backend
        return ""
    if not any(parts):
        return ""
    key = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.new(key, _LABEL, hashlib.sha256).hexdigest()[:_DIGITS]


def marked(settings: Settings, backend: str, name: str) -> str:
    """Return a name, of something kept about this backend, with its credentials' mark."""
    mark = credentials_mark(settings, backend)
    return f"{name} #{mark}" if mark else name


def _parts(settings: Settings, backend: str) -> Iterator[bytes]:
    for field in _SECRETS.get(backend, ()):
        secret: Secret | None = getattr(settings, field)
        # Which of them is set counts, too.
        yield b"" if secret is None else secret.reveal().encode("utf-8", "replace")
    if backend == "dev":
        stack = dev_stack(settings.home)
        if stack is not None:
            yield stack.api_key.reveal().encode()
    if backend in {"veo", "veo-fast"}:
        yield from _google_login(settings)


def _google_login(settings: Settings) -> Iterator[bytes]:
    """Yield what is in the login's file, or whose login it is as far as the settings tell."""
    yield str(settings.vertex_gcloud or "").encode("utf-8", "replace")
    file = settings.vertex_credentials
    try:
        yield b"" if file is None else file.read_bytes()
    except OSError:
        yield str(file).encode("utf-8", "replace")
