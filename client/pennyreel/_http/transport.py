"""Sessions that send no credential of their own accord, and answers that are safe to read.

The requests library would follow redirects with the key attached to the same host, take
credentials from .netrc and send a local request through a proxy. None of that happens here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import requests
from requests.auth import AuthBase

from pennyreel.config import Secret, is_loopback
from pennyreel_comfy.sessions import Watched
from pennyreel_contract.steering import harmless_text

CONNECT_S = 10.0
READ_S = 30.0

Key = Secret | Callable[[], Secret] | None
"""A key, or what is asked for it before each request: a token that expires."""


class Bearer(AuthBase):
    """Adds the key; being an `auth`, it also keeps .netrc out."""

    def __init__(self, key: Key, header: str = "Authorization") -> None:
        self._key = key
        self._header = header

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        key = self._key() if callable(self._key) else self._key
        if key is not None:
            scheme = "Bearer " if self._header == "Authorization" else ""
            request.headers[self._header] = scheme + key.reveal()
        return request


def session(url: str) -> requests.Session:
    """Return a session for this URL; one that leads to this machine knows no proxy."""
    opened = requests.Session()
    opened.trust_env = not is_loopback(url)
    for scheme in ("http://", "https://"):
        opened.mount(scheme, _Adapter())
    return opened


def harmless(body: Any) -> Any:
    """Return JSON without the characters that steer a terminal."""
    if isinstance(body, str):
        return harmless_text(body)
    if isinstance(body, dict):
        return {harmless(name): harmless(value) for name, value in body.items()}
    return [harmless(one) for one in body] if isinstance(body, list) else body


class _Reply(requests.Response):
    """An answer whose JSON cannot break its reader, or a terminal."""

    def json(self, **options: Any) -> Any:
        """Return it; ValueError also where it is nested without end."""
        try:
            return harmless(super().json(**options))
        except RecursionError:
            raise ValueError("nested too deep") from None


class _Adapter(Watched):
    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Make it one that can be trusted to be read."""
        reply = super().build_response(req, resp)
        reply.__class__ = _Reply
        return reply


class _NoQueries(logging.Filter):
    """Takes the queries out of urllib3's debug lines: signatures stand there."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change the record; it is always told."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                f"{a.partition('?')[0]}?***" if isinstance(a, str) and "?" in a else a
                for a in record.args
            )
        return True


logging.getLogger("urllib3.connectionpool").addFilter(_NoQueries())
