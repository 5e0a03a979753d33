"""Hugging Face's backend beyond the suite: who serves, what is sent, what is told and kept."""

from __future__ import annotations

import json
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backends.rig import Store
from client.support import Reply, Request, Scripted
from emulators.huggingface.support import FLUX, HUNYUAN, MINIMAX, SD3, WAN, ask, wish
from fakes.ports import dead_port
from pennyreel.backends import _hf_follow, _hf_kept, _hf_offers
from pennyreel.backends.base import Prompt, Work
from pennyreel.backends.huggingface import HuggingFaceBackend
from pennyreel.backends.registry import open_backend
from pennyreel.config import Secret, load
from pennyreel.errors import (
    BadRequest,
    Code,
    JobCancelled,
    JobFailed,
    JobTimeout,
    OutcomeUnknown,
    SetupNeeded,
    Unavailable,
)
from pennyreel.need import Need, Unit
from pennyreel.sources import Source
from pennyreel.types import Handle, Queued, Started, Warned
from pennyreel_comfy.waiting import CancelToken, Deadline
from pennyreel_contract import Result
from pennyreel_emulators.huggingface import IMAGE, HubConfig, HuggingFace, Plan, Served, mp4, png

TOKEN = HubConfig().token
Open = Callable[..., HuggingFaceBackend]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_hf_follow, "POLL_S", (0.005, 0.02))
    monkeypatch.setattr(_hf_follow, "CONFIRM_S", 0.5)


@pytest.fixture
def hub() -> Iterator[HuggingFace]:
    with HuggingFace() as running:
        yield running


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Open]:
    """`opened(hub, provider="fal-ai")`: the backend against an emulation or a scripted server."""
    with ExitStack() as stack:

        def make(server: HuggingFace | Scripted, **settings: Any) -> HuggingFaceBackend:
            one = HuggingFaceBackend(
                Secret(settings.pop("token", TOKEN)),
                settings.pop("home", tmp_path),
                endpoint=server.url,
                router_url=settings.pop("router_url", server.url),
                **settings,
            )
            stack.callback(one.close)
            return one

        yield make


def job(
    kind: str = "video", seed: int | None = None, steps: int | None = None, **asked: Any
) -> Work:
    prompt = Prompt("a paper boat", kind=kind, **asked)
    need = Need(kind=kind, steps=steps)
    return Work(uuid.uuid4().hex, {}, prompt=prompt, need=need, seed=seed)


def follow(one: HuggingFaceBackend, handle: Handle, seconds: float = 30.0, **more: Any) -> Result:
    return one.follow(
        handle,
        on_event=more.get("on_event", lambda _: None),
        deadline=Deadline(seconds),
        cancel=more.get("cancel", CancelToken()),
    )


def run(one: HuggingFaceBackend, work: Work) -> Result:
    return follow(one, one.submit(work, Deadline(90)))


def fetched(one: HuggingFaceBackend, handle: Handle, result: Result) -> bytes:
    sink = Store()
    one.fetch(handle, result.artifacts[0], sink, CancelToken(), Deadline(30))
    return bytes(sink.data)


# Who serves.


def test_auto_takes_the_first_of_the_user_s_order_that_can_be_followed(
    hub: HuggingFace, opened: Open
) -> None:
    hub.serve(
        WAN,
        **{
            "novita": Served("novita/wan"),
            "replicate": Served("wan-video/wan"),
            "together": Served("Wan-AI/Wan", status="error"),
            "wavespeed": Served("wavespeed-ai/wan"),
            "fal-ai": Served("fal-ai/wan/v2.2-5b/text-to-video"),
        },
    )
    assert opened(hub).health().reachable
    for provider, chosen in (
        ("auto", "wavespeed"),
        ("together, fal-ai", "fal-ai"),
        ("fal-ai,wavespeed", "fal-ai"),
        ("replicate", "replicate"),
    ):
        sku = opened(hub, provider=provider).usage(Need()).sku
        assert sku == f"huggingface/{chosen}/{WAN}"


