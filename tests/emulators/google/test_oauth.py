"""The token endpoint takes what Google's own library signs, and nothing else."""

from __future__ import annotations

import time
from typing import Any

import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.auth import crypt, jwt
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from pennyreel_emulators.google import GoogleApis, GoogleConfig

ROBOT = "robot@emulated-project.iam.example"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def config(key: rsa.RSAPrivateKey) -> GoogleConfig:
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return GoogleConfig(service_accounts={ROBOT: public.decode()})


def test_google_auth_gets_a_token_that_opens_vertex(key: rsa.RSAPrivateKey) -> None:
    with GoogleApis(config(key)) as google:
        info = {"client_email": ROBOT, "private_key": pem(key), "token_uri": google.token_url}
        made: Any = service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call]
        with requests.Session() as session:
            made.refresh(Request(session))  # type: ignore[no-untyped-call]
        place = f"{google.base_url}/v1/publishers/google/models/veo-3.1-generate-001"
        token = {"Authorization": f"Bearer {made.token}"}
        assert requests.get(place, headers=token, timeout=10).status_code == 200
        assert requests.get(place, timeout=10).status_code == 401


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "stranger@x.example"},
        {"aud": "https://elsewhere.example/token"},
        {"scope": "https://www.googleapis.com/auth/drive"},
        {"exp": 0},
        {"exp": int(time.time()) + 86_400},
    ],
)
def test_a_grant_that_is_not_right_is_invalid(
    changes: dict[str, Any], key: rsa.RSAPrivateKey
) -> None:
    now = int(time.time())
    claims = {
        "iss": ROBOT,
        "aud": "https://oauth2.googleapis.com/token",
        "scope": SCOPE,
        "iat": now,
        "exp": now + 3600,
        **changes,
    }
    signed = jwt.encode(crypt.RSASigner.from_string(pem(key)), claims)  # type: ignore[no-untyped-call]
    with GoogleApis(config(key)) as google:
        form = {"grant_type": GRANT, "assertion": signed.decode()}
        reply = requests.post(google.token_url, data=form, timeout=10)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_grant")


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ({"grant_type": GRANT, "assertion": "a.b"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "1//x"}, "invalid_grant"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
    ],
)
def test_what_is_no_grant_is_refused(form: dict[str, str], code: str) -> None:
    with GoogleApis() as google:
        reply = requests.post(google.token_url, data=form, timeout=10)
    assert (reply.status_code, reply.json()["error"]) == (400, code)
