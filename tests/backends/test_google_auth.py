"""Tokens for Vertex: from a service account's key, from a login, from gcloud, or given."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from backends.google_rig import POLL_S, prompt_work
from client.support import Reply, Scripted
from fakes.ports import dead_port
from pennyreel.backends._google_auth import tokens
from pennyreel.backends.veo import VeoFastBackend
from pennyreel.config import Settings, load
from pennyreel.errors import PennyreelError, SetupNeeded, Unavailable
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_emulators.google import GoogleApis, GoogleConfig, Plan

ROBOT = "robot@emulated-project.iam.example"
REFRESH = "1//SECRET_refresh_0123456789"


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture
def private(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


@pytest.fixture
def google(key: rsa.RSAPrivateKey) -> Iterator[GoogleApis]:
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    config = GoogleConfig(
        access_tokens=(), service_accounts={ROBOT: public.decode()}, refresh_tokens=(REFRESH,)
    )
    with GoogleApis(config) as running:
        yield running


def settings(google: GoogleApis, **more: Any) -> Settings:
    return load({}, vertex_project="emulated-project", vertex_base_url=google.base_url, **more)


def account(folder: Path, google: GoogleApis, private: str, **changes: Any) -> Path:
    """A service account's file, as the console gives it."""
    file = folder / "robot.json"
    info = {
        "type": "service_account",
        "project_id": "emulated-project",
        "private_key_id": "k1",
        "private_key": private,
        "client_email": ROBOT,
        "token_uri": google.token_url,
        **changes,
    }
    file.write_text(json.dumps(info))
    return file


def login(folder: Path, google: GoogleApis, refresh: str = REFRESH) -> Path:
    """What `gcloud auth application-default login` writes."""
    file = folder / "adc.json"
    info = {
        "type": "authorized_user",
        "client_id": "id",
        "client_secret": "client-SECRET-0123456789",
        "refresh_token": refresh,
        "token_uri": google.token_url,
    }
    file.write_text(json.dumps(info))
    return file


def script(folder: Path, body: str) -> Path:
    """A program in gcloud's place."""
    program = folder / "gcloud"
    program.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    program.chmod(0o700)
    return program


def test_a_service_account_s_key_signs_for_tokens_and_one_serves_many_calls(
    tmp_path: Path, google: GoogleApis, private: str
) -> None:
    file = account(tmp_path, google, private)
    one = VeoFastBackend.open(settings(google, vertex_credentials=file))
    assert google.requests == ()
    assert one.health().reachable
    one.submit(prompt_work())
    one.close()
    assert [r.path for r in google.requests].count("/token") == 1
    assert len(google.accepted) == 1


def test_a_login_is_traded_for_tokens(tmp_path: Path, google: GoogleApis) -> None:
    one = VeoFastBackend.open(settings(google, vertex_credentials=login(tmp_path, google)))
    assert one.health().reachable
    one.close()


def test_gcloud_is_asked_for_tokens_by_its_full_path(tmp_path: Path, google: GoogleApis) -> None:
    minted = tokens(settings(google, vertex_credentials=login(tmp_path, google)))()
    program = script(
        tmp_path,
        f"assert sys.argv[1:] == ['auth', 'print-access-token']\nprint({minted.reveal()!r})",
    )
    one = VeoFastBackend.open(settings(google, vertex_gcloud=program))
    assert one.health().reachable
    one.close()


def test_a_token_that_expired_in_mid_job_is_replaced(tmp_path: Path, google: GoogleApis) -> None:
    given = settings(google, vertex_credentials=login(tmp_path, google))
    one = VeoFastBackend(
        "emulated-project/us-central1/veo-3.1-fast-generate-001",
        tokens(given),
        base_url=google.base_url,
        poll_s=POLL_S,
    )
    handle = one.submit(prompt_work())
    google.revoke()
    result = one.follow(
        handle, on_event=lambda _: None, deadline=Deadline(30), cancel=CancelToken()
    )
    assert result.artifacts
    google.revoke()
    one.submit(prompt_work())
    one.close()
    assert len(google.accepted) == 2


def test_a_token_is_not_used_in_the_last_moments_of_its_life(
    tmp_path: Path, key: rsa.RSAPrivateKey
) -> None:
    with GoogleApis(GoogleConfig(refresh_tokens=(REFRESH,), token_life_s=100)) as google:
        source = tokens(settings(google, vertex_credentials=login(tmp_path, google)))
        assert source().reveal() != source().reveal()


def test_a_given_token_that_has_expired_is_not_asked_for_twice(google: GoogleApis) -> None:
    one = VeoFastBackend.open(settings(google, vertex_token="ya29.old-0123456789"))
    with pytest.raises(SetupNeeded) as caught:
        one.submit(prompt_work())
    one.close()
    assert caught.value.code == "unauthorized"
    assert len(google.submits) == 1


