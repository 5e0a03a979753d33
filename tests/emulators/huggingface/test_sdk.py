"""The vendor's own client is content with the emulation."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest

from emulators.huggingface.support import FLUX, HUNYUAN, MINIMAX, SD3, WAN, ask, wish
from pennyreel_emulators.huggingface import HuggingFace, Plan


@pytest.fixture
def hub() -> Iterator[HuggingFace]:
    with HuggingFace() as running:
        yield running


def frames(answer: dict[str, Any]) -> int:
    assert "data" in answer, answer
    with av.open(io.BytesIO(base64.b64decode(answer["data"]))) as video:
        return sum(1 for _ in video.decode(video=0))


def test_every_provider_of_videos_serves_the_sdk_a_video_that_plays(
    hub: HuggingFace, tmp_path: Path
) -> None:
    hub.plan(Plan(looks=0), times=10)
    answers = ask(
        hub,
        tmp_path,
        wish("text_to_video", "fal-ai", WAN, seed=7, num_frames=17),
        wish("text_to_video", "auto", WAN),
        wish("text_to_video", "replicate", WAN),
        wish("text_to_video", "wavespeed", MINIMAX),
        wish("text_to_video", "together", HUNYUAN),
        wish("text_to_video", "novita", HUNYUAN, bill_to="my-org"),
    )
    assert [frames(a) for a in answers] == [8] * 6
    providers = [j.provider for j in hub.jobs]
    assert providers == ["fal-ai", "fal-ai", "replicate", "wavespeed", "together", "novita"]
    assert hub.billed == 6
    assert {c.status for c in hub.fetched} == {200}
    assert hub.calls[-1].headers["x-hf-bill-to"] == "my-org"


def test_every_provider_of_pictures_serves_the_sdk_a_picture(
    hub: HuggingFace, tmp_path: Path
) -> None:
    answers = ask(
        hub,
        tmp_path,
        *[
            wish("text_to_image", provider, FLUX, width=96, height=32)
            for provider in ("fal-ai", "replicate", "together", "wavespeed")
        ],
        wish("text_to_image", "hf-inference", SD3, width=96, height=32),
    )
    pictures = [base64.b64decode(a.get("data", "")) for a in answers]
    assert all(p.startswith(b"\x89PNG") for p in pictures), answers
    assert hub.billed == 5
    assert {c.status for c in hub.fetched} == {200}


def test_refusals_reach_the_sdk_with_their_status(hub: HuggingFace, tmp_path: Path) -> None:
    for status in (402, 422, 429, 503):
        hub.plan(Plan(refuse=status))
    answers = ask(
        hub,
        tmp_path,
        *[wish("text_to_video", "fal-ai", WAN)] * 4,
        wish("text_to_video", "fal-ai", WAN, token="hf_wrong"),
    )
    assert [a["status"] for a in answers] == [402, 422, 429, 503, 401]
    assert "monthly included credits" in answers[0]["error"]
    assert hub.billed == 0


def test_a_job_that_fails_and_a_lost_answer_are_errors_of_the_sdk_and_billed(
    hub: HuggingFace, tmp_path: Path
) -> None:
    hub.plan(Plan(end="failed"))
    hub.plan(Plan(answer="lost"))
    answers = ask(
        hub,
        tmp_path,
        wish("text_to_video", "wavespeed", MINIMAX),
        wish("text_to_video", "wavespeed", MINIMAX),
    )
    assert "the model failed" in answers[0]["error"]
    assert "disconnected" in answers[1]["error"] or "RemoteProtocol" in answers[1]["error"]
    assert hub.billed == 2


def test_the_account_is_told_to_the_sdk(hub: HuggingFace, tmp_path: Path) -> None:
    answer = ask(hub, tmp_path, {"call": "whoami", "provider": "", "token": hub.config.token})
    assert answer == [{"data": "tester"}]