def test_a_model_that_nobody_serves_for_us_is_told_with_who_there_is(
    hub: HuggingFace, opened: Open
) -> None:
    hub.serve(WAN, novita=Served("novita/wan"), together=Served("x/y", status="staging"))
    with pytest.raises(
        SetupNeeded, match=r"novita \(text-to-video, live\), together .*staging"
    ) as no:
        opened(hub).submit(job())
    assert "PENNYREEL_HF_VIDEO_MODEL" in no.value.hint
    with pytest.raises(SetupNeeded, match="no provider of fal-ai makes a video"):
        opened(hub, provider="fal-ai").submit(job())
    with pytest.raises(SetupNeeded, match="has no model nobody/nothing"):
        opened(hub, video_model="nobody/nothing").submit(job())
    assert hub.submits == 0


def test_the_mapping_is_asked_for_once_an_hour_by_all_processes(
    hub: HuggingFace, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = lambda: len([c for c in hub.calls if c.path.startswith("/api/models")])  # noqa: E731
    assert opened(hub).usage(Need()).sku == f"huggingface/auto/{WAN}"
    run(opened(hub), job())
    run(opened(hub), job())
    assert asked() == 1
    assert opened(hub).usage(Need()).sku == f"huggingface/fal-ai/{WAN}"
    monkeypatch.setattr(_hf_offers, "KEPT_S", 0.0)
    run(opened(hub), job())
    assert asked() == 2


def test_a_provider_that_has_dropped_the_model_is_not_asked_again_from_memory(
    hub: HuggingFace, opened: Open
) -> None:
    hub.serve(WAN, **{"fal-ai": Served("fal-ai/gone")})
    one = opened(hub)
    with pytest.raises(SetupNeeded, match="does not serve the model any more"):
        one.submit(job())
    hub.serve(WAN, **{"fal-ai": Served("fal-ai/wan/v2.2-5b/text-to-video")})
    assert run(one, job()).artifacts


def test_the_other_form_of_the_mapping_and_what_is_not_understood_are_read() -> None:
    listed = [
        {"provider": "fal-ai", "providerId": "a/b", "task": "text-to-video", "status": "live"},
        {"provider": "odd"},
        7,
    ]
    found = _hf_offers.read("m/m", {"inferenceProviderMapping": listed})
    assert [(o.provider, o.provider_id) for o in found] == [("fal-ai", "a/b")]
    for odd in (None, [], {}, {"inferenceProviderMapping": 3}):
        assert _hf_offers.read("m/m", odd) == ()


def test_a_damaged_store_of_mappings_is_only_asked_for_again(
    hub: HuggingFace, opened: Open, tmp_path: Path
) -> None:
    file = tmp_path / "huggingface" / "providers.json"
    file.parent.mkdir()
    odd = {WAN: {"at": 9e99, "offers": [{}]}}
    for text in ("{", "[]", json.dumps({WAN: 3}), json.dumps(odd)):
        file.write_text(text)
        assert opened(hub).usage(Need()).sku == f"huggingface/auto/{WAN}"
    assert run(opened(hub), job()).artifacts


def test_a_kind_that_nobody_serves_is_not_among_its_abilities_once_that_is_known(
    hub: HuggingFace, opened: Open
) -> None:
    one = opened(hub, video_model=FLUX)
    assert one.abilities().kinds == {"video", "image"}
    one.health()
    assert one.abilities().kinds == {"image"}


def test_a_cancel_counts_as_certain_only_where_one_is_known(hub: HuggingFace, opened: Open) -> None:
    one = opened(hub)
    assert not one.abilities().cancels
    one.health()
    assert one.abilities().cancels
    assert not opened(hub, provider="wavespeed").abilities().cancels


def test_a_renamed_model_is_told_and_its_new_place_gets_no_token(opened: Open) -> None:
    moved = Reply(307, b"", {"Location": "/api/models/new/name"})
    with Scripted(lambda _: moved) as server:
        with pytest.raises(SetupNeeded, match="has another name") as renamed:
            opened(server).submit(job())
        assert len(server.requests) == 1
    assert "PENNYREEL_HF_VIDEO_MODEL" in renamed.value.hint


# Settings.


def test_settings_lead_to_it(hub: HuggingFace) -> None:
    settings = load(
        hf_token=TOKEN, hf_endpoint=hub.url, hf_router_url=hub.url, hf_provider="fal-ai"
    )
    one = open_backend("huggingface", settings)
    assert (one.name, one.target) == ("huggingface", "fal-ai")
    assert one.health().reachable
    one.close()
    with pytest.raises(SetupNeeded, match="no Hugging Face token"):
        open_backend("huggingface", load())
    with pytest.raises(SetupNeeded, match="'nobody'") as no:
        open_backend("huggingface", settings, "fal-ai,nobody")
    assert "wavespeed" in no.value.hint
    with pytest.raises(SetupNeeded, match="not https"):
        open_backend("huggingface", load(hf_token=TOKEN, hf_router_url="http://router.example"))


def test_health_tells_the_account_and_who_would_serve(hub: HuggingFace, opened: Open) -> None:
    told = opened(hub).health()
    assert (
        told.detail == f"tester (free account): videos by fal-ai ({WAN}); images by fal-ai ({FLUX})"
    )
    assert not told.hint
    half = opened(hub, image_model=HUNYUAN).health()
    assert half.reachable
    assert "no images (no provider makes an image" in half.detail
    none = opened(hub, image_model=HUNYUAN, video_model=FLUX).health()
    assert not none.reachable
    assert "PENNYREEL_HF_" in none.hint
    assert hub.submits == 0


@pytest.mark.parametrize(
    ("role", "permissions", "hint"),
    [
        ("write", (), False),
        ("fineGrained", (), True),
        ("fineGrained", ("inference.serverless.write",), False),
    ],
)
def test_health_tells_of_a_token_that_may_not_be_allowed(
    role: str, permissions: tuple[str, ...], hint: bool, opened: Open
) -> None:
    with HuggingFace(HubConfig(role=role, permissions=permissions, pro=True)) as hub:
        told = opened(hub).health()
    assert told.reachable
    assert "PRO account" in told.detail
    assert bool(told.hint) == hint


@pytest.mark.parametrize(
    "body", [b"<html>", b"[]", b'{"auth": 3, "inferenceProviderMapping": [3]}', b"null"]
)
def test_health_does_not_raise_for_odd_answers(body: bytes, opened: Open) -> None:
    with Scripted(lambda _: Reply(200, body)) as server:
        told = opened(server).health()
    assert not told.reachable
    assert told.hint


def test_an_organisation_can_be_billed(hub: HuggingFace, opened: Open) -> None:
    run(opened(hub, bill_to="my-org"), job())
    run(opened(hub), job())
    posts = [c for c in hub.calls if c.method == "POST"]
    assert [c.headers.get("x-hf-bill-to") for c in posts] == ["my-org", None]


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


# What is billed.


def test_one_video_and_one_picture_are_units_of_who_made_them(
    hub: HuggingFace, opened: Open
) -> None:
    one = opened(hub)
    video, image = run(one, job()), run(one, job("image"))
    for result, need, unit, model in (
        (video, Need(), Unit.RUN, WAN),
        (image, Need(kind="image"), Unit.IMAGE, FLUX),
    ):
        usage = opened(hub, provider="wavespeed").billed(need, result)
        assert (usage.sku, usage.unit, usage.amount) == (f"huggingface/fal-ai/{model}", unit, 1)


# Following.


def scripted(answers: dict[str, Callable[[Request], Reply | None]]) -> Scripted:
    """A server with WAN at fal-ai; `answers` by the path's beginning, the longest first."""
    mapping = {"fal-ai": {"status": "live", "providerId": "fal-ai/wan", "task": "text-to-video"}}
    usual: dict[str, Callable[[Request], Reply | None]] = {
        "/api/models": lambda _: Reply(body={"inferenceProviderMapping": mapping}),
        "/fal-ai/fal-ai/wan": lambda _: Reply(body={"request_id": "r1"}),
    }

    def answer(request: Request) -> Reply | None:
        table = {**usual, **answers}
        path = max((p for p in table if request.path.startswith(p)), key=len)
        return table[path](request)

    return Scripted(answer)


STATUS = "/fal-ai/fal-ai/wan/requests/r1/status"
RESULT = "/fal-ai/fal-ai/wan/requests/r1?"
DONE = {"status": "COMPLETED"}


def test_a_job_is_told_queued_and_running_once_each(hub: HuggingFace, opened: Open) -> None:
    hub.plan(Plan(looks=5))
    one = opened(hub)
    events: list[Any] = []
    follow(one, one.submit(job()), on_event=events.append)
    assert events == [Queued(), Started()]


@pytest.mark.parametrize(("status", "says"), [(401, "HF_TOKEN"), (402, "credits")])
def test_a_refusal_in_mid_job_leaves_it_unknown(status: int, says: str, opened: Open) -> None:
    with scripted({STATUS: lambda _: Reply(status, {"error": "no"})}) as server:
        one = opened(server)
        handle = one.submit(job())
        with pytest.raises(OutcomeUnknown, match="may go on") as unknown:
            follow(one, handle)
    assert says in unknown.value.hint
    assert str(handle) in unknown.value.hint


def test_a_job_that_is_gone_is_expired_and_at_replicate_unknown(
    hub: HuggingFace, opened: Open
) -> None:
    hub.always(Plan(end="never", looks=5))
    one, replicate = opened(hub), opened(hub, provider="replicate")
    handles = [one.submit(job()), replicate.submit(job())]
    hub.forget_jobs()
    with pytest.raises(JobFailed) as gone:
        follow(one, handles[0])
    assert gone.value.code == Code.RESULT_EXPIRED.value
    with pytest.raises(OutcomeUnknown, match="cannot be looked at through Hugging Face"):
        follow(replicate, handles[1])
    assert replicate.cancel(handles[1]) is False


def test_hiccups_are_borne_and_a_rate_limit_s_pause_is_kept(opened: Open) -> None:
    answers = iter(
        [None, Reply(502, b"bad gateway"), Reply(429, b"", {"Retry-After": "0"}), Reply(404),
         Reply(200, b"<html>"), Reply(body=DONE)]
    )  # fmt: skip
    made = {"video": {"url": "https://files.example/v.mp4"}}
    with scripted(
        {
            STATUS: lambda _: next(answers),
            RESULT: lambda _: Reply(body=made),
        }
    ) as server:
        result = run(opened(server), job())
    assert [a.url for a in result.artifacts] == ["https://files.example/v.mp4"]


def test_silence_for_too_long_is_an_unknown_outcome(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hf_follow, "DOWN_GRACE_S", 0.05)
    with scripted({STATUS: lambda _: None}) as server:
        one = opened(server)
        handle = one.submit(job())
        with pytest.raises(OutcomeUnknown, match="no answer for") as unknown:
            follow(one, handle)
    assert str(handle) in unknown.value.hint


@pytest.mark.parametrize(
    ("status", "result", "says"),
    [
        ({"status": "COMPLETED", "error": "NSFW"}, Reply(body={}), "NSFW"),
        (
            DONE,
            Reply(422, {"detail": [{"msg": "flagged by the checker"}]}),
            "flagged by the checker",
        ),
        (DONE, Reply(body={"video": {}}), "names no video"),
        ({"status": "CANCELLED"}, Reply(body={}), "CANCELLED"),
    ],
)
def test_an_end_without_a_video_is_a_failure_that_says_why(
    status: dict[str, Any], result: Reply, says: str, opened: Open
) -> None:
    with scripted(
        {STATUS: lambda _: Reply(body=status), RESULT: lambda _: result}
    ) as server, pytest.raises(JobFailed, match=says) as failed:  # fmt: skip
        run(opened(server), job())
    assert not failed.value.retryable


@pytest.mark.parametrize(
    "body",
    [
        {"request_id": "../../x", "response_url": "https://queue.fal.run/../etc"},
        {"request_id": 7},
        {"request_id": "a?b=c"},
        [],
    ],
)
def test_an_id_that_is_none_is_an_unknown_outcome(body: Any, opened: Open) -> None:
    with (
        scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(body=body)}) as server,
        pytest.raises(OutcomeUnknown, match="names neither"),
    ):
        opened(server).submit(job())


