"""Google's token endpoint: a signed grant of a service account, or a user's refresh token.

Source: RFC 7523; developers.google.com/identity/protocols/oauth2/service-account.
"""

from __future__ import annotations

import base64
import json
import time
from typing import Any

from aiohttp import web

from pennyreel_emulators.google.store import Store

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
AUDIENCE = "https://oauth2.googleapis.com/token"


class _Invalid(Exception):
    """Answered with 400 invalid_grant."""


class OAuth:
    """The handler of /token."""

    def __init__(self, store: Store, origin: Any) -> None:
        self._store = store
        self._origin = origin

    def add_routes(self, app: web.Application) -> None:
        """Mount the route."""
        app.router.add_post("/token", self._token)

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        try:
            if form.get("grant_type") == GRANT:
                self._check_assertion(str(form.get("assertion", "")))
            elif form.get("grant_type") == "refresh_token":
                self._check_refresh(str(form.get("refresh_token", "")))
            else:
                return _refuse("unsupported_grant_type", "Invalid grant_type.")
        except _Invalid as why:
            return _refuse("invalid_grant", str(why))
        token = f"ya29.EMULATED-{self._store.number()}"
        self._store.tokens.add(token)
        life = self._store.config.token_life_s
        return web.json_response(
            {"access_token": token, "expires_in": life, "token_type": "Bearer"}
        )

    def _check_refresh(self, token: str) -> None:
        if token not in self._store.config.refresh_tokens:
            raise _Invalid("Token has been expired or revoked.")

    def _check_assertion(self, assertion: str) -> None:
        head, claims, signed, signature = _parts(assertion)
        key = self._store.config.service_accounts.get(str(claims.get("iss")))
        if key is None:
            raise _Invalid("Invalid grant: account not found")
        if head.get("alg") != "RS256" or not _signed_by(key, signed, signature):
            raise _Invalid("Invalid JWT Signature.")
        now, issued, until = time.time(), claims.get("iat", 0), claims.get("exp", 0)
        if not (issued - 300 <= now <= until and until - issued <= 3600):
            raise _Invalid("Invalid JWT: Token must be a short-lived token (60 minutes).")
        if claims.get("aud") not in {AUDIENCE, f"{self._origin()}/token"}:
            raise _Invalid("Invalid JWT: audience.")
        if "cloud-platform" not in str(claims.get("scope")):
            raise _Invalid("Invalid OAuth scope.")


def _parts(assertion: str) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    try:
        head, claims, signature = assertion.split(".")
        signed = f"{head}.{claims}".encode()
        return json.loads(_decode(head)), json.loads(_decode(claims)), signed, _decode(signature)
    except ValueError:
        raise _Invalid("Bad JWT.") from None


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _signed_by(pem: str, signed: bytes, signature: bytes) -> bool:
    """Whether the signature is RS256 of this key; `cryptography` comes with the extra `dev`."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - only who signs needs it
    from cryptography.hazmat.primitives import hashes, serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import padding, rsa  # noqa: PLC0415

    key = serialization.load_pem_public_key(pem.encode())
    if not isinstance(key, rsa.RSAPublicKey):
        return False
    try:
        key.verify(signature, signed, padding.PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _refuse(code: str, why: str) -> web.Response:
    return web.json_response({"error": code, "error_description": why}, status=400)
