"""The emulation is as unkind as the real one may be, and counts what costs money."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import av
import pytest
import requests

import pennyreel_emulators.huggingface as package
from pennyreel_emulators.huggingface import HubConfig, HuggingFace, Plan, mp4, png

FAL = "/fal-ai/fal-ai/wan/v2.2-5b/text-to-video?_subdomain=queue"
WAVE = "/wavespeed/api/v3/wavespeed-ai/minimax-h3/turbo"


@pytest.fixture
def hub() -> Iterator[HuggingFace]:
    with HuggingFace() as running:
        yield running


@pytest.fixture
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        one.trust_env = False
        one.headers["Authorization"] = f"Bearer {HubConfig().token}"
        yield one


def post(session: requests.Session, hub: HuggingFace, path: str = FAL) -> requests.Response:
    return session.post(hub.url + path, json={"prompt": "a paper boat"}, timeout=10)


def test_what_the_package_exports_is_sorted_and_there() -> None:
    assert package.__all__ == sorted(package.__all__, key=lambda n: (not n.isupper(), n))
    assert all(hasattr(package, name) for name in package.__all__)


def test_its_files_are_real() -> None:
    with av.open(io.BytesIO(mp4())) as video:
        assert [(f.width, f.height) for f in video.decode(video=0)] == [(64, 64)] * 8
    with av.open(io.BytesIO(png(96, 32))) as picture:
        assert [(f.width, f.height) for f in picture.decode(video=0)] == [(96, 32)]


def test_without_the_token_nothing_but_models_is_shown(hub: HuggingFace) -> None:
    for path in ("/api/whoami-v2", FAL, "/together/v2/videos/x"):
        assert requests.get(hub.url + path, timeout=10).status_code == 401
    model = f"{hub.url}/api/models/Wan-AI/Wan2.2-TI2V-5B"
    assert requests.get(model, timeout=10).json()["pipeline_tag"] == "text-to-video"
    wrong = {"Authorization": "Bearer hf_wrong"}
    assert requests.get(model, headers=wrong, timeout=10).status_code == 401
    assert requests.get(f"{hub.url}/api/models/no/body", timeout=10).status_code == 404


def test_a_token_at_the_files_host_is_refused_and_written_down(
    hub: HuggingFace, session: requests.Session
) -> None:
    hub.plan(Plan(looks=0))
    job = post(session, hub).json()["request_id"]
    url = f"{hub.files_url}/files/{job}/0/video.mp4"
    assert session.get(url, timeout=10).status_code == 400
    assert requests.get(url, timeout=10).content == mp4()
    assert [c.status for c in hub.fetched] == [400, 200]


def test_fal_s_queue_is_reached_by_its_subdomain_only(
    hub: HuggingFace, session: requests.Session
) -> None:
    told = post(session, hub).json()
    base = f"{hub.url}/fal-ai/fal-ai/wan/requests/{told['request_id']}"
    assert told["response_url"].startswith("https://queue.fal.run/fal-ai/wan/requests/")
    assert session.get(f"{base}/status", timeout=10).status_code == 404
    ask = lambda path: session.get(f"{base}{path}?_subdomain=queue", timeout=10)  # noqa: E731
    assert ask("").status_code == 400
    assert ask("/status").json()["status"] == "IN_PROGRESS"
    assert ask("/status").json()["status"] == "COMPLETED"
    assert ask("").json()["video"]["file_size"] == len(mp4())


def test_a_cancel_is_obeyed_ignored_or_unsupported_as_planned(
    hub: HuggingFace, session: requests.Session
) -> None:
    seen: list[Any] = []
    for cancel in ("obeyed", "ignored", "unsupported"):
        hub.plan(Plan(end="never", cancel=cancel))
        base = f"{hub.url}/fal-ai/fal-ai/wan/requests/{post(session, hub).json()['request_id']}"
        told = session.put(f"{base}/cancel?_subdomain=queue", timeout=10)
        after = session.get(f"{base}/status?_subdomain=queue", timeout=10)
        seen.append((told.status_code, after.status_code))
    assert seen == [(202, 404), (202, 202), (405, 202)]
    hub.let_end()
    told = session.put(f"{base}/cancel?_subdomain=queue", timeout=10)
    assert told.json() == {"status": "ALREADY_COMPLETED"}
    assert hub.billed == 3


def test_credits_run_out_and_refusals_are_not_billed(session: requests.Session) -> None:
    with HuggingFace(HubConfig(credits=1)) as hub:
        hub.plan(Plan(refuse=429, retry_after="3"))
        busy = post(session, hub, WAVE)
        assert (busy.status_code, busy.headers["Retry-After"]) == (429, "3")
        assert post(session, hub, WAVE).status_code == 200
        assert post(session, hub, WAVE).status_code == 402
        assert post(session, hub, "/wavespeed/api/v3/no/such").status_code == 404
        assert (hub.submits, hub.billed) == (4, 1)


@pytest.mark.parametrize(("answer", "billed"), [("lost", 1), ("never", 0)])
def test_an_answer_that_does_not_come_was_accepted_or_not(
    answer: Any, billed: int, hub: HuggingFace, session: requests.Session
) -> None:
    hub.plan(Plan(answer=answer))
    with pytest.raises(requests.ConnectionError):
        post(session, hub)
    assert (hub.submits, hub.billed) == (1, billed)
    assert hub.calls[-1].status == 0


def test_bodies_that_are_none_are_refused(hub: HuggingFace, session: requests.Session) -> None:
    for body in (b"{", b"[]"):
        assert session.post(hub.url + WAVE, data=body, timeout=10).status_code == 400
    assert hub.billed == 0


def test_it_can_be_used_from_its_end_on() -> None:
    with HuggingFace() as hub:
        pass
    assert (hub.billed, hub.calls) == (0, ())


def test_a_port_that_is_taken_is_told_by_the_start(hub: HuggingFace) -> None:
    taken = HuggingFace(HubConfig(port=int(hub.url.rpartition(":")[2])))
    with pytest.raises(OSError, match="in use"):
        taken.__enter__()
