"""What is sent, to each provider in its own words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backends.huggingface.support import (
    Open,
    follow,
    job,
    run,
)
from emulators.huggingface.support import FLUX, HUNYUAN, MINIMAX, SD3, WAN, ask, wish
from pennyreel.backends.base import Work
from pennyreel.errors import (
    BadRequest,
)
from pennyreel.need import Need
from pennyreel.sources import Source
from pennyreel.types import Handle, Warned
from pennyreel_comfy.waiting import Deadline
from pennyreel_emulators.huggingface import IMAGE, HubConfig, HuggingFace, Plan, Served

# What is sent.

SAME = [
    ("fal-ai", "video", WAN),
    ("replicate", "video", WAN),
    ("wavespeed", "video", MINIMAX),
    ("together", "video", HUNYUAN),
    ("fal-ai", "image", FLUX),
    ("replicate", "image", FLUX),
    ("together", "image", FLUX),
    ("wavespeed", "image", FLUX),
    ("hf-inference", "image", SD3),
]


def test_for_the_same_wish_every_request_is_that_of_the_vendor_s_own_client(
    hub: HuggingFace, opened: Open, tmp_path: Path
) -> None:
    hub.always(Plan(looks=0))
    wishes = []
    for provider, kind, model in SAME:
        asked: dict[str, Any] = {"seed": 7, "num_inference_steps": 12}
        if kind == "video":
            asked |= {"num_frames": 33, "extra_body": {"negative_prompt": "rain"}}
        else:
            asked |= {"width": 96, "height": 32, "negative_prompt": "rain"}
        wishes.append(wish(f"text_to_{kind}", provider, model, **asked))
    assert all("data" in answer for answer in ask(hub, tmp_path, *wishes))
    theirs = [c for c in hub.calls if c.method == "POST"]
    for provider, kind, model in SAME:
        one = opened(hub, provider=provider, video_model=model, image_model=model)
        asked = {"frames": 33} if kind == "video" else {"width": 96, "height": 32}
        run(one, job(kind, seed=7, steps=12, negative="rain", **asked))
    ours = [c for c in hub.calls if c.method == "POST"][len(theirs) :]
    for their, our, (provider, kind, _) in zip(theirs, ours, SAME, strict=True):
        assert our.body == their.body, provider
        # Their pictures are fal's direct call; ours go by the queue, which can be followed.
        direct = provider == "fal-ai" and kind == "image"
        assert our.path == their.path + ("?_subdomain=queue" if direct else "")
        for header in ("authorization", "prefer", "content-type"):
            assert our.headers.get(header) == their.headers.get(header), (provider, header)
    assert "image/png" in next(c for c in ours if "hf-inference" in c.path).headers["accept"]


def test_seconds_become_frames_or_seconds_as_the_provider_wants_them(
    hub: HuggingFace, opened: Open
) -> None:
    run(opened(hub), job(seconds=2))
    run(opened(hub), job(seconds=2, fps=16))
    run(opened(hub), job(seconds=2, frames=17))
    together = opened(hub, video_model=HUNYUAN)
    run(together, job(seconds=5, width=640, height=480, fps=24))
    bodies = [j.body for j in hub.jobs]
    assert [b.get("num_frames") for b in bodies] == [49, 33, 17, None]
    assert bodies[1]["frames_per_second"] == 16
    assert bodies[3] == {
        "prompt": "a paper boat", "model": HUNYUAN, "seconds": "5", "width": 640, "height": 480,
        "fps": 24,
    }  # fmt: skip


def test_a_size_that_a_provider_is_not_told_is_warned_of(hub: HuggingFace, opened: Open) -> None:
    one = opened(hub)
    handle = Handle.parse(str(one.submit(job(width=640, height=480))))
    events: list[Any] = []
    follow(one, handle, on_event=events.append)
    warned = [e.text for e in events if isinstance(e, Warned)]
    assert len(warned) == 1
    assert "640x480 was not asked for" in warned[0]
    assert "width" not in hub.jobs[0].body
    events.clear()
    run(one, job())
    assert not events


def test_replicate_is_asked_to_answer_in_time(hub: HuggingFace, opened: Open) -> None:
    one = opened(hub, provider="replicate")
    for seconds in (None, 30.5, 2.0):
        one.submit(job("image"), Deadline(seconds))
    asked = [c.headers["prefer"] for c in hub.calls if c.method == "POST"]
    assert asked == ["wait", "wait=25", "wait=1"]


def test_a_version_at_replicate_is_named_in_the_body(opened: Open) -> None:
    served = {"replicate": Served("owner/name:abc", IMAGE, adapter_weights_path="w.safetensors")}
    with HuggingFace(HubConfig(models={FLUX: served})) as hub:
        assert run(opened(hub), job("image")).artifacts
        post = next(c for c in hub.calls if c.method == "POST")
    assert post.path == "/replicate/v1/predictions"
    assert post.body == {
        "version": "abc",
        "input": {"prompt": "a paper boat", "lora_weights": f"https://huggingface.co/{FLUX}"},
    }


def test_a_lora_goes_along_where_the_provider_wants_it(hub: HuggingFace, opened: Open) -> None:
    hub.serve(
        WAN,
        **{
            "fal-ai": Served(
                "fal-ai/wan/v2.2-5b/text-to-video", adapter_weights_path="w.safetensors"
            )
        },
    )
    run(opened(hub), job())
    assert hub.jobs[0].body["loras"] == [
        {"path": f"{hub.url}/{WAN}/resolve/main/w.safetensors", "scale": 1}
    ]


def test_a_picture_s_format_is_asked_for_and_named_by_what_came(
    hub: HuggingFace, opened: Open
) -> None:
    result = run(opened(hub), job("image", format="jpg"))
    assert hub.jobs[0].body["output_format"] == "jpeg"
    assert [a.name for a in result.artifacts] == ["image.png"]


@pytest.mark.parametrize(
    ("work", "says"),
    [
        (Work("a" * 32, {"1": {"class_type": "X"}}), "not a workflow"),
        (job("audio"), "makes no audio"),
        (job(image=Source("a.png", data=b"x")), "no image"),
    ],
)
def test_what_is_nothing_for_it_is_refused_unsent(
    work: Work, says: str, hub: HuggingFace, opened: Open
) -> None:
    with pytest.raises(BadRequest, match=says):
        opened(hub).submit(work)
    assert not hub.calls


def test_several_files_have_names_of_their_own(hub: HuggingFace, opened: Open) -> None:
    hub.plan(Plan(outputs=3))
    one = opened(hub)
    result = run(one, job("image"))
    assert [a.name for a in result.artifacts] == ["image.png", "image-2.png", "image-3.png"]
    assert one.billed(Need(kind="image"), result).amount == 3
