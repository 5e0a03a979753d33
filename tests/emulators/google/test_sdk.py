"""Google's own client is content with the emulation, and our backends speak as it does."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from typing import Any

import av
import pytest
import requests
from google import genai
from google.genai import errors, types
from google.genai._interactions_errors import APIStatusError

from backends.google_rig import POLL_S, prompt_work, settings
from emulators.google.sdk import by_key, on_vertex
from pennyreel.backends.gemini import GeminiBackend
from pennyreel.backends.veo import VeoFastBackend
from pennyreel.config import Secret
from pennyreel.sources import source
from pennyreel_emulators.google import GoogleApis, GoogleConfig, Plan

OMNI = "gemini-omni-1.2-flash"
VEO = "veo-3.1-fast-generate-001"
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 24


@pytest.fixture
def google() -> Iterator[GoogleApis]:
    with GoogleApis(GoogleConfig(api_key="AIza-of-the-test")) as running:
        yield running


@pytest.fixture
def gemini(google: GoogleApis) -> Iterator[genai.Client]:
    client = by_key(google)
    yield client
    client.close()


@pytest.fixture
def vertex(google: GoogleApis) -> Iterator[genai.Client]:
    client = on_vertex(google)
    yield client
    client.close()


def create(client: genai.Client, **changes: Any) -> Any:
    wish = {
        "model": OMNI,
        "background": True,
        "input": "a paper boat",
        "response_format": {"type": "video", "duration": "4s", "delivery": "uri"},
        **changes,
    }
    return client.interactions.create(**wish)


def generate(client: genai.Client, **changes: Any) -> Any:
    return client.models.generate_videos(
        model=changes.pop("model", VEO),
        source=types.GenerateVideosSource(prompt="a paper boat", image=changes.pop("image", None)),
        config=types.GenerateVideosConfig(**changes),
    )


def finished(client: genai.Client, operation: Any) -> Any:
    while not operation.done:
        operation = client.operations.get(operation)
    return operation


def frames(content: bytes) -> int:
    with av.open(io.BytesIO(content)) as video:
        return len(list(video.decode(video=0)))


def test_an_interaction_runs_to_a_video_by_address(
    google: GoogleApis, gemini: genai.Client
) -> None:
    seen = create(gemini)
    states = [seen.status]
    while seen.status in {"queued", "in_progress"}:
        seen = gemini.interactions.get(seen.id)
        states.append(seen.status)
    assert states == ["queued", "queued", "completed"]
    key = {"x-goog-api-key": google.config.api_key}
    got = requests.get(seen.output_video.uri, headers=key, timeout=10)
    assert frames(got.content) == 8
    assert requests.get(seen.output_video.uri, timeout=10).status_code == 403


def test_an_interaction_in_the_foreground_answers_with_the_video(gemini: genai.Client) -> None:
    video = {"type": "video", "duration": "4s", "delivery": "inline"}
    seen = create(gemini, background=False, response_format=video)
    assert seen.status == "completed"
    assert frames(base64.b64decode(seen.output_video.data)) == 8


def test_an_interaction_is_cancelled_and_deleted(google: GoogleApis, gemini: genai.Client) -> None:
    google.script(Plan(end="hangs"))
    seen = create(gemini)
    assert gemini.interactions.cancel(seen.id).status == "cancelled"
    assert google.charges == ()
    gemini.interactions.delete(seen.id)
    with pytest.raises(APIStatusError) as caught:
        gemini.interactions.get(seen.id)
    assert caught.value.status_code == 404


def test_an_interaction_without_a_video_is_completed_all_the_same(
    google: GoogleApis, gemini: genai.Client
) -> None:
    google.script(Plan(end="filtered", looks=0), Plan(end="failed", looks=0))
    blocked, broken = create(gemini), create(gemini)
    assert (blocked.status, blocked.output_video) == ("completed", None)
    assert broken.status == "failed"
    assert broken.errors[0].message == "Internal error encountered."
    assert google.charges == ()


def test_a_status_that_the_client_does_not_know_passes_through(
    google: GoogleApis, gemini: genai.Client
) -> None:
    google.script(Plan(status="warming_up"))
    assert create(gemini).status == "warming_up"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 503])
def test_refusals_of_interactions_are_read(
    status: int, google: GoogleApis, gemini: genai.Client
) -> None:
    google.script(Plan(refuse=status, message="not today", retry_s=32))
    with pytest.raises(APIStatusError, match="not today") as caught:
        create(gemini)
    assert caught.value.status_code == status
    assert google.accepted == ()


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 503])
def test_refusals_of_vertex_are_read(status: int, google: GoogleApis, vertex: genai.Client) -> None:
    google.script(Plan(refuse=status, message="not today", retry_s=32))
    with pytest.raises(errors.APIError) as caught:
        generate(vertex)
    told = caught.value
    assert (told.code, told.message) == (status, "not today")
    (detail,) = told.details["error"]["details"]
    assert detail == {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "32s"}


def test_a_wrong_key_and_a_wrong_token_are_refused(google: GoogleApis) -> None:
    key, token = by_key(google, "AIza-wrong"), on_vertex(google, "ya29.wrong")
    with pytest.raises(APIStatusError, match="API key not valid") as by_wrong_key:
        create(key)
    with pytest.raises(errors.ClientError) as by_wrong_token:
        generate(token)
    assert (by_wrong_key.value.status_code, by_wrong_token.value.code) == (400, 401)
    key.close()
    token.close()


@pytest.mark.parametrize(
    "format_",
    [
        {"type": "video", "duration": "16s"},
        {"type": "video", "duration": "8"},
        {"type": "video", "resolution": "8k"},
        {"type": "video", "aspect_ratio": "1:1"},
    ],
)
def test_what_omni_does_not_make_is_a_400(format_: dict[str, Any], gemini: genai.Client) -> None:
    with pytest.raises(APIStatusError) as caught:
        create(gemini, response_format=format_)
    assert caught.value.status_code == 400


@pytest.mark.parametrize(
    "wish",
    [
        {"duration_seconds": 5},
        {"duration_seconds": 4, "resolution": "1080p"},
        {"resolution": "360p"},
        {"aspect_ratio": "1:1"},
        {"output_gcs_uri": "https://nowhere.example"},
        {"seed": -1},
    ],
)
def test_what_veo_does_not_make_is_a_400(wish: dict[str, Any], vertex: genai.Client) -> None:
    with pytest.raises(errors.ClientError) as caught:
        generate(vertex, **wish)
    assert caught.value.code == 400


def test_an_operation_runs_to_its_video(google: GoogleApis, vertex: genai.Client) -> None:
    operation = finished(vertex, generate(vertex, duration_seconds=6, generate_audio=False))
    (made,) = operation.response.generated_videos
    assert frames(made.video.video_bytes) == 8
    (charge,) = google.charges
    assert (charge.model, charge.seconds, charge.audio) == (VEO, 6, False)


def test_a_video_goes_into_the_user_s_bucket(google: GoogleApis, vertex: genai.Client) -> None:
    operation = finished(vertex, generate(vertex, output_gcs_uri="gs://clips/out"))
    uri = operation.response.generated_videos[0].video.uri
    bucket, _, name = uri.removeprefix("gs://").partition("/")
    place = f"{google.base_url}/storage/v1/b/{bucket}/o/{requests.utils.quote(name, safe='')}"
    token = {"Authorization": f"Bearer {google.config.access_tokens[0]}"}
    got = requests.get(place, params={"alt": "media"}, headers=token, timeout=10)
    assert frames(got.content) == 8
    assert requests.get(place, params={"alt": "media"}, timeout=10).status_code == 401


def test_a_filtered_operation_is_done_and_has_no_video(
    google: GoogleApis, vertex: genai.Client
) -> None:
    google.script(Plan(end="filtered"))
    response = finished(vertex, generate(vertex)).response
    assert not response.generated_videos
    assert response.rai_media_filtered_count == 1
    assert response.rai_media_filtered_reasons == ["17301594: Celebrity"]


def test_a_failed_operation_has_an_error(google: GoogleApis, vertex: genai.Client) -> None:
    google.script(Plan(end="failed", error_code=8, error="no capacity"))
    assert finished(vertex, generate(vertex)).error == {"code": 8, "message": "no capacity"}


def test_models_are_described_for_free(
    google: GoogleApis, gemini: genai.Client, vertex: genai.Client
) -> None:
    assert gemini.models.get(model=OMNI).name == f"models/{OMNI}"
    assert vertex.models.get(model=VEO).name == f"publishers/google/models/{VEO}"
    with pytest.raises(errors.ClientError) as caught:
        gemini.models.get(model="veo-3.1-generate-preview")
    assert caught.value.code == 404
    assert google.submits == ()


def test_a_lost_answer_is_a_job_all_the_same(google: GoogleApis, gemini: genai.Client) -> None:
    """What a client that sends again would pay twice."""
    google.script(Plan(answer="lost"))
    with pytest.raises(Exception, match=r"(?i)disconnected|connection|closed"):
        create(gemini)
    assert len(google.accepted) == len(google.charges) == 1


def test_our_interaction_is_the_one_that_google_s_client_sends(
    google: GoogleApis, gemini: genai.Client
) -> None:
    ours = GeminiBackend(
        OMNI, Secret(google.config.api_key), base_url=google.base_url, poll_s=POLL_S
    )
    image = source(("boat.png", PNG), fallback="image")
    ours.submit(prompt_work(seconds=8, width=720, height=1280, image=image))
    ours.close()
    gemini.interactions.create(
        model=OMNI,
        background=True,
        input=[
            {"type": "text", "text": "a paper boat in the rain"},
            {
                "type": "image",
                "data": base64.b64encode(PNG).decode(),
                "mime_type": "image/png",
            },
        ],
        generation_config={"video_config": {"task": "image_to_video"}},
        response_format={
            "type": "video",
            "aspect_ratio": "9:16",
            "duration": "8s",
            "resolution": "720p",
            "delivery": "uri",
        },
    )
    mine, theirs = google.submits
    assert (mine.path, mine.body) == (theirs.path, theirs.body)


def test_our_prediction_is_the_one_that_google_s_client_sends(
    google: GoogleApis, vertex: genai.Client
) -> None:
    token = google.config.access_tokens[0]
    ours = VeoFastBackend.open(settings(google.base_url, vertex_token=token))
    image = source(("boat.png", PNG), fallback="image")
    wish = prompt_work(
        seconds=6, width=1280, height=720, negative="fog", image=image, seed=3, audio=True
    )
    ours.submit(wish)
    ours.close()
    vertex.models.generate_videos(
        model=VEO,
        source=types.GenerateVideosSource(
            prompt="a paper boat in the rain",
            image=types.Image(image_bytes=PNG, mime_type="image/png"),
        ),
        config=types.GenerateVideosConfig(
            number_of_videos=1,
            duration_seconds=6,
            aspect_ratio="16:9",
            resolution="720p",
            negative_prompt="fog",
            seed=3,
            generate_audio=True,
        ),
    )
    mine, theirs = google.submits
    assert mine.body == theirs.body
    # The one difference: the vendor's client speaks to the beta, we to the stable version.
    assert mine.path == theirs.path.replace("/v1beta1/", "/v1/")
