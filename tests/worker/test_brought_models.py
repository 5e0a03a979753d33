"""A job brings its own model by URL, through the worker, to the real ComfyUI."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from comfy.models.library import Library, sha256
from pennyreel_comfy.install import Installation
from worker.support import Bench, bench_of, node, real_settings, request

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
NAME = "brought/by-a-job.safetensors"
OTHER = "brought/not-what-it-says.safetensors"


@pytest.fixture(scope="module")
def weights() -> bytes:
    """A tiny SD1.5 checkpoint of random weights."""
    root = Path(os.environ.get("PENNYREEL_TEST_COMFYUI", ROOT / "build" / "comfyui"))
    found = Installation.load(root)
    assert found is not None, f"no ComfyUI in {root}; run `make test`, which installs it"
    maker = ROOT / "tests" / "programs" / "make_tiny_models.py"
    subprocess.run(
        [str(found.layout.python), str(maker), str(found.layout.comfy), "sd15"],
        check=True, env=found.env(), timeout=300, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    folder = found.layout.comfy / "models" / "checkpoints"
    return (folder / "pennyreel_tiny_sd15.safetensors").read_bytes()


@pytest.fixture(scope="module")
def library() -> Iterator[Library]:
    with Library() as serving:
        yield serving


@pytest.fixture(scope="module")
def bench(library: Library) -> Iterator[Bench]:
    """A worker that may fetch models from the library."""
    with bench_of(real_settings(PENNYREEL_ALLOW_HOSTS=library.host)) as made:
        yield made


def graph(name: str) -> dict[str, Any]:
    """A picture by the VAE of this checkpoint."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=name),
        "2": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "3": node("VAEDecode", samples=["2", 0], vae=["1", 2]),
        "9": node("SaveImage", images=["3", 0], filename_prefix="x"),
    }


def variant(weights: bytes) -> bytes:
    """The same weights in another file: a word more in its header."""
    size = int.from_bytes(weights[:8], "little")
    header = {**json.loads(weights[8 : 8 + size]), "__metadata__": {"variant": "own"}}
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + weights[8 + size :]


def asking(url: str, name: str = NAME, **more: str) -> dict[str, Any]:
    need = {"folder": "checkpoints", "name": name, "url": url, **more}
    return request(graph(name), models=[need])


def test_a_model_that_a_job_names_by_url_is_loaded_and_fetched_once(
    bench: Bench, library: Library, weights: bytes
) -> None:
    url = library.put("/w.safetensors", weights)
    missing = bench.bad(request(graph(NAME)))
    assert (missing.code, NAME in missing.message) == ("missing_model", True)
    body = asking(url, sha256=sha256(weights))
    assert bench.good(body).artifacts
    assert bench.good(asking(url, sha256=sha256(weights))).artifacts
    assert library.count("/w.safetensors") == 1


def test_a_model_with_another_checksum_never_reaches_comfyui(
    bench: Bench, library: Library, weights: bytes
) -> None:
    url = library.put("/other.safetensors", weights)
    problem = bench.bad(asking(url, OTHER, sha256="0" * 64))
    assert problem.code == "model_download_failed"
    assert "0" * 64 in problem.message
    assert bench.bad(request(graph(OTHER))).code == "missing_model"


def test_a_host_that_the_operator_does_not_list_is_never_asked(
    bench: Bench, library: Library
) -> None:
    with Library() as other:
        for scheme in ("http", "https"):  # by https there is no other reason to refuse it
            problem = bench.bad(asking(f"{scheme}://{other.host}/x.safetensors", OTHER))
            assert problem.code == "model_refused", scheme
            assert "none that models are taken from" in problem.message
        assert other.asked == []


def test_what_one_job_brought_is_neither_told_to_others_nor_theirs_to_use(
    bench: Bench, library: Library, weights: bytes
) -> None:
    own = variant(weights)  # the other tests' may be there already
    url, digest = library.put("/own.safetensors", own), sha256(own)
    assert bench.good(asking(url, sha256=digest)).artifacts
    guesses = [graph("x.safetensors"), graph(f"{digest}.safetensors"), graph(f"{digest}.ckpt")]
    problems = [bench.bad(request(guess)) for guess in guesses]
    assert [p.code for p in problems] == ["missing_model", "node_refused", "node_refused"]
    info = bench.run({"contract": 1, "op": "info"})
    assert digest not in json.dumps([problems[0].encode(), info])
    assert info["models"]["checkpoints"]  # the worker's own are
    prompted = {
        **graph(NAME),
        "5": node("CLIPTextEncode", clip=["1", 1], text=f"a cat, embedding:{digest}"),
    }
    need = {"folder": "checkpoints", "name": NAME, "url": url}
    assert bench.bad(request(prompted, models=[need])).code == "node_refused"
    assert bench.good(asking(url, f"{digest}.safetensors", sha256=digest)).artifacts