def test_a_strange_result_path_of_fal_is_not_followed(opened: Open) -> None:
    body = {"request_id": "r1", "response_url": "https://evil.example/whoami"}
    with scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(body=body)}) as server:
        handle = opened(server).submit(job())
    assert handle.remote_id.endswith(":fal-ai/wan/requests/r1")


def test_408_may_mean_that_it_runs(opened: Open) -> None:
    with scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(408)}) as server:
        with pytest.raises(OutcomeUnknown, match="408"):
            opened(server).submit(job())
        assert len([r for r in server.requests if r.method == "POST"]) == 1


def test_a_503_that_does_not_say_loading_may_mean_that_it_runs(opened: Open) -> None:
    with (
        scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(503)}) as server,
        pytest.raises(OutcomeUnknown),
    ):
        opened(server).submit(job())


def test_loading_says_when_to_come_again(hub: HuggingFace, opened: Open) -> None:
    hub.plan(Plan(refuse=503))
    with pytest.raises(Unavailable, match="loading") as loading:
        opened(hub, image_model=SD3).submit(job("image"))
    assert loading.value.info.detail["retry_after_s"] == 20.0


def test_a_router_that_refuses_connections_has_taken_nothing(
    hub: HuggingFace, opened: Open
) -> None:
    one = opened(hub, router_url=f"http://127.0.0.1:{dead_port()}")
    with pytest.raises(Unavailable, match="nothing was sent") as down:
        one.submit(job())
    assert down.value.retryable
    assert "PENNYREEL_HF_ROUTER_URL" in down.value.hint
    assert hub.submits == 0


