"""Characters that steer a terminal, or the direction of its text: nobody's words may hold them."""

from __future__ import annotations

import re

_STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""C0 but tab and line feed, DEL, C1, and Unicode's overrides and isolates."""


def harmless_text(text: str) -> str:
    """Return it with a replacement character for each of them."""
    return _STEERING.sub("\ufffd", text)


def harmless_json(text: str) -> str:
    r"""Return JSON in which they are written like \u009b: it says the same to whoever reads it."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
