"""Veo on Vertex, against the emulated long-running predictions."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, ClassVar

import av
import pytest

from backends.contract import BackendContract
from backends.google_rig import (
    PNG,
    POLL_S,
    TOKEN,
    UNPAID_PROJECT,
    GoogleRig,
    changed,
    prompt_work,
    running,
)
from backends.rig import Rig, Scene, Store
from pennyreel.backends._google_auth import tokens
from pennyreel.backends.base import Backend, Work
from pennyreel.backends.veo import VeoBackend, VeoFastBackend
from pennyreel.config import Settings, load
from pennyreel.errors import BadRequest, JobFailed, PennyreelError, SetupNeeded
from pennyreel.sources import source
from pennyreel.types import Handle
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_emulators.google import Plan

FAST = "emulated-project/us-central1/veo-3.1-fast-generate-001"


def opened_quickly(
    kind: type[VeoBackend], settings: Settings, target: str | None = None
) -> VeoBackend:
    plain = kind.open(settings, target)
    plain.close()
    return kind(
        plain.target,
        tokens(settings),
        base_url=settings.vertex_base_url,
        storage_uri=settings.vertex_storage_uri,
        storage_url=settings.vertex_storage_url,
        poll_s=POLL_S,
    )


class TestVeo(BackendContract):
    backend: ClassVar[type[VeoBackend]] = VeoBackend
    keys: ClassVar = {
        "vertex_project": "GOOGLE_CLOUD_PROJECT",
        "vertex_token": "PENNYREEL_VERTEX_TOKEN",
    }
    lacks: ClassVar = {
        Scene.BUSY: "no document of Google's says that a 5xx means that nothing was begun",
        Scene.STRANGE: "an operation has no status: it is done, or it is not",
        Scene.CUT: "the video comes inside the answer",
        Scene.DAMAGED: "the video comes inside the answer",
        Scene.ELSEWHERE: "the video comes inside the answer",
        Scene.PRIVATE: "the video comes inside the answer",
    }

    def open(self, settings: Settings, target: str | None = None) -> Backend:
        return opened_quickly(self.backend, settings, target)

    def work(self, **changes: Any) -> Work:
        return changed(prompt_work(seconds=5, width=1280, height=720), changes)

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with running(UNPAID_PROJECT) as rig:
            yield rig


class TestVeoIntoABucket(TestVeo):
    backend: ClassVar[type[VeoBackend]] = VeoFastBackend
    lacks: ClassVar = {
        **{s: why for s, why in TestVeo.lacks.items() if s is not Scene.CUT},
        Scene.DAMAGED: "Google tells no checksum",
        Scene.ELSEWHERE: "the video lies in the user's own bucket",
        Scene.PRIVATE: "the video lies in the user's own bucket",
    }
    test_a_transfer_that_breaks_begins_anew = (
        BackendContract.test_a_transfer_that_breaks_begins_anew
    )

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with running(UNPAID_PROJECT, vertex_storage_uri="gs://my-clips/out") as rig:
            yield rig


@pytest.fixture
def rig() -> Iterator[GoogleRig]:
    with running(UNPAID_PROJECT) as rig:
        yield rig


@pytest.fixture
def fast(rig: GoogleRig) -> Iterator[VeoBackend]:
    backend = opened_quickly(VeoFastBackend, rig.settings)
    yield backend
    backend.close()


def follow(one: VeoBackend, handle: Handle) -> Any:
    return one.follow(handle, on_event=lambda _: None, deadline=Deadline(30), cancel=CancelToken())


def test_what_is_sent_is_the_whole_wish(rig: GoogleRig, fast: VeoBackend) -> None:
    image = source(("boat.png", PNG), fallback="image")
    work = prompt_work(seconds=5, width=720, height=1280, negative="fog", image=image, seed=7)
    fast.submit(work)
    (sent,) = rig.google.submits
    assert sent.path == (
        "/v1/projects/emulated-project/locations/us-central1/publishers/google/models/"
        "veo-3.1-fast-generate-001:predictLongRunning"
    )
    (instance,) = sent.body["instances"]
    assert instance["prompt"] == "a paper boat in the rain"
    assert instance["image"]["mimeType"] == "image/png"
    assert sent.body["parameters"] == {
        "sampleCount": 1,
        "durationSeconds": 6,
        "aspectRatio": "9:16",
        "resolution": "720p",
        "generateAudio": False,
        "negativePrompt": "fog",
        "seed": 7,
    }


def test_two_names_are_two_models_with_their_own_bills(rig: GoogleRig) -> None:
    best, fast = VeoBackend.open(rig.settings), VeoFastBackend.open(rig.settings)
    need = prompt_work(audio=True).need
    assert best.usage(need).sku == "vertex/veo-3.1-generate-001/720p/audio"
    assert fast.usage(need).sku == "vertex/veo-3.1-fast-generate-001/720p/audio"
    assert best.abilities().quality > fast.abilities().quality
    assert fast.target == FAST


@pytest.mark.parametrize(
    ("wish", "tier", "seconds"),
    [
        ({}, "720p", 4),
        ({"seconds": 4.5}, "720p", 6),
        ({"seconds": 7}, "720p", 8),
        ({"frames": 100}, "720p", 6),
        ({"width": 1920, "height": 1080}, "1080p", 8),
        ({"width": 2160, "height": 3840, "seconds": 3}, "4k", 8),
    ],
)
def test_what_is_told_to_be_billed_is_what_google_bills(
    wish: dict[str, Any], tier: str, seconds: int, rig: GoogleRig, fast: VeoBackend
) -> None:
    work = prompt_work(audio=True, **wish)
    usage = fast.usage(work.need)
    assert usage.sku == f"vertex/veo-3.1-fast-generate-001/{tier}/audio"
    assert usage.amount == seconds
    handle = fast.submit(work)
    assert fast.billed(work.need, follow(fast, handle)) == usage
    (charge,) = rig.google.charges
    assert (charge.seconds, charge.resolution, charge.audio) == (seconds, tier, True)


def test_a_seed_of_64_bits_is_made_one_of_32(rig: GoogleRig, fast: VeoBackend) -> None:
    fast.submit(prompt_work(seed=2**63 + 5))
    assert rig.google.submits[0].body["parameters"]["seed"] == 5


@pytest.mark.parametrize("bucket", [None, "gs://my-clips", "gs://my-clips/a b/ü/"])
def test_a_video_arrives_and_plays_whichever_way_it_comes(bucket: str | None) -> None:
    with running(UNPAID_PROJECT, vertex_storage_uri=bucket) as rig:
        one = opened_quickly(VeoFastBackend, rig.settings)
        handle = one.submit(prompt_work())
        (made,) = follow(one, handle).artifacts
        assert (made.data is None) == (bucket is not None)
        sink = Store()
        one.fetch(handle, made, sink, CancelToken())
        one.close()
        with av.open(io.BytesIO(bytes(sink.data))) as video:
            assert len(list(video.decode(video=0))) == 8


def test_what_is_accepted_cannot_be_stopped_and_is_said_to_be_billed(
    rig: GoogleRig, fast: VeoBackend
) -> None:
    rig.google.script(Plan(end="hangs"))
    handle = fast.submit(prompt_work())
    before = len(rig.google.requests)
    assert fast.cancel(handle) is False
    with pytest.raises(PennyreelError, match="goes on, and is billed"):
        fast.follow(handle, on_event=lambda _: None, deadline=Deadline(0.05), cancel=CancelToken())
    assert {r.path.rpartition(":")[2] for r in rig.google.requests[before:]} == {
        "fetchPredictOperation"
    }
    assert len(rig.google.charges) == 1


def test_the_filter_s_own_words_are_passed_on(rig: GoogleRig, fast: VeoBackend) -> None:
    rig.google.script(Plan(end="filtered"))
    with pytest.raises(JobFailed, match="17301594: Celebrity") as caught:
        follow(fast, fast.submit(prompt_work()))
    assert (caught.value.code, caught.value.retryable) == ("content_filtered", False)
    assert rig.google.charges == ()


@pytest.mark.parametrize(
    ("code", "message", "is_code", "retryable"),
    [
        (3, "The prompt violates Vertex AI's usage guidelines.", "content_filtered", False),
        (3, "Unsupported image.", "execution_failed", False),
        (8, "Resource exhausted.", "execution_failed", True),
        (13, "Internal error.", "execution_failed", True),
        (1, "Cancelled.", "cancelled", True),
    ],
)
def test_an_operation_s_error_says_what_to_do_next(
    code: int, message: str, is_code: str, retryable: bool, rig: GoogleRig, fast: VeoBackend
) -> None:
    rig.google.script(Plan(end="failed", error_code=code, error=message))
    with pytest.raises(PennyreelError) as caught:
        follow(fast, fast.submit(prompt_work()))
    assert (caught.value.code, caught.value.retryable) == (is_code, retryable)


@pytest.mark.parametrize(
    "target",
    [
        "veo",
        "p/us-central1",
        "p/us-central1/m/x",
        "p/evil.example#/m",
        "p/US/m",
        "P Q/us/m",
        "../us/m",
    ],
)
def test_a_target_that_could_lead_elsewhere_is_refused(target: str, rig: GoogleRig) -> None:
    with pytest.raises(BadRequest):
        VeoBackend.open(rig.settings, target)


@pytest.mark.parametrize("bucket", ["my-clips", "https://x.example/y", "gs://", "gs://UPPER/x"])
def test_what_is_no_bucket_is_refused(bucket: str, rig: GoogleRig) -> None:
    with pytest.raises(SetupNeeded, match="PENNYREEL_VERTEX_STORAGE"):
        VeoBackend(FAST, tokens(rig.settings), storage_uri=bucket)


@pytest.mark.parametrize(
    ("location", "host"),
    [
        ("us-central1", "us-central1-aiplatform.googleapis.com"),
        ("global", "aiplatform.googleapis.com"),
    ],
)
def test_the_region_is_in_the_host(location: str, host: str) -> None:
    given = load({}, vertex_project="p", vertex_location=location, vertex_token=TOKEN)
    one = VeoBackend.open(given)
    assert one._api.base_url == f"https://{host}/v1"


def test_another_project_s_refusal_names_the_role(rig: GoogleRig) -> None:
    one = VeoBackend.open(rig.settings, FAST.replace("emulated", "foreign"))
    with pytest.raises(SetupNeeded, match=r"aiplatform\.endpoints\.predict") as caught:
        one.submit(prompt_work())
    one.close()
    assert "roles/aiplatform.user" in caught.value.hint
    assert rig.accepted == 0
