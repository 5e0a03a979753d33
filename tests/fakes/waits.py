"""How tests wait: for a condition, with an end, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(check: Callable[[], bool], seconds: float = 15) -> None:
    limit = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < limit, "never became true"
        time.sleep(0.02)
