"""Who serves, whose settings count, and what is billed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from backends.huggingface.support import (
    TOKEN,
    Open,
    job,
    run,
)
from client.support import Reply, Scripted
from emulators.huggingface.support import FLUX, HUNYUAN, WAN
from pennyreel.backends import _hf_offers
from pennyreel.backends.registry import open_backend
from pennyreel.config import load
from pennyreel.errors import (
    SetupNeeded,
)
from pennyreel.need import Need, Unit
from pennyreel_emulators.huggingface import HubConfig, HuggingFace, Served

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
