"""One JSON API with its key: each request once, each answer within its time and size."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

import requests

from pennyreel._http.addresses import shown
from pennyreel._http.transport import CONNECT_S, READ_S, Bearer, Key, session
from pennyreel.config import key_may_travel, well_formed
from pennyreel.errors import Code, error
from pennyreel_comfy.sessions import MAX_JSON, bounded, take

MAX_CLIP = 256 << 20
"""Bytes taken of an answer that holds a clip, in base64 or plain: less than a machine's memory."""

CLIP_S = 600.0
"""Seconds for such a one, on a slow line."""


class Api:
    """One JSON API under a base URL, with its key."""

    def __init__(self, base_url: str, key: Key, *, header: str = "Authorization") -> None:
        """Keep them; refuses an address to which a key may not be sent.

        In the header Authorization the key is a bearer token; in any other it stands alone.
        """
        if not well_formed(base_url) or urlsplit(base_url).username:
            raise error(
                Code.NOT_CONFIGURED,
                "the base URL is not a plain http(s) address",
                hint="Write it like https://api.runpod.ai/v2",
            )
        if key is not None and not key_may_travel(base_url):
            raise error(
                Code.NOT_CONFIGURED,
                f"the API key is not sent to {shown(base_url)}: it is not https",
                hint="Use an https address, or http on this machine.",
            )
        self.base_url = base_url.rstrip("/")
        self._auth = Bearer(key, header)
        self._local = threading.local()

    def call(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        timeout: float = READ_S,
        whole: float | None = None,
        most: int = MAX_JSON,
        headers: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> requests.Response:
        """Send one request, once, and return its whole answer.

        Args:
            method: of HTTP.
            path: below the base URL.
            body: what is sent.
            timeout: seconds to its first byte, and between any two.
            whole: seconds to its last byte; those of `timeout` where not given.
            most: bytes taken of it.
            headers: sent besides.
            content_type: of the body.

        Raises:
            requests.RequestException: no answer, or one that is too large or too slow;
                `never_sent` tells if anything left.
            Unavailable: the answer is a redirect, which would take the key elsewhere.

        """
        told = {"Content-Type": content_type, "User-Agent": "pennyreel", **(headers or {})}
        with (
            bounded(timeout if whole is None else max(whole, timeout)),
            self._session().request(
                method,
                self.base_url + path,
                data=body,
                headers=told,
                auth=self._auth,
                timeout=(min(CONNECT_S, timeout), timeout),
                allow_redirects=False,
                stream=True,
            ) as reply,
        ):
            take(reply, most)
        if 300 <= reply.status_code < 400:
            raise error(
                Code.BACKEND_UNAVAILABLE,
                f"{urlsplit(self.base_url).hostname} redirects to another address; the key is not "
                "sent there",
                hint="Check the base URL.",
                retryable=False,
            )
        return reply

    def close(self) -> None:
        """Close this thread's connections."""
        opened: requests.Session | None = getattr(self._local, "session", None)
        if opened is not None:
            opened.close()

    def _session(self) -> requests.Session:
        opened: requests.Session | None = getattr(self._local, "session", None)
        if opened is None:
            opened = self._local.session = session(self.base_url)
        return opened
