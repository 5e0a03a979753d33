"""A job brings a checkpoint and a LoRA by URL, through RunPod's SDK, to the real ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from comfy.models.library import Library, safetensors, sha256
from e2e.test_stop import Platform
from fakes.waits import eventually
from pennyreel import config
from pennyreel.devstack import DevStack, Options
from pennyreel_comfy.install import Installation
from pennyreel_comfy.models import Entry
from pennyreel_comfy.models.manifest import written
from pennyreel_contract import ErrorInfo, new_attempt_id
from worker.support import node

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

CHECKPOINT, LORA = "mine/brought.safetensors", "style.safetensors"
PICKLE = b"not safe by its name: the operator's list vouches for it"


@pytest.fixture(scope="module")
def hosts() -> Iterator[tuple[Library, Library]]:
    """One that is asked, and the store that it redirects to, as Civitai does."""
    with ExitStack() as stack:
        yield stack.enter_context(Library()), stack.enter_context(Library())


@pytest.fixture(scope="module")
def platform(
    comfyui: Installation,
    hosts: tuple[Library, Library],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Platform]:
    allowed = {"PENNYREEL_MODEL_HOSTS": ",".join(library.host for library in hosts)}
    mine = tmp_path_factory.mktemp("lists") / "mine.toml"
    known = Entry(
        name="known.ckpt", folder="loras", url=at(*hosts, 6, PICKLE), sha256=sha256(PICKLE)
    )
    mine.write_text(written(known))
    allowed["PENNYREEL_MODEL_LISTS"] = str(mine)
    # A home has one stack at a time, and the other tests' may be running.
    settings = config.load({}, home=tmp_path_factory.mktemp("home"))
    options = Options(
        workers_min=1, workers_max=1, s3=False, comfyui=comfyui.layout.root, worker_env=allowed
    )
    with DevStack(settings, options) as running:
        yield Platform(running)


def graph() -> dict[str, Any]:
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "2": node("LoraLoader", model=["1", 0], clip=["1", 1], lora_name=LORA, strength_model=1.0,
                  strength_clip=1.0),
        "3": node("CLIPTextEncode", clip=["2", 1], text="a boat"),
        "4": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "5": node("KSampler", model=["2", 0], positive=["3", 0], negative=["3", 0],
                  latent_image=["4", 0], seed=1, steps=1, cfg=1.0, sampler_name="euler",
                  scheduler="normal", denoise=1.0),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "9": node("SaveImage", images=["6", 0], filename_prefix="x"),
    }  # fmt: skip


def run(platform: Platform, *models: dict[str, str]) -> dict[str, Any]:
    body = {"contract": 1, "attempt_id": new_attempt_id(), "workflow": graph(), "models": models}
    job = platform.call("POST", "run", json={"input": body})["id"]
    eventually(lambda: platform.status(job) in {"FAILED", "COMPLETED"}, 200)
    return platform.call("GET", f"status/{job}")


def at(host: Library, store: Library, number: int, data: bytes) -> str:
    """Serve a file as Civitai does: a number, a redirect, and a name that only a header says."""
    named = {"Content-Disposition": 'attachment; filename="../../elsewhere.safetensors"'}
    place = store.put(f"/bucket/{number}", data, headers=named)
    return host.put(f"/api/download/models/{number}", b"", status=307, location=f"{place}?sig=1")


def test_a_checkpoint_and_a_lora_come_by_url_once_and_are_loaded(
    platform: Platform, hosts: tuple[Library, Library], comfyui: Installation, tiny_model: str
) -> None:
    weights = (Path(comfyui.layout.comfy) / "models" / "checkpoints" / tiny_model).read_bytes()
    needs = (
        {"folder": "checkpoints", "name": CHECKPOINT, "url": at(*hosts, 1, weights),
         "sha256": sha256(weights)},
        {"folder": "loras", "name": LORA, "url": at(*hosts, 2, safetensors(1000))},
    )  # fmt: skip
    for _ in range(2):
        answer = run(platform, *needs)
        assert answer["status"] == "COMPLETED", answer
        assert answer["output"]["artifacts"]
    assert [hosts[1].count(f"/bucket/{number}") for number in (1, 2)] == [1, 1]
    known = {"folder": "loras", "name": "known.ckpt", "url": at(*hosts, 6, PICKLE)}
    assert run(platform, *needs, known)["status"] == "COMPLETED"
    assert hosts[1].count("/bucket/6") == 1


@pytest.mark.parametrize(
    ("need", "code", "told"),
    [
        ({"folder": "loras", "name": "a.ckpt"}, "model_refused", "sha256 only"),
        ({"folder": "loras", "name": "../a.safetensors"}, "bad_request", "name"),
        ({"folder": "custom_nodes", "name": "a.safetensors"}, "model_refused", "no folder"),
        ({"folder": "loras", "name": LORA, "url": "https://evil.example/a.safetensors"},
         "model_refused", "evil.example"),
    ],
)  # fmt: skip
def test_what_is_refused_is_refused_before_any_download(
    need: dict[str, str], code: str, told: str,
    platform: Platform, hosts: tuple[Library, Library],
) -> None:  # fmt: skip
    url = at(*hosts, 3, safetensors(500))
    good = {"folder": "checkpoints", "name": CHECKPOINT, "url": url}
    before = len(hosts[0].asked) + len(hosts[1].asked)
    style = {"folder": "loras", "name": LORA, "url": url}
    answer = run(platform, good, *([style] if need["name"] != LORA else []), {"url": url, **need})
    info = ErrorInfo.decode(answer["error"])
    assert (info.code, told in info.message) == (code, True), info
    assert len(hosts[0].asked) + len(hosts[1].asked) == before


def test_a_page_to_log_in_is_told_as_one(
    platform: Platform, hosts: tuple[Library, Library]
) -> None:
    page = {"Content-Type": "text/html"}
    login = hosts[0].put("/login", b"<!doctype html><title>Log in", headers=page)
    url = hosts[0].put("/api/download/models/4", b"", status=307, location=login)
    style = {"folder": "loras", "name": LORA, "url": at(*hosts, 5, safetensors(500))}
    answer = run(platform, style, {"folder": "checkpoints", "name": CHECKPOINT, "url": url})
    info = ErrorInfo.decode(answer["error"])
    assert (info.code, "web page" in info.message) == ("model_refused", True), info
