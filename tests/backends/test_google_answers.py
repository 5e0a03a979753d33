"""Whatever Google may answer is read as a job, a result or one of our errors: never as a crash."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from backends.google_rig import API_KEY, settings
from pennyreel.backends import _google_results as results
from pennyreel.backends._google_api import _Told
from pennyreel.backends.gemini import GeminiBackend
from pennyreel.backends.veo import VeoBackend
from pennyreel.config import Secret
from pennyreel.errors import PennyreelError
from pennyreel.types import Handle

NAMES = st.sampled_from(
    [
        "bytesBase64Encoded", "code", "content", "data", "details", "done", "error", "errors",
        "gcsUri", "message", "mimeType", "mime_type", "model", "raiMediaFilteredReasons", "reason",
        "response", "retryDelay", "status", "steps", "text", "type", "uri", "videos",
    ]
)  # fmt: skip
WORDS = st.sampled_from(
    [
        "completed", "failed", "model_output", "video", "text", "gs://b/o", "gs://b", "AAAA", "?",
        "https://[", "32s", "1e9s", "INVALID_ARGUMENT", "safety", "video/mp4", "queued", "",
    ]
)  # fmt: skip
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 20) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
ANSWERS = st.dictionaries(NAMES, JSON, max_size=6)
HANDLE = Handle("gemini", "m", "job", "a" * 32)


def backends() -> tuple[GeminiBackend, VeoBackend]:
    omni = GeminiBackend("gemini-omni-1.2-flash", Secret(API_KEY))
    return omni, VeoBackend.open(settings("http://127.0.0.1:9"))


def typed(body: dict[str, Any]) -> dict[str, Any]:
    """An answer that gets as far as its steps."""
    steps = body.get("steps")
    content = steps if isinstance(steps, list) else [body]
    step = {"type": "model_output", "content": content, "error": body.get("error")}
    return {**body, "status": "completed", "steps": [step]}


@given(ANSWERS)
def test_an_end_is_a_result_with_files_or_one_of_our_errors(body: dict[str, Any]) -> None:
    omni, veo = backends()
    for answer, outcome in (
        (body, omni._outcome),
        (typed(body), omni._outcome),
        (body, veo._outcome),
        ({"done": True, "response": body}, veo._outcome),
    ):
        with suppress(PennyreelError):
            made = outcome(answer, HANDLE)
            assert made.artifacts
            assert all(a.data is not None or a.url for a in made.artifacts)


@given(JSON)
def test_an_error_answer_is_read_whatever_it_holds(body: Any) -> None:
    for content in (body, {"error": body}, [{"error": body}]):
        reply = requests.Response()
        reply.status_code = 429
        reply._content = json.dumps(content).encode()
        told = _Told.read(reply)
        assert told.retry_s is None or told.retry_s >= 0


@pytest.mark.parametrize(
    ("delay", "seconds"), [("32s", 32), ("0.5s", 0.5), ("3600s", 3600), ("soon", None), (5, None)]
)
def test_the_pause_that_google_asks_for_is_told_as_it_is(
    delay: object, seconds: float | None
) -> None:
    reply = requests.Response()
    reply._content = json.dumps({"error": {"details": [{"retryDelay": delay}]}}).encode()
    assert _Told.read(reply).retry_s == seconds


def test_a_header_says_when_where_the_details_do_not() -> None:
    reply = requests.Response()
    reply._content = b'{"error": {"message": "slow down"}}'
    reply.headers["Retry-After"] = "7"
    assert _Told.read(reply).retry_s == 7


@pytest.mark.parametrize(
    ("uri", "url"),
    [
        (
            "https://g.example/v1beta/files/a1",
            "https://g.example/v1beta/files/a1:download?alt=media",
        ),
        (
            "https://g.example/v1beta/files/a1:download?alt=media",
            "https://g.example/v1beta/files/a1:download?alt=media",
        ),
        ("https://cdn.example/x.mp4?sig=1", "https://cdn.example/x.mp4?sig=1"),
    ],
)
def test_a_file_s_description_leads_to_its_content(uri: str, url: str) -> None:
    omni, _ = backends()
    video = {"type": "video", "uri": uri}
    step = {"type": "model_output", "content": [video]}
    (made,) = omni._outcome({"status": "completed", "steps": [step]}, HANDLE).artifacts
    assert made.url == url


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("https://g.example/a", "https://g.example:443/b", True),
        ("https://g.example/a", "http://g.example/a", False),
        ("https://g.example/a", "https://g.example.evil/a", False),
        ("https://g.example/a", "https://g.example@evil.example/a", False),
        ("https://g.example/a", "https://g.example:8443/a", False),
    ],
)
def test_a_key_belongs_to_one_origin(one: str, other: str, same: bool) -> None:
    assert (results.origin(one) == results.origin(other)) is same
