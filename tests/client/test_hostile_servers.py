"""What a hostile or broken server cannot do to us: have its echo kept, fill memory or a disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import requests

from client.support import GRAPH, Reply, Request, Scripted
from pennyreel import _http
from pennyreel._http import addresses, downloads
from pennyreel.config import Secret
from pennyreel.errors import BadRequest, Code, JobFailed, PennyreelError, error
from pennyreel.saving import PartFile
from pennyreel_comfy.echoes import hide_in
from pennyreel_comfy.http import ComfyHttp

KEY = "sk_CANARY_0123456789abcdef"
PROMPT = "a paper boat nobody else may read of"
SIGNED = "https://bucket.example/in.png?X-Amz-Signature=CANARYSIGNATURE"


def echo(request: Request) -> Reply:
    """Says no, and quotes all that it was told."""
    told = {"headers": request.headers, "body": request.body.decode("utf-8", "replace")}
    return Reply(400, {"error": json.dumps(told)})


@pytest.fixture
def server() -> Iterator[Scripted]:
    with Scripted(echo) as running:
        yield running


@pytest.mark.parametrize("header", ["Authorization", "x-goog-api-key"])
def test_an_answer_never_has_the_key_that_was_sent(server: Scripted, header: str) -> None:
    with closing(_http.Api(server.url, Secret(KEY), header=header)) as api:
        reply = api.call("GET", "/")
    assert KEY in str(server.requests[0].headers), "the server did get it"
    assert KEY not in reply.text
    assert "***" in _http.answer_text(reply) or "***" in reply.text


def test_an_answer_that_is_no_refusal_has_no_key_either(server: Scripted) -> None:
    server.script = lambda r: Reply(200, {"status": "FAILED", "error": str(r.headers)})
    with closing(_http.Api(server.url, Secret(KEY))) as api:
        assert KEY not in str(api.call("GET", "/").json())


def test_a_refusal_quotes_no_prompt_and_no_signed_address(server: Scripted) -> None:
    body = {"input": {"prompt": PROMPT, "files": [{"url": SIGNED}], "model": "wan-2.2-a14b-turbo"}}
    with closing(_http.Api(server.url, Secret(KEY))) as api:
        text = api.call("POST", "/", body=json.dumps(body).encode()).text
    assert PROMPT not in text
    assert "CANARYSIGNATURE" not in text
    assert "wan-2.2-a14b-turbo" in text, "what helps to mend the request is still told"


def test_a_refused_form_is_not_quoted(server: Scripted) -> None:
    with closing(_http.Api(server.url, None)) as api:
        reply = api.call(
            "POST",
            "",
            body=b"grant_type=refresh_token&refresh_token=1%2F%2FCANARY_refresh&client_secret=CANARY_client",
            content_type="application/x-www-form-urlencoded",
        )
    assert "CANARY" not in reply.text


def test_a_comfyui_that_quotes_its_authorization_is_not_quoted(server: Scripted) -> None:
    for value, secret in (
        (f"Bearer {KEY}", KEY),
        ("Basic dXNlcjpDQU5BUllwYXNzd29yZA==", "CANARYpassword"),
    ):
        server.script = lambda r, s=secret: Reply(400, {"error": f"{r.headers} {s}"})
        comfy = ComfyHttp(server.url, headers={"Authorization": value})
        with closing(comfy), pytest.raises(BadRequest) as caught:
            comfy.prompt(GRAPH, client_id="c", prompt_id="p")
        assert value.split()[1] not in str(caught.value)
        assert secret not in str(caught.value)
        assert secret not in hide_in(f"node said {secret}", {"Authorization": value})


def test_json_that_is_nested_without_end_is_no_json(server: Scripted) -> None:
    server.script = lambda _: Reply(200, b"[" * 300_000)
    with closing(_http.Api(server.url, Secret(KEY))) as api:
        reply = api.call("GET", "/")
    with pytest.raises(ValueError, match="nested"):
        reply.json()


def test_an_answer_without_end_is_given_up(server: Scripted) -> None:
    server.script = lambda _: Reply(200, b"x" * 5_000_000)
    with (
        closing(_http.Api(server.url, Secret(KEY))) as api,
        pytest.raises(_http.TooLarge) as caught,
    ):
        api.call("POST", "/", body=b"{}", most=100_000)
    assert isinstance(caught.value, requests.RequestException)
    assert not _http.never_sent(caught.value), "the job may run"


def test_a_file_does_not_grow_beyond_what_was_told(server: Scripted, tmp_path: Path) -> None:
    server.script = lambda _: Reply(200, b"x" * 5_000_000)
    with PartFile(tmp_path, "clip.mp4") as part, pytest.raises(JobFailed) as caught:
        _http.download(server.url, part, local=True, size=1000, pause=lambda _: None)
    assert caught.value.code == "storage_failed"
    assert part.size <= 1000


def test_a_file_of_unknown_size_has_an_end(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "MAX_FILE", 2_000_000)
    server.script = lambda _: Reply(200, b"x" * 5_000_000)
    with PartFile(tmp_path, "clip.mp4") as part, pytest.raises(JobFailed):
        _http.download(server.url, part, local=True, pause=lambda _: None)
    assert part.size <= 2_000_000


def test_what_a_server_says_does_not_steer_the_terminal(server: Scripted) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egnp.exe\r"
    server.script = lambda _: Reply(400, {"error": {"message": evil, "more": [evil, {evil: evil}]}})
    with closing(_http.Api(server.url, Secret(KEY))) as api:
        text = json.dumps(api.call("GET", "/").json(), ensure_ascii=False)
    plain: PennyreelError = error(Code.BAD_REQUEST, evil, hint=evil)
    for told in (text, str(plain), plain.hint):
        assert not set(told) & set("\x1b\x07\x9b\u202e\r")


def test_a_public_address_of_the_users_leads_into_no_private_network(
    server: Scripted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = server.url.rpartition(":")[2]
    inside = f"http://127.0.0.1:{port}/latest/meta-data"
    server.script = lambda _: Reply(307, b"", {"Location": inside})
    # The name stands for a public server: only how the address is written is looked at.
    monkeypatch.setattr(addresses, "is_loopback", lambda url: "127.0.0.1" in url)
    with PartFile(tmp_path, "in.png") as part, pytest.raises(BadRequest) as caught:
        _http.download(
            f"http://localhost:{port}/in.png", part, local=True, plain=True, pause=lambda _: None
        )
    assert caught.value.code == "address_refused"
    assert [r.path for r in server.requests] == ["/in.png"]