def test_a_request_that_is_too_large_is_told(opened: Open) -> None:
    with (
        scripted({"/fal-ai/fal-ai/wan?": lambda _: Reply(413)}) as server,
        pytest.raises(BadRequest) as large,
    ):
        opened(server).submit(job())
    assert large.value.code == Code.REQUEST_TOO_LARGE.value


# Cancelling.


def test_a_cancel_that_the_router_does_not_take_is_not_waited_for(
    hub: HuggingFace, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hf_follow, "CONFIRM_S", 3600.0)
    hub.plan(Plan(end="never", cancel="unsupported"))
    one = opened(hub)
    handle = one.submit(job())
    assert one.cancel(handle) is False
    with pytest.raises(JobTimeout, match="fal-ai did not confirm"):
        follow(one, handle, 0.05)


def test_one_404_after_a_cancel_is_no_proof(opened: Open) -> None:
    answers = iter([Reply(404), Reply(404), Reply(body={"status": "IN_PROGRESS"})])
    with scripted(
        {
            STATUS: lambda _: next(answers, Reply(body={"status": "IN_PROGRESS"})),
            "/fal-ai/fal-ai/wan/requests/r1/cancel": lambda _: Reply(404),
        }
    ) as server:
        one = opened(server)
        assert one.cancel(one.submit(job())) is False


def test_a_cancel_wakes_who_waits_between_two_looks(
    hub: HuggingFace, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_hf_follow, "POLL_S", (3600.0, 3600.0))
    monkeypatch.setattr(_hf_follow, "CONFIRM_S", 0.0)
    hub.plan(Plan(end="never"))
    one, token = opened(hub), CancelToken()
    handle = one.submit(job())
    with pytest.raises(JobCancelled):
        follow(one, handle, 7200.0, on_event=lambda _: token.cancel(), cancel=token)
    assert hub.jobs[0].cancelled


def test_a_job_that_was_faster_than_its_deadline_s_cancel_counts(
    hub: HuggingFace, opened: Open
) -> None:
    hub.always(Plan(looks=0))
    one = opened(hub)
    handle = one.submit(job())
    assert follow(one, handle, 0.0).artifacts
    token = CancelToken()
    token.cancel()
    with pytest.raises(JobCancelled) as cancelled:
        follow(one, handle, cancel=token)
    assert cancelled.value.info.detail["confirmed_stopped"] is True


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
