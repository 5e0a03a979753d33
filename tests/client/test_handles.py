"""Handles name a job for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel import BadRequest, Handle

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60)
BACKENDS = st.from_regex(r"[a-z][a-z0-9_.-]{0,20}", fullmatch=True)


@given(backend=BACKENDS, target=WORDS, remote=WORDS, attempt=WORDS)
def test_what_a_handle_prints_reads_back_as_the_same_handle(
    backend: str, target: str, remote: str, attempt: str
) -> None:
    handle = Handle(backend, target, remote, attempt)
    text = str(handle)
    assert Handle.parse(text) == handle
    assert text.split() == [text]
    assert text.isascii()


def test_a_handle_is_easy_to_read() -> None:
    assert str(Handle("runpod", "ep", "j-u1", "abc")) == "runpod:ep/j-u1@abc"
    assert (
        str(Handle("comfyui", "http://127.0.0.1:8188", "j", "abc"))
        == "comfyui:http://127.0.0.1:8188/j@abc"
    )


@pytest.mark.parametrize(
    "text", ["", "runpod", "runpod:ep", "runpod:ep/j", "x:/@", "A:b/c@d", "a b"]
)
def test_what_is_no_handle_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        Handle.parse(text)
