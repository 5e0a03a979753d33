"""OAuth tokens for Vertex: given, minted from a credentials file, or asked of gcloud.

No token is kept on disk. Source: developers.google.com/identity/protocols/oauth2/service-account.
"""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import requests

from pennyreel import _http
from pennyreel.config import Secret, Settings, key_may_travel
from pennyreel.errors import Code, PennyreelError, error

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
MARGIN_S = 120.0
"""A token is not used in the last seconds of its life: a request may take that long."""

GCLOUD_S = 30.0
GCLOUD_KEPT_S = 300.0
"""gcloud does not say how long its token lives; at least so long."""

Mint = Callable[[], tuple[Secret, float]]
"""Returns a token and the seconds that it may be used for."""


class Tokens:
    """Gives a token that is good, minting one when it has to. Thread-safe."""

    def __init__(self, mint: Mint) -> None:
        """Keep the way to a token; nothing is sent."""
        self._mint = mint
        self._lock = threading.Lock()
        self._token: Secret | None = None
        self._until = 0.0

    def __call__(self) -> Secret:
        """Return a token.

        Raises:
            SetupNeeded, Unavailable: there is none to be had.

        """
        with self._lock:
            if self._token is None or time.monotonic() >= self._until:
                self._token, life = self._mint()
                self._until = time.monotonic() + life
            return self._token

    def held(self) -> tuple[Secret, ...]:
        """Return the token at hand, without asking for one."""
        return () if self._token is None else (self._token,)

    def renew(self) -> bool:
        """Drop the token; return whether another one may be had."""
        with self._lock:
            self._token = None
            return True


class Given(Tokens):
    """The token that the user gave. When it has expired, only the user has another."""

    def __init__(self, token: Secret) -> None:
        super().__init__(lambda: (token, float("inf")))

    def renew(self) -> bool:
        """There is no other."""
        return False


def tokens(settings: Settings) -> Tokens:
    """Return the way to tokens that is configured.

    Raises:
        SetupNeeded: none is.

    """
    if settings.vertex_token:
        return Given(settings.vertex_token)
    if settings.vertex_credentials is not None:
        file = settings.vertex_credentials
        return Tokens(lambda: _from_file(file))
    if settings.vertex_gcloud is not None:
        program = settings.vertex_gcloud
        return Tokens(lambda: _from_gcloud(program))
    raise error(
        Code.NOT_CONFIGURED,
        "no credentials for Vertex are set",
        hint="Set GOOGLE_APPLICATION_CREDENTIALS to a service account's JSON file, or "
        "PENNYREEL_GCLOUD to gcloud's full path, or PENNYREEL_VERTEX_TOKEN to an access token.",
    )


def _from_file(file: Path) -> tuple[Secret, float]:
    info = _credentials(file)
    kind = info.get("type")
    if kind == "service_account":
        form = {"grant_type": GRANT, "assertion": _assertion(info, file)}
    elif kind == "authorized_user":  # what `gcloud auth application-default login` writes
        form = {
            "grant_type": "refresh_token",
            "client_id": str(info.get("client_id")),
            "client_secret": str(info.get("client_secret")),
            "refresh_token": str(info.get("refresh_token")),
        }
    else:
        raise _unusable(file, f"credentials of type {str(kind)[:40]!r} are not supported")
    return _exchange(str(info.get("token_uri") or TOKEN_URL), form, file)


def _credentials(file: Path) -> dict[str, Any]:
    try:
        info = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:  # a parser's words may quote the key
        raise _unusable(file, f"it cannot be read ({type(problem).__name__})") from None
    if not isinstance(info, dict):
        raise _unusable(file, "it holds no JSON object")
    return info


def _assertion(info: dict[str, Any], file: Path) -> str:
    """Return a grant that the service account's key has signed."""
    try:
        from google.auth import crypt, jwt  # noqa: PLC0415 - only who needs it has it
    except ImportError:
        raise error(
            Code.NOT_INSTALLED,
            "a service account's key is used with google-auth, which is not installed",
            hint="Run: pip install 'pennyreel[vertex]'",
        ) from None
    now = int(time.time())
    claims = {
        "iss": info.get("client_email"),
        "scope": SCOPE,
        "aud": TOKEN_URL,
        "iat": now,
        "exp": now + 3600,
    }
    try:
        signer = crypt.RSASigner.from_service_account_info(info)  # type: ignore[no-untyped-call]
        signed: bytes = jwt.encode(signer, claims)  # type: ignore[no-untyped-call]
    except Exception as problem:  # noqa: BLE001 - whatever it says may quote the key
        raise _unusable(file, f"its private key is not usable ({type(problem).__name__})") from None
    return signed.decode()


def _exchange(url: str, form: dict[str, str], file: Path) -> tuple[Secret, float]:
    """Trade a grant for a token."""
    if not key_may_travel(url):
        raise _unusable(file, "its token_uri is not https")
    api = _http.Api(url, None)
    try:
        reply = api.call(
            "POST",
            "",
            body=urlencode(form).encode(),
            content_type="application/x-www-form-urlencoded",
        )
    except requests.RequestException as problem:
        raise error(
            Code.BACKEND_UNAVAILABLE,
            f"Google's token server cannot be reached ({type(problem).__name__})",
            hint="Check the network, then try again.",
        ) from None
    finally:
        api.close()
    if reply.status_code >= 500 or reply.status_code == 429:
        raise error(Code.BACKEND_UNAVAILABLE, f"Google's token server answers {reply.status_code}")
    body = _object(reply)
    token = body.get("access_token")
    if reply.status_code != 200 or not isinstance(token, str) or not _is_token(token):
        why = str(body.get("error_description") or body.get("error") or reply.status_code)[:200]
        raise error(
            Code.UNAUTHORIZED,
            f"Google gives no token for {file.name}: {why}",
            hint=f"Make a new key for the account, or log in again; then correct {file}.",
        )
    life = body.get("expires_in")
    return Secret(token), max(0.0, float(life if isinstance(life, (int, float)) else 0) - MARGIN_S)


def _from_gcloud(program: Path) -> tuple[Secret, float]:
    """Ask gcloud, which has the user's login."""
    if not program.is_absolute():
        raise error(
            Code.NOT_CONFIGURED,
            f"PENNYREEL_GCLOUD is not a full path: {program}",
            hint="Write the whole path that `command -v gcloud` prints.",
        )
    try:
        done = subprocess.run(
            [str(program), "auth", "print-access-token"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GCLOUD_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise _no_login(program, type(problem).__name__) from None
    token = done.stdout.decode("ascii", "replace").strip()
    if done.returncode or not _is_token(token):
        raise _no_login(program, f"it ended with {done.returncode}")
    return Secret(token), GCLOUD_KEPT_S


def _is_token(text: str) -> bool:
    """Whether a header can carry it."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def _no_login(program: Path, why: str) -> PennyreelError:
    return error(
        Code.UNAUTHORIZED,
        f"{program.name} gives no access token ({why})",
        hint=f"Run: {program} auth login",
    )


def _unusable(file: Path, why: str) -> PennyreelError:
    return error(
        Code.NOT_CONFIGURED,
        f"the credentials file {file} cannot be used: {why}",
        hint="Set GOOGLE_APPLICATION_CREDENTIALS to a service account's JSON file.",
    )


def _object(reply: requests.Response) -> dict[str, Any]:
    try:
        body = reply.json()
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}
