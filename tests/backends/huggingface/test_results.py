"""Results that come with the answer, and the whole way to the bytes."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from backends.huggingface.support import (
    DONE,
    RESULT,
    STATUS,
    TOKEN,
    Open,
    fetched,
    follow,
    job,
    scripted,
)
from client.support import Reply
from emulators.huggingface.support import SD3
from pennyreel.backends import _hf_kept
from pennyreel.errors import (
    BadRequest,
    Code,
    JobFailed,
)
from pennyreel.types import Handle
from pennyreel_emulators.huggingface import HuggingFace, Plan, mp4, png

# Results that come with the answer.


def test_an_answer_s_picture_survives_its_process_and_is_only_its_user_s(
    hub: HuggingFace, opened: Open, tmp_path: Path
) -> None:
    handle = opened(hub, image_model=SD3).submit(job("image", width=32, height=16))
    other = opened(hub, image_model=SD3)
    assert fetched(other, handle, follow(other, handle)) == png(32, 16)
    assert other.cancel(handle) is True
    (kept,) = (tmp_path / "huggingface" / "answers").iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert hub.billed == 1


def test_an_answer_is_kept_for_a_day(
    hub: HuggingFace, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(hub, image_model=SD3)
    handle = first.submit(job("image"))
    monkeypatch.setattr(_hf_kept, "KEPT_S", -1.0)
    first.submit(job("image"))
    other = opened(hub, image_model=SD3)
    with pytest.raises(JobFailed, match="it is not here") as gone:
        follow(other, handle)
    assert gone.value.code == Code.RESULT_EXPIRED.value


def test_a_full_disk_does_not_lose_a_picture_that_is_paid_for(
    hub: HuggingFace, opened: Open, tmp_path: Path
) -> None:
    (tmp_path / "no-folder").write_text("in the way")
    one = opened(hub, image_model=SD3, home=tmp_path / "no-folder")
    handle = one.submit(job("image"))
    assert fetched(one, handle, follow(one, handle)) == png()


def test_a_failure_that_comes_with_the_answer_is_the_job_s(hub: HuggingFace, opened: Open) -> None:
    hub.plan(Plan(end="failed", looks=0))
    one = opened(hub, provider="replicate")
    handle = one.submit(job("image"))
    with pytest.raises(JobFailed, match="the model failed"):
        follow(one, handle)


def test_a_picture_as_a_data_url_is_decoded(opened: Open) -> None:
    made = {"images": [{"url": "data:image/jpeg;base64,/9j/4A=="}]}
    with scripted(
        {
            STATUS: lambda _: Reply(body=DONE),
            RESULT: lambda _: Reply(body=made),
        }
    ) as server:
        one = opened(server)
        handle = one.submit(job())
        result = follow(one, handle)
        assert result.artifacts[0].name == "video.jpg"
        assert fetched(one, handle, result) == b"\xff\xd8\xff\xe0"


def test_a_handle_of_another_version_is_refused(hub: HuggingFace, opened: Open) -> None:
    one = opened(hub)
    for remote in ("x", "nobody:m/m:video::1", "fal-ai:m/m:smell::1"):
        with pytest.raises(BadRequest, match="names no job"):
            follow(one, Handle("huggingface", "auto", remote, "a" * 32))


# The whole way.


def test_a_video_goes_from_prompt_to_bytes_without_the_token_at_its_host(
    hub: HuggingFace, opened: Open, tmp_path: Path
) -> None:
    one = opened(hub)
    handle = one.submit(job(seed=3))
    result = follow(one, handle)
    assert fetched(one, handle, result) == mp4()
    assert [c.status for c in hub.fetched] == [200]
    assert not any("authorization" in c.headers for c in hub.fetched)
    assert result.worker["provider"] == "fal-ai"
    assert TOKEN not in str(handle) + json.dumps(result.wire()) + repr(vars(one))
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and TOKEN in f.read_text()]
