"""What is sent to Replicate, and by whose settings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from backends.replicate.support import NEED, TEXT, TOKEN, create, job
from pennyreel.backends.replicate import LONGEST_S, ReplicateBackend, minted_seed
from pennyreel.config import Secret, Settings, load
from pennyreel.errors import (
    BadRequest,
    OutcomeUnknown,
    SetupNeeded,
)
from pennyreel.sources import Source
from pennyreel_comfy.waiting import Deadline
from pennyreel_emulators.replicate import (
    VERSION,
    Behaviour,
    ReplicatePlatform,
)

# What is sent.


def test_a_prompt_alone_leaves_the_rest_to_the_model(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    one.submit(job())
    asked = create(platform)
    assert asked.path == "/v1/predictions"
    assert asked.json == {"version": VERSION, "input": {"prompt": TEXT, "mp4": True, "seed": 7}}
    assert asked.headers["authorization"] == f"Bearer {TOKEN}"
    assert asked.headers["cancel-after"] == f"{LONGEST_S:.0f}s"


def test_every_wish_that_the_model_has_is_passed_on(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    one.submit(job(negative="blurry", width=512, height=768, format="gif", frames=8, seconds=1.0))
    assert create(platform).json["input"] == {
        "prompt": TEXT,
        "negative_prompt": "blurry",
        "width": 512,
        "height": 768,
        "mp4": False,
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("wish", "says"),
    [
        ({"width": 500}, "500"),
        ({"height": 1280}, "1280"),
        ({"frames": 16}, "16"),
        ({"seconds": 2.0}, "1 s"),
        ({"format": "webm"}, "webm"),
        ({"kind": "image"}, "image"),
        ({"audio": True}, "sound"),
        ({"text": "  "}, "prompt"),
        ({"image": Source("a.png", url="https://files.example/a.png")}, "image"),
    ],
)
def test_less_than_what_is_asked_for_is_never_sent(
    wish: dict[str, Any], says: str, platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    with pytest.raises(BadRequest, match=says):
        one.submit(job(**wish))
    assert platform.requests == ()


def test_a_job_without_a_seed_gets_one_by_which_a_person_finds_it(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    platform.script(Behaviour(answer="lost"))
    work = job(seed=None)
    with pytest.raises(OutcomeUnknown) as caught:
        one.submit(work)
    sent = create(platform).json["input"]["seed"]
    assert sent == minted_seed(work.attempt_id)
    assert str(sent) in caught.value.hint
    assert TEXT not in caught.value.info.model_dump_json()


@pytest.mark.parametrize(
    ("timeout_s", "deadline_s", "sent"),
    [(None, None, 300), (60.0, None, 60), (3600.0, None, 300), (None, 42.0, 42), (1.0, 90.0, 5)],
)
def test_the_server_has_a_deadline_of_its_own(
    timeout_s: float | None,
    deadline_s: float | None,
    sent: int,
    platform: ReplicatePlatform,
    one: ReplicateBackend,
) -> None:
    one.submit(job(timeout_s=timeout_s), Deadline(deadline_s))
    assert create(platform).headers["cancel-after"] == f"{sent}s"


def test_a_large_seed_stays_the_same_number_everywhere(
    platform: ReplicatePlatform, one: ReplicateBackend
) -> None:
    one.submit(job(seed=2**64 - 1))
    assert create(platform).json["input"]["seed"] == 2**53 - 1


def test_an_official_model_is_run_by_its_name(platform: ReplicatePlatform) -> None:
    one = ReplicateBackend(
        Secret(TOKEN), model="me/hotshot", version=None, base_url=platform.base_url
    )
    with pytest.raises(SetupNeeded, match="does not have"):
        one.submit(job())
    assert create(platform).path == "/v1/models/me/hotshot/predictions"
    one.close()


# Settings.


def test_the_base_url_may_be_written_as_either_sdk_wants_it(
    platform: ReplicatePlatform, tmp_path: Path
) -> None:
    for url in (platform.host_url, platform.base_url, f"{platform.base_url}/"):
        settings = load(
            {"REPLICATE_API_TOKEN": TOKEN, "REPLICATE_BASE_URL": url, "PENNYREEL_HOME": "home"}
        )
        one = ReplicateBackend.open(settings)
        assert one.health().reachable
        one.close()


def test_another_model_does_not_get_the_known_ones_version(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, replicate_api_token=Secret(TOKEN))
    assert ReplicateBackend.open(settings)._version == VERSION
    assert ReplicateBackend.open(settings, "me/fork")._version is None
    assert ReplicateBackend.open(settings, "me/fork:abc")._version == "abc"
    mine = replace(settings, replicate_model="me/fork", replicate_version="def")
    assert ReplicateBackend.open(mine)._version == "def"
    assert ReplicateBackend.open(mine, "lucataco/hotshot-xl")._version == VERSION
    priced = replace(settings, replicate_hardware="a100-80")
    assert ReplicateBackend.open(priced).usage(NEED).sku == "replicate/a100-80"
