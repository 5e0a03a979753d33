"""S3 on loopback for as long as the stack runs: moto's server, in a thread of this process."""

from __future__ import annotations

import logging
import secrets
from typing import Any

import requests

BUCKET = "pennyreel"


class LocalS3:
    """An S3 with one bucket. What it holds is in memory, and gone when it closes."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._server: Any = None
        self.url = ""
        # moto checks no key; random ones keep anybody from mistaking them for real.
        self.key = f"dev{secrets.token_hex(8)}"
        self.secret = secrets.token_hex(20)

    @property
    def host(self) -> str:
        """Its host:port."""
        return self.url.removeprefix("http://")

    def start(self) -> None:
        """Serve on a free port and make the bucket."""
        from moto.server import ThreadedMotoServer  # noqa: PLC0415 - a second, and an extra

        # werkzeug would log every request, signed URLs included.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._server.start()
        _, port = self._server.get_host_and_port()
        self.url = f"http://127.0.0.1:{port}"
        with requests.Session() as session:
            session.trust_env = False
            session.put(f"{self.url}/{BUCKET}", timeout=30).raise_for_status()

    def close(self) -> None:
        """Stop serving."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    def worker_environment(self) -> dict[str, str]:
        """Return what a worker needs to deliver here, and to fetch inputs from here."""
        return {
            "BUCKET_ENDPOINT_URL": self.url,
            "BUCKET_NAME": BUCKET,
            "BUCKET_ACCESS_KEY_ID": self.key,
            "BUCKET_SECRET_ACCESS_KEY": self.secret,
            "BUCKET_REGION": "us-east-1",
            "BUCKET_ADDRESSING": "path",
            "PENNYREEL_ALLOW_HOSTS": self.host,
        }

    def client_settings(self) -> dict[str, str]:
        """Return what a client needs to put large inputs here."""
        return {
            "endpoint": self.url,
            "bucket": BUCKET,
            "key": self.key,
            "secret": self.secret,
            "region": "us-east-1",
        }
