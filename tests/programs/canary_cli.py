"""The real command line with Python's logging at DEBUG, and one leak where LEAK names it.

The leaks are what a careless change could do; the canary test has to find every one of them.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)


def log() -> None:
    """A key in a debug line."""
    _before_call(lambda key: logging.getLogger("pennyreel").debug("calling with %s", key))


def error() -> None:
    """A key in an error's message."""

    def fail(key: str) -> None:
        from pennyreel.errors import Code
        from pennyreel.errors import error as make

        raise make(Code.BACKEND_UNAVAILABLE, f"no answer to a request with {key}")

    _before_call(fail)


def file() -> None:
    """A key in a file that is forgotten in the temporary folder."""

    def write(key: str) -> None:
        folder = Path(tempfile.gettempdir())
        (folder / "request.log").write_text(f"Authorization: Bearer {key}")

    _before_call(write)


def argv() -> None:
    """A key on a child's command line."""

    def spawn(key: str) -> None:
        wait = "import time; time.sleep(1.5)"
        subprocess.run([sys.executable, "-c", wait, f"--token={key}"], check=True)

    _before_call(spawn)


def ledger() -> None:
    """A key, in base64, in the record of a decision."""
    import base64

    from pennyreel.config import load
    from pennyreel.money.ledger import Ledger

    plain: Any = Ledger.record_decision

    def record(self: Ledger, job_id: str, body: dict[str, Any]) -> None:
        key = load().gemini_api_key
        told = base64.b64encode(f"key:{key.reveal() if key else ''}".encode()).decode()
        plain(self, job_id, {**body, "with": told})

    Ledger.record_decision = record  # type: ignore[method-assign]


def host() -> None:
    """A key that follows a redirect."""
    import requests

    plain: Any = requests.Session.request

    def request(self: requests.Session, *args: Any, **options: Any) -> Any:
        reply = plain(self, *args, **options)
        place = reply.headers.get("Location")
        if place:
            sent = dict(reply.request.headers)
            plain(self, "GET", place, headers=sent, allow_redirects=False, timeout=5)
        return reply

    requests.Session.request = request  # type: ignore[method-assign]


def representation() -> None:
    """A key in the repr of what is configured."""
    from pennyreel import config

    config.Secret.__repr__ = lambda self: f"Secret({self.reveal()})"  # type: ignore[method-assign]
    logging.getLogger("pennyreel").debug("%r", config.load())


LEAKS = (log, error, file, argv, ledger, host, representation)


def _before_call(leak: Callable[[str], None]) -> None:
    from pennyreel import _http

    plain: Any = _http.Api.call

    def call(self: _http.Api, *args: Any, **options: Any) -> Any:
        key: Any = self._auth._key
        key = key() if callable(key) else key
        if key is not None:
            leak(key.reveal())
        return plain(self, *args, **options)

    _http.Api.call = call  # type: ignore[method-assign]


if __name__ == "__main__":
    for planted in LEAKS:
        if planted.__name__ == os.environ.get("LEAK"):
            planted()
    from pennyreel.cli.app import run

    sys.exit(run())
