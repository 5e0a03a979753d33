"""Gemini Omni Flash by API key, against the emulated Interactions API."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar

import av
import pytest

from backends.contract import BackendContract, Told
from backends.google_rig import (
    API_KEY,
    PNG,
    POLL_S,
    UNPAID_BY_KEY,
    GoogleRig,
    changed,
    prompt_work,
    running,
)
from backends.rig import Rig, Scene, Store
from client.support import Reply, Scripted
from pennyreel.backends.base import Backend, Work
from pennyreel.backends.gemini import GeminiBackend
from pennyreel.config import Secret, Settings
from pennyreel.errors import (
    BadRequest,
    JobCancelled,
    JobFailed,
    JobTimeout,
    PennyreelError,
    SetupNeeded,
)
from pennyreel.need import Need
from pennyreel.sources import source
from pennyreel.types import Handle, Queued
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_emulators.google import Charge, GoogleApis, GoogleConfig, Plan


def opened_quickly(settings: Settings, target: str | None = None) -> GeminiBackend:
    assert settings.gemini_api_key is not None
    return GeminiBackend(
        target or settings.gemini_model,
        settings.gemini_api_key,
        base_url=settings.gemini_base_url,
        poll_s=POLL_S,
        confirm_s=1.0,
    )


class TestGemini(BackendContract):
    backend = GeminiBackend
    keys: ClassVar = {"gemini_api_key": "GEMINI_API_KEY"}
    lacks: ClassVar = {
        Scene.BUSY: "no document of Google's says that a 5xx means that nothing was begun",
        Scene.DAMAGED: "Google tells neither size nor checksum of a video",
    }

    def open(self, settings: Settings, target: str | None = None) -> Backend:
        self.backend.open(settings, target).close()  # what it refuses, it refuses here too
        return opened_quickly(settings, target)

    def work(self, **changes: Any) -> Work:
        return changed(prompt_work(seconds=5, width=1280, height=720), changes)

    @pytest.fixture
    def rig(self) -> Iterator[Rig]:
        with running(UNPAID_BY_KEY) as rig:
            yield rig


@pytest.fixture
def rig() -> Iterator[GoogleRig]:
    with running(UNPAID_BY_KEY) as rig:
        yield rig


@pytest.fixture
def one(rig: GoogleRig) -> Iterator[GeminiBackend]:
    backend = opened_quickly(rig.settings)
    yield backend
    backend.close()


def follow(one: GeminiBackend, handle: Handle, told: Told | None = None) -> Any:
    events = (told or Told()).events
    return one.follow(handle, on_event=events.append, deadline=Deadline(30), cancel=CancelToken())


def test_what_is_sent_is_the_whole_wish_and_the_key_only_in_its_header(
    rig: GoogleRig, one: GeminiBackend
) -> None:
    one.submit(prompt_work(seconds=4.2, width=720, height=1280))
    (sent,) = rig.google.submits
    assert (sent.path, sent.query, sent.keyed) == ("/v1/interactions", "", True)
    assert sent.body == {
        "model": "gemini-omni-1.2-flash",
        "input": "a paper boat in the rain",
        "background": True,
        "generation_config": {"video_config": {"task": "text_to_video"}},
        "response_format": {
            "type": "video",
            "aspect_ratio": "9:16",
            "duration": "5s",
            "resolution": "720p",
            "delivery": "uri",
        },
    }


@pytest.mark.parametrize("as_url", [False, True])
def test_an_image_goes_along_in_base64(as_url: bool, rig: GoogleRig, one: GeminiBackend) -> None:
    with Scripted(lambda _: Reply(body=PNG)) as pictures:
        given = f"{pictures.url}/boat.png" if as_url else ("boat.png", PNG)
        one.submit(prompt_work(image=source(given, fallback="image")))
    body = rig.google.submits[0].body
    assert body["generation_config"]["video_config"]["task"] == "image_to_video"
    (step,) = body["input"]
    assert [part["type"] for part in step["content"]] == ["text", "image"]
    assert step["content"][1]["mime_type"] == "image/png"


@pytest.mark.parametrize("content", [b"GIF89a" + b"\0" * 30, b""])
def test_what_is_no_picture_is_refused_unsent(
    content: bytes, rig: GoogleRig, one: GeminiBackend
) -> None:
    with pytest.raises(BadRequest, match="PNG"):
        one.submit(prompt_work(image=source(("boat.png", content), fallback="image")))
    assert rig.submits == 0


@pytest.mark.parametrize(
    ("wish", "sku", "seconds"),
    [
        ({}, "gemini/omni-1.2-flash/720p", 3),
        ({"seconds": 3.1}, "gemini/omni-1.2-flash/720p", 4),
        ({"frames": 49}, "gemini/omni-1.2-flash/720p", 3),
        ({"frames": 120, "seconds": 2}, "gemini/omni-1.2-flash/720p", 5),
        ({"width": 640, "height": 360}, "gemini/omni-1.2-flash/360p", 3),
        ({"width": 1080, "height": 1920, "seconds": 15}, "gemini/omni-1.2-flash/1080p", 15),
        ({"width": 3840, "height": 2160}, "gemini/omni-1.2-flash/4k", 3),
        ({"width": 1000}, "gemini/omni-1.2-flash/720p", 3),
    ],
)
def test_what_is_told_to_be_billed_is_what_google_bills(
    wish: dict[str, Any], sku: str, seconds: int, rig: GoogleRig, one: GeminiBackend
) -> None:
    work = prompt_work(**wish)
    usage = one.usage(work.need)
    assert (usage.sku, usage.amount) == (sku, seconds)
    handle = one.submit(work)
    result = follow(one, handle)
    assert one.billed(work.need, result) == usage
    tier = sku.rpartition("/")[2]
    charge = Charge(handle.remote_id, "gemini-omni-1.2-flash", seconds, tier, True)
    assert rig.google.charges == (charge,)


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        ({"seconds": 16}, "at most 15"),
        ({"frames": 361}, "frames"),
        ({"width": 512, "height": 512}, "512x512"),
        ({"format": "gif"}, ".gif"),
        ({"kind": "image"}, "no image"),
    ],
)
def test_what_omni_does_not_make_is_refused_unsent(
    wish: dict[str, Any], why: str, rig: GoogleRig, one: GeminiBackend
) -> None:
    with pytest.raises(BadRequest, match=why):
        one.submit(prompt_work(**wish))
    assert rig.submits == 0


@pytest.mark.parametrize("name", ["seed", "lora", "negative_prompt"])
def test_a_wish_that_omni_cannot_fulfil_is_refused_and_not_dropped(
    name: str, rig: GoogleRig, one: GeminiBackend
) -> None:
    with pytest.raises(BadRequest):
        one.submit(prompt_work(need=replace(Need(), **{name: True})))  # type: ignore[arg-type]
    assert rig.submits == 0


def test_the_older_model_makes_ten_seconds(rig: GoogleRig) -> None:
    older = opened_quickly(rig.settings, "gemini-omni-1.1-flash")
    with pytest.raises(BadRequest, match="at most 10"):
        older.submit(prompt_work(seconds=11))
    handle = older.submit(prompt_work(seconds=10))
    assert handle.target == "gemini-omni-1.1-flash"
    older.close()


@pytest.mark.parametrize("delivery", ["inline", "uri"])
def test_a_video_arrives_and_plays_whichever_way_it_comes(
    delivery: Any, rig: GoogleRig, one: GeminiBackend
) -> None:
    rig.google.script(Plan(delivery=delivery))
    handle = one.submit(prompt_work())
    told = Told()
    (made,) = follow(one, handle, told).artifacts
    assert (made.name, made.mime, made.kind) == ("video.mp4", "video/mp4", "video")
    sink = Store()
    one.fetch(handle, made, sink, CancelToken())
    with av.open(io.BytesIO(bytes(sink.data))) as video:
        assert len(list(video.decode(video=0))) == 8
    assert [type(e) for e in told.events] == [Queued]


def test_a_download_goes_on_to_storage_without_the_key() -> None:
    with GoogleApis(GoogleConfig(api_key=API_KEY, redirects=True)) as google:
        one = GeminiBackend(
            "gemini-omni-1.2-flash", Secret(API_KEY), base_url=google.base_url, poll_s=POLL_S
        )
        handle = one.submit(prompt_work())
        sink = Store()
        one.fetch(handle, follow(one, handle).artifacts[0], sink, CancelToken())
        one.close()
        assert bytes(sink.data) == google.content(handle.remote_id)
        first, second = google.requests[-2:]
        assert (first.keyed, second.keyed) == (True, False)
        assert second.path.startswith("/signed-storage/")


def test_a_filtered_video_is_told_with_its_reason_and_costs_nothing(
    rig: GoogleRig, one: GeminiBackend
) -> None:
    rig.google.script(Plan(end="filtered"))
    with pytest.raises(JobFailed, match="safety filters") as caught:
        follow(one, one.submit(prompt_work()))
    assert caught.value.code == "content_filtered"
    assert rig.google.charges == ()


@pytest.mark.parametrize("end", ["incomplete", "failed"])
def test_an_end_without_a_video_is_a_failure(end: Any, rig: GoogleRig, one: GeminiBackend) -> None:
    rig.google.script(Plan(end=end))
    with pytest.raises(JobFailed) as caught:
        follow(one, one.submit(prompt_work()))
    assert caught.value.code == "execution_failed"
    assert caught.value.info.detail["status"] == end


@pytest.mark.parametrize("status", ["requires_action", "requires_continuation", "idle"])
def test_a_job_that_waits_for_us_is_not_waited_for(
    status: str, rig: GoogleRig, one: GeminiBackend
) -> None:
    rig.google.script(Plan(end="hangs", status=status))
    with pytest.raises(JobFailed, match=status):
        follow(one, one.submit(prompt_work()))


def test_a_job_that_somebody_else_cancelled_has_stopped(rig: GoogleRig, one: GeminiBackend) -> None:
    rig.google.script(Plan(end="cancelled"))
    with pytest.raises(JobCancelled) as caught:
        follow(one, one.submit(prompt_work()))
    assert caught.value.info.detail["confirmed_stopped"] is True


def test_a_cancelled_job_is_not_billed(rig: GoogleRig, one: GeminiBackend) -> None:
    rig.google.script(Plan(end="hangs"))
    handle = one.submit(prompt_work())
    assert one.cancel(handle) is True
    assert rig.google.charges == ()


def test_a_job_that_has_ended_is_not_cancelled_but_known_to_have_stopped(
    rig: GoogleRig, one: GeminiBackend
) -> None:
    handle = one.submit(prompt_work())
    follow(one, handle)
    assert one.cancel(handle) is True
    assert not rig.stopped(handle)
    assert len(rig.google.charges) == 1


def test_a_job_that_is_not_known_is_not_known_to_have_stopped(
    rig: GoogleRig, one: GeminiBackend
) -> None:
    rig.google.script(Plan(end="forgotten", looks=0))
    assert one.cancel(one.submit(prompt_work())) is False


def test_a_cancel_is_repeated_until_it_arrives(rig: GoogleRig, one: GeminiBackend) -> None:
    rig.google.script(Plan(end="hangs", broken_looks=(503, 429)))
    handle = one.submit(prompt_work())
    assert one.cancel(handle) is True
    assert rig.stopped(handle)


def test_a_cancel_without_a_server_is_not_confirmed(rig: GoogleRig) -> None:
    gone = opened_quickly(rig.dead)
    assert gone.cancel(Handle("gemini", gone.target, "job", "a" * 32)) is False
    gone.close()


def test_a_deadline_that_stopped_its_job_is_a_timeout(rig: GoogleRig, one: GeminiBackend) -> None:
    rig.google.script(Plan(end="hangs"))
    handle = one.submit(prompt_work())
    with pytest.raises(JobTimeout) as caught:
        one.follow(handle, on_event=lambda _: None, deadline=Deadline(0.05), cancel=CancelToken())
    assert caught.value.info.detail["confirmed_stopped"] is True
    assert rig.google.charges == ()


def test_a_video_that_is_nowhere_is_billed_and_not_called_filtered(
    rig: GoogleRig, one: GeminiBackend
) -> None:
    step = {"type": "model_output", "content": [{"type": "video", "mime_type": "video/mp4"}]}
    handle = Handle("gemini", one.target, "job", "a" * 32)
    with pytest.raises(JobFailed, match="billed") as caught:
        one._outcome({"status": "completed", "steps": [step]}, handle)
    assert (caught.value.code, caught.value.retryable) == ("output_missing", False)


def test_an_image_that_is_too_large_is_refused_unsent(rig: GoogleRig, one: GeminiBackend) -> None:
    large = source(("boat.png", PNG + b"\0" * 14_000_000), fallback="image")
    with pytest.raises(BadRequest, match=r"14\.0 MB"):
        one.submit(prompt_work(image=large))
    with pytest.raises(BadRequest, match="bucket"):
        one.submit(prompt_work(image=source("s3://bucket/boat.png", fallback="image")))
    assert rig.submits == 0


def test_an_empty_prompt_is_refused_unsent(rig: GoogleRig, one: GeminiBackend) -> None:
    work = prompt_work()
    assert work.prompt is not None
    with pytest.raises(BadRequest, match="empty"):
        one.submit(replace(work, prompt=replace(work.prompt, text=" ")))
    assert rig.submits == 0


def test_a_resolution_that_is_none_is_refused(rig: GoogleRig) -> None:
    with pytest.raises(SetupNeeded, match="resolution"):
        GeminiBackend.open(replace(rig.settings, gemini_resolution="8k"))


def test_the_configured_resolution_is_that_of_jobs_without_a_size(rig: GoogleRig) -> None:
    one = GeminiBackend.open(replace(rig.settings, gemini_resolution="360p"))
    one.submit(prompt_work())
    one.close()
    assert rig.google.submits[0].body["response_format"]["resolution"] == "360p"


def test_a_job_that_was_faster_than_its_deadline_counts(rig: GoogleRig, one: GeminiBackend) -> None:
    rig.google.script(Plan(looks=10_000, cancel="late"))
    handle = one.submit(prompt_work())
    result = one.follow(
        handle, on_event=lambda _: None, deadline=Deadline(0.05), cancel=CancelToken()
    )
    assert result.artifacts
    assert len(rig.google.charges) == 1


def test_looks_that_fail_for_a_while_do_no_harm(rig: GoogleRig, one: GeminiBackend) -> None:
    rig.google.script(Plan(looks=12, broken_looks=(503, 500, 429, 404, 404, 200, 404, 404, 200)))
    handle = one.submit(prompt_work())
    assert follow(one, handle).artifacts
    assert rig.submits == 1


def test_a_server_that_stays_away_is_given_up_and_the_job_kept(rig: GoogleRig) -> None:
    assert rig.settings.gemini_api_key is not None
    one = GeminiBackend(
        "gemini-omni-1.2-flash",
        rig.settings.gemini_api_key,
        base_url=rig.settings.gemini_base_url,
        poll_s=POLL_S,
        down_grace_s=0.05,
    )
    rig.google.script(Plan(broken_looks=(503,) * 1000))
    handle = one.submit(prompt_work())
    with pytest.raises(PennyreelError) as caught:
        follow(one, handle)
    one.close()
    assert caught.value.code == "unknown_outcome"
    assert caught.value.info.detail["handle"] == str(handle)


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (Plan(refuse=403), "unauthorized"),
        (Plan(refuse=404), "not_configured"),
        (Plan(refuse=413), "request_too_large"),
        (Plan(refuse=409), "bad_request"),
        (Plan(refuse=429), "rate_limited"),
        (Plan(refuse=408), "unknown_outcome"),
        (Plan(refuse=500), "unknown_outcome"),
        (Plan(refuse=504), "unknown_outcome"),
        (Plan(answer="empty"), "unknown_outcome"),
    ],
)
def test_each_refusal_has_its_code_and_is_not_sent_again(
    plan: Plan, code: str, rig: GoogleRig, one: GeminiBackend
) -> None:
    rig.google.script(plan)
    with pytest.raises(PennyreelError) as caught:
        one.submit(prompt_work())
    assert caught.value.code == code
    assert caught.value.hint
    assert rig.submits == 1


def test_a_key_that_google_quotes_is_not_shown(rig: GoogleRig, one: GeminiBackend) -> None:
    message = f"Permission denied: Consumer 'api_key:{API_KEY}' has been suspended."
    rig.google.script(Plan(refuse=403, message=message))
    with pytest.raises(SetupNeeded, match="suspended") as caught:
        one.submit(prompt_work())
    assert API_KEY not in caught.value.info.model_dump_json()


def test_a_refused_key_is_a_400_here_and_health_says_so(rig: GoogleRig, one: GeminiBackend) -> None:
    rig.google.revoke()
    health = one.health()
    assert not health.reachable
    assert "GEMINI_API_KEY" in health.hint


def test_a_model_that_is_gone_is_seen_before_a_job_is_sent(rig: GoogleRig) -> None:
    gone = opened_quickly(rig.settings, "gemini-omni-flash-preview")
    health = gone.health()
    gone.close()
    assert not health.reachable
    assert "PENNYREEL_GEMINI_MODEL" in health.hint


@pytest.mark.parametrize("target", ["../files", "a/b", "", "x?key=1"])
def test_a_target_that_is_no_model_is_refused(target: str) -> None:
    with pytest.raises(BadRequest):
        GeminiBackend(target, Secret(API_KEY))


def test_the_key_does_not_travel_in_the_clear() -> None:
    with pytest.raises(SetupNeeded, match="not https"):
        GeminiBackend("gemini-omni-1.2-flash", Secret(API_KEY), base_url="http://example.com")


@pytest.mark.parametrize("path", ["", "/", "/v1beta"])
def test_the_base_url_may_name_the_version(path: str, rig: GoogleRig) -> None:
    assert rig.settings.gemini_api_key is not None
    one = GeminiBackend(
        "gemini-omni-1.2-flash",
        rig.settings.gemini_api_key,
        base_url=rig.settings.gemini_base_url + path,
    )
    assert one.health().reachable
    one.close()
    version = path.strip("/") or "v1"
    assert rig.google.requests[0].path == f"/{version}/models/gemini-omni-1.2-flash"