def test_a_refused_token_is_renewed_once_and_not_for_ever(
    tmp_path: Path, google: GoogleApis
) -> None:
    google.script(Plan(refuse=401), Plan(refuse=401), Plan())
    one = VeoFastBackend.open(settings(google, vertex_credentials=login(tmp_path, google)))
    with pytest.raises(SetupNeeded):
        one.submit(prompt_work())
    one.close()
    assert len(google.submits) == 2
    assert google.accepted == ()


def test_without_credentials_all_three_ways_are_named(google: GoogleApis) -> None:
    with pytest.raises(SetupNeeded) as caught:
        VeoFastBackend.open(settings(google))
    for way in ("GOOGLE_APPLICATION_CREDENTIALS", "PENNYREEL_GCLOUD", "PENNYREEL_VERTEX_TOKEN"):
        assert way in caught.value.hint


@pytest.mark.parametrize(
    "changes",
    [
        {"client_email": "stranger@x.example"},
        {"private_key": "-----BEGIN PRIVATE KEY-----\nSECRETSECRET\n-----END PRIVATE KEY-----\n"},
        {"private_key": None},
        {"type": "external_account"},
        {"token_uri": "http://token.example/"},
    ],
)
def test_an_account_that_cannot_be_used_is_told_without_its_key(
    changes: dict[str, Any], tmp_path: Path, google: GoogleApis, private: str
) -> None:
    file = account(tmp_path, google, private, **changes)
    one = VeoFastBackend.open(settings(google, vertex_credentials=file))
    with pytest.raises(SetupNeeded, match=r"robot\.json") as caught:
        one.submit(prompt_work())
    health = one.health()
    one.close()
    assert not health.reachable
    told = caught.value.info.model_dump_json() + json.dumps(health.to_json())
    assert "SECRET" not in told
    assert private.splitlines()[1] not in told
    assert google.submits == ()


def test_another_key_s_signature_is_refused(tmp_path: Path, google: GoogleApis) -> None:
    other = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = other.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file = account(tmp_path, google, pem.decode())
    with pytest.raises(SetupNeeded, match="Invalid JWT Signature"):
        tokens(settings(google, vertex_credentials=file))()


def test_a_login_that_was_revoked_says_to_log_in_again(tmp_path: Path, google: GoogleApis) -> None:
    file = login(tmp_path, google, "1//gone")
    with pytest.raises(SetupNeeded, match="revoked") as caught:
        tokens(settings(google, vertex_credentials=file))()
    assert "log in again" in caught.value.hint


@pytest.mark.parametrize("content", [None, "not json SECRET", "[]"])
def test_a_file_that_is_no_credentials_is_told_without_its_content(
    content: str | None, tmp_path: Path, google: GoogleApis
) -> None:
    file = tmp_path / "key.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SetupNeeded, match=r"key\.json") as caught:
        tokens(settings(google, vertex_credentials=file))()
    assert "SECRET" not in caught.value.info.model_dump_json()


@pytest.mark.parametrize(
    "body", ["sys.exit('ERROR: SECRET')", "print('two words SECRET')", "pass", "print('ü')"]
)
def test_a_gcloud_without_a_login_says_so_and_no_more(
    body: str, tmp_path: Path, google: GoogleApis
) -> None:
    with pytest.raises(SetupNeeded, match="no access token") as caught:
        tokens(settings(google, vertex_gcloud=script(tmp_path, body)))()
    assert "auth login" in caught.value.hint
    assert "SECRET" not in caught.value.info.model_dump_json()


def test_a_gcloud_by_name_alone_is_not_looked_for(google: GoogleApis) -> None:
    with pytest.raises(SetupNeeded, match="full path"):
        tokens(settings(google, vertex_gcloud="gcloud"))()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_token_server_in_trouble_means_that_nothing_was_sent(
    status: int, tmp_path: Path, google: GoogleApis
) -> None:
    file = login(tmp_path, google)
    with Scripted(lambda _: Reply(status)) as server:
        file.write_text(file.read_text().replace(google.token_url, f"{server.url}/token"))
        one = VeoFastBackend.open(settings(google, vertex_credentials=file))
        with pytest.raises(Unavailable):
            one.submit(prompt_work())
        one.close()
    assert google.submits == ()


def test_a_token_server_that_is_not_there_means_that_nothing_was_sent(
    tmp_path: Path, google: GoogleApis
) -> None:
    file = login(tmp_path, google)
    nowhere = f"http://127.0.0.1:{dead_port()}/token"
    file.write_text(file.read_text().replace(google.token_url, nowhere))
    with pytest.raises(PennyreelError) as caught:
        tokens(settings(google, vertex_credentials=file))()
    assert caught.value.code == "backend_unavailable"
    assert REFRESH not in caught.value.info.model_dump_json()


def test_without_google_auth_the_extra_is_named(
    tmp_path: Path, google: GoogleApis, private: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "google.auth", None)
    file = account(tmp_path, google, private)
    with pytest.raises(SetupNeeded, match="google-auth") as caught:
        tokens(settings(google, vertex_credentials=file))()
    assert "pennyreel[vertex]" in caught.value.hint
