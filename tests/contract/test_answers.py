"""Results, info and progress: read leniently, and what they are not is said."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pennyreel_contract import (
    Artifact,
    Gpu,
    Info,
    JobFailed,
    Progress,
    Result,
    parse_info,
    parse_progress,
    parse_result,
)

ARTIFACT = {"name": "a", "kind": "hologram", "mime": "x/y", "bytes": 1, "sha256": "0", "new": 1}


def test_extra_fields_and_new_kinds_are_no_obstacle() -> None:
    result = parse_result(
        {
            "contract": 99,
            "attempt_id": "a",
            "artifacts": [ARTIFACT],
            "gpu": {"name": "x", "watts": 300},
            "carbon": 7,
        }
    )
    assert result.artifacts[0].kind == "hologram"
    assert result.gpu == Gpu(name="x")
    progress = parse_progress(
        {"pennyreel_progress": {"percent": 1, "stage": "warming", "new": 1}, "other": 2}
    )
    assert progress == Progress(percent=1, stage="warming")
    assert parse_info({"contract_min": 1, "contract_max": 9, "new": {}}).contract_max == 9


@pytest.mark.parametrize(
    "body",
    [None, "text", [], {}, {"images": []}, {"attempt_id": "a", "artifacts": [{"name": "x"}]}],
)
def test_what_is_no_result_says_which_image_to_run(body: object) -> None:
    with pytest.raises(JobFailed, match="not a pennyreel result") as caught:
        parse_result(body)
    assert "worker image" in caught.value.hint


@pytest.mark.parametrize("body", [None, {}, {"images": []}, {"contract_min": "x"}])
def test_what_is_no_info_is_not_taken_for_an_empty_one(body: object) -> None:
    with pytest.raises(JobFailed, match="not a pennyreel info"):
        parse_info(body)


@pytest.mark.parametrize(
    "body",
    [
        None,
        "Update 1/3",
        {},
        {"pennyreel_progress": None},
        {"pennyreel_progress": {"percent": 101, "stage": "x"}},
    ],
)
def test_progress_of_others_is_none(body: object) -> None:
    assert parse_progress(body) is None


moments = st.datetimes(timezones=st.just(timezone.utc))
artifacts = st.builds(
    Artifact,
    name=st.text(max_size=9),
    kind=st.sampled_from(["image", "video"]),
    mime=st.just("image/png"),
    bytes=st.integers(0, 10**13),
    sha256=st.text(max_size=9),
    url=st.none() | st.just("https://e.org"),
    url_expires=st.none() | moments,
)
results = st.builds(
    Result,
    attempt_id=st.text(max_size=9),
    artifacts=st.lists(artifacts, max_size=3).map(tuple),
    timings=st.dictionaries(st.text(max_size=5), st.floats(0, 1e6), max_size=3),
    gpu=st.none() | st.builds(Gpu, name=st.text(max_size=5), seconds=st.floats(0, 1e6)),
    seed=st.none() | st.integers(0, 2**64 - 1),
    warnings=st.lists(st.text(max_size=9), max_size=2).map(tuple),
    replayed=st.booleans(),
)


@given(results)
def test_a_result_survives_the_wire(result: Result) -> None:
    assert parse_result(json.loads(json.dumps(result.wire()))) == result


@given(
    st.builds(
        Progress,
        percent=st.floats(0, 100),
        stage=st.text(max_size=9),
        node=st.none() | st.text(max_size=5),
        step=st.none() | st.integers(),
        eta_s=st.none() | st.floats(0, 1e6),
    )
)
def test_progress_survives_the_wire(progress: Progress) -> None:
    assert parse_progress(json.loads(json.dumps(progress.wire()))) == progress


def test_info_survives_the_wire() -> None:
    info = Info(models={"loras": ("a",)}, nodes=("B",), gpu=Gpu(name="x", vram_bytes=1))
    assert parse_info(json.loads(json.dumps(info.wire()))) == info


def test_an_expiry_is_a_moment_and_not_a_wall_clock() -> None:
    artifact = Artifact.model_validate({**ARTIFACT, "url_expires": "2026-11-23T12:00:00Z"})
    assert artifact.url_expires == datetime(2026, 11, 23, 12, tzinfo=timezone.utc)
