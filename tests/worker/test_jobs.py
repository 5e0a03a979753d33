"""Whole jobs through the worker's own code, on the fake ComfyUI."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes.comfyui import PNG
from pennyreel_contract import __version__, parse_info
from worker.support import SAVE, Bench, becomes, node, play, request


def test_a_small_result_comes_inline(bench: Bench) -> None:
    body = request(metadata={"shot": 7})
    result = bench.good(body)
    assert result.attempt_id == body["attempt_id"]
    assert result.metadata == {"shot": 7}
    (image,) = result.artifacts
    assert base64.b64decode(image.data or "") == PNG
    assert image.sha256 == hashlib.sha256(PNG).hexdigest()
    assert (image.name, image.kind, image.mime) == ("shot_00001_.png", "image", "image/png")
    assert (image.bytes, image.node, image.temp, image.url) == (len(PNG), "9", False, None)
    assert set(result.timings) == {"prepare", "queue", "execute", "deliver", "total"}
    assert result.gpu is not None
    assert (result.gpu.name, result.gpu.type) == ("fake", "cpu")
    assert result.gpu.seconds == result.timings["execute"]
    assert result.worker == {"pennyreel": __version__, "worker_id": "local"}
    assert not result.replayed
    assert not result.warnings


def test_nothing_of_a_job_is_left_behind(bench: Bench) -> None:
    hello = base64.b64encode(b"hello").decode()
    bench.good(request(inputs=[{"name": "a.png", "data": hello}]))
    bench.bad(request({"1": node("FakeError")}))
    bench.bad(request({"1": node("FakeSleep", seconds=20)}, timeout_s=0.2))
    assert bench.left() == []
    assert bench.fake()["history"] == []


def test_a_file_outside_the_jobs_folder_goes_too_and_its_node_is_never_answered_from_the_cache(
    bench: Bench,
) -> None:
    marks = set()
    for _ in range(2):
        result = bench.good(request({"1": node("FakeOutput", filename="stray.png"), **SAVE}))
        assert "stray.png" in {a.name for a in result.artifacts}
        assert bench.left() == []
        sent = bench.prompts()[-1]["graph"]
        marks.add(sent["1"]["inputs"]["pennyreel_attempt"])
        assert "pennyreel_attempt" not in sent["9"]["inputs"]  # its prefix is new each time
    assert len(marks) == 2


def test_the_same_attempt_again_is_not_answered_from_comfyuis_cache(bench: Bench) -> None:
    body = request()
    assert bench.good(body).artifacts == bench.good(body).artifacts
    first, again = (p["graph"]["9"]["inputs"]["filename_prefix"] for p in bench.prompts()[-2:])
    assert first != again


KINDS = {
    "1": node("FakeOutput", filename="a.png", key="images"),
    "2": node("FakeOutput", filename="b.mp4", key="gifs"),
    "3": node("FakeOutput", filename="c.flac", key="audio"),
    "4": node("FakeOutput", filename="d.glb", key="3d"),
    "5": node("FakeOutput", filename="e.latent", key="latents"),
    "6": node("FakeText", text="grüße"),
    "7": node("FakeOutput", filename="p.png", type="temp"),
}
for _value in KINDS.values():
    if _value["class_type"] == "FakeOutput":
        _value["inputs"]["filename_prefix"] = "x"


def test_outputs_of_every_kind_are_returned_and_previews_are_not(bench: Bench) -> None:
    result = bench.good(request(KINDS))
    assert [(a.kind, a.mime) for a in result.artifacts] == [
        ("image", "image/png"),
        ("video", "video/mp4"),
        ("audio", "audio/flac"),
        ("model3d", "model/gltf-binary"),
        ("file", "application/octet-stream"),
        ("text", "text/plain"),
    ]
    text = result.artifacts[-1]
    assert base64.b64decode(text.data or "").decode() == "grüße"
    assert text.bytes == len("grüße".encode())


def test_images_that_come_over_the_websocket_alone_are_artifacts_too(bench: Bench) -> None:
    graph = {"5": node("SaveImageWebsocket"), **SAVE}
    made = bench.good(request(graph)).artifacts
    assert [(a.name, a.node, a.bytes) for a in made] == [
        ("shot_00001_.png", "9", len(PNG)),
        ("node-5-001.png", "5", len(PNG)),
    ]
    assert bench.good(request(graph, outputs={"nodes": ["5"]})).artifacts == made[1:]


def test_previews_come_on_request(bench: Bench) -> None:
    result = bench.good(request(KINDS, outputs={"temp": True, "kinds": ["image"]}))
    assert [(a.name, a.temp) for a in result.artifacts] == [("a.png", False), ("p.png", True)]


def test_outputs_are_chosen_by_node_and_kind(bench: Bench) -> None:
    result = bench.good(request(KINDS, outputs={"nodes": ["2", "3"], "kinds": ["video"]}))
    assert [a.name for a in result.artifacts] == ["b.mp4"]


def test_a_node_that_the_workflow_lacks_is_refused_before_the_run(bench: Bench) -> None:
    before = len(bench.prompts())
    problem = bench.bad(request(outputs={"nodes": ["9", "99"]}))
    assert problem.code == "bad_request"
    assert "no node 99" in problem.message
    assert len(bench.prompts()) == before


def test_a_job_without_outputs_says_so(bench: Bench) -> None:
    assert "no output" in bench.good(request({"1": node("FakeNothing")})).warnings[0]
    only = bench.good(request(outputs={"kinds": ["video"]}))
    assert "kinds asked for" in only.warnings[0]


def test_two_files_of_one_name_get_names_of_their_own(bench: Bench) -> None:
    graph = {
        "1": node("FakeOutput", filename="a.png", filename_prefix="one/x"),
        "2": node("FakeOutput", filename="a.png", filename_prefix="two/x"),
    }
    assert [a.name for a in bench.good(request(graph)).artifacts] == ["a.png", "a-2.png"]


def test_a_nodes_id_never_becomes_a_path(bench: Bench) -> None:
    graph = {"../../x": node("FakeText", text="a"), "..\\..\\x": node("FakeText", text="b")}
    names = [a.name for a in bench.good(request(graph)).artifacts]
    assert len(set(names)) == 2
    assert not any("/" in name or "\\" in name or ".." in name for name in names)


@pytest.mark.parametrize("filename", ["../../secret.png", "/etc/passwd"])
def test_an_output_outside_comfyuis_folders_is_not_read(
    make_bench: Callable[..., Bench], filename: str
) -> None:
    bench = make_bench(PENNYREEL_ALLOW_NODES="FakeOutput")
    graph = {"1": node("FakeOutput", filename=filename, written=False, filename_prefix="x")}
    assert bench.bad(request(graph)).code == "output_missing"


def test_the_seed_reaches_every_seed_and_comes_back(bench: Bench) -> None:
    graph = {"1": node("KSampler", seed=1), "2": node("KSampler", noise_seed=2), **SAVE}
    result = bench.good(request(graph, seed=2**64 - 1))
    sent = bench.prompts()[-1]["graph"]
    assert sent["1"]["inputs"]["seed"] == sent["2"]["inputs"]["noise_seed"] == 2**64 - 1
    assert result.seed == 2**64 - 1
    assert any("no seed" in w for w in bench.good(request(seed=1)).warnings)


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    graph = {"1": node("KSampler", seed=0, steps=1, ckpt_name="fake.safetensors"), **SAVE}
    (tmp_path / "tiny.json").write_text(json.dumps(graph))
    (tmp_path / "tiny.toml").write_text(
        """
title = "Tiny"
kind = "image"
[parameters.steps]
type = "int"
default = 3
min = 1
max = 9
targets = ["1.steps"]
[parameters.seed]
type = "seed"
targets = ["1.seed"]
[[models]]
folder = "checkpoints"
name = "fake.safetensors"
url = "https://example.org/fake.safetensors"
licence = "none"
[needs]
comfyui = "0.3.64"
vram_min_bytes = 0
vram_comfortable_bytes = 0
"""
    )
    return tmp_path


def test_a_template_is_rendered_here(make_bench: Callable[..., Bench], templates: Path) -> None:
    bench = make_bench(PENNYREEL_TEMPLATES=str(templates))
    result = bench.good(request(template="tiny", parameters={"steps": 5}))
    inputs = bench.prompts()[-1]["graph"]["1"]["inputs"]
    assert inputs["steps"] == 5
    assert result.seed == inputs["seed"]  # the drawn one, so that it can be had again


def test_a_templates_models_are_looked_for(
    make_bench: Callable[..., Bench], templates: Path
) -> None:
    for file in templates.iterdir():
        file.write_text(file.read_text().replace("fake.safetensors", "other.safetensors"))
    problem = make_bench(PENNYREEL_TEMPLATES=str(templates)).bad(request(template="tiny"))
    assert problem.code == "missing_model"
    assert problem.detail == {"models": ["checkpoints/other.safetensors"]}


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "unknown template": (request(template="nope"), "bad_template", "nope"),
    "bad parameter": (
        request(template="hello-video", parameters={"colour": 1}), "bad_template", "colour",
    ),
    "editor's format": (request({"nodes": [], "links": []}), "ui_format", "editor"),
    "no graph": (request({"1": "x"}), "bad_workflow", "node '1'"),
    "unknown node": (request({"7": node("MagicNode")}), "unknown_node", "MagicNode"),
    "missing file": (request({"7": node("LoadImage", image="x.png")}), "bad_input", "x.png"),
    "missing model": (
        request(models=[{"folder": "checkpoints", "name": "x.ckpt"}]), "missing_model", "x.ckpt",
    ),
    "failing node": (request({"7": node("FakeError")}), "execution_failed", "node 7"),
    "memory": (request({"7": node("FakeMemory")}), "out_of_memory", "node 7"),
    "bad base64": (request(inputs=[{"name": "a", "data": "%%%"}]), "bad_input", "base64"),
    "wrong type": (request(seed="x"), "bad_request", "seed"),
    "no bucket": (request(outputs={"delivery": "s3"}), "not_configured", "no bucket"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_is_an_error_with_a_hint_and_the_next_job_runs(
    bench: Bench, case: str
) -> None:
    body, code, named = BAD[case]
    problem = bench.bad(body)
    assert problem.code == code
    assert named in problem.message
    assert problem.hint
    assert bench.good(request()).artifacts


def test_a_result_too_large_is_an_error_that_says_so(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(PENNYREEL_INLINE_MAX_BYTES="1000000")
    graph = {"1": node("FakeBig", bytes=1 << 20)}
    problem = bench.bad(request(graph))
    assert problem.code == "result_too_large"
    assert "BUCKET_" in problem.hint
    assert "1000000" in problem.message
    assert problem.detail["outputs"] == [{"name": "fake_00001_.bin", "bytes": 1 << 20}]
    assert bench.good(request()).artifacts


def test_what_fits_by_its_files_but_not_by_its_labels_is_such_an_error_too(
    make_bench: Callable[..., Bench],
) -> None:
    """Without a bucket there is nowhere else to go."""
    size = 1 << 20
    bench = make_bench(PENNYREEL_INLINE_MAX_BYTES=str(4 * ((size + 2) // 3) + 5000))
    graph = {"1": node("FakeBig", bytes=size)}
    assert bench.good(request(graph)).artifacts[0].data
    problem = bench.bad(request(graph, metadata={"note": "x" * 9000}))
    assert (problem.code, problem.retryable) == ("result_too_large", False)
    assert "BUCKET_" in problem.hint


def test_the_platforms_own_limits_count_when_none_is_set(bench: Bench) -> None:
    graph = {"1": node("FakeBig", bytes=9 << 20)}  # 12.6 MB as base64
    assert bench.bad(request(graph), "abc-u1").code == "result_too_large"
    assert bench.good(request(graph), "sync-abc-u1").artifacts[0].bytes == 9 << 20


def test_the_key_for_api_nodes_goes_to_comfyui_and_nowhere_else(
    make_bench: Callable[..., Bench],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    key = "comfyui-SECRETKEY"
    caplog.set_level("DEBUG")
    bench = make_bench(COMFY_ORG_API_KEY=key)
    replies = [bench.run(request()), bench.run(request({"1": node("FakeError")}))]
    assert bench.prompts()[-1]["extra"] == {"api_key_comfy_org": key}
    assert bench.fake()["history"] == []  # the real one keeps it there, for anybody who asks
    out, err = capfd.readouterr()
    assert key not in repr(replies) + caplog.text + out + err + repr(bench.settings)


def test_an_info_request_tells_what_the_worker_is(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(RUNPOD_POD_ID="w")
    for body in ({"contract": 1, "op": "info"}, {"op": "info"}):
        info = parse_info(bench.run(body))
        assert info.versions["pennyreel"] == __version__
        assert info.versions["comfyui"] == "0.0-fake"
        assert info.models == {"checkpoints": ("fake.safetensors",)}
        assert "SaveImage" in info.nodes
        assert "hello-video" in info.templates
        assert info.gpu is not None
        assert (info.gpu.name, info.storage) == ("fake", "inline")
    assert "priority" in bench.bad({"contract": 1, "op": "info", "priority": 1}).message


def test_a_worker_that_refreshes_says_so_and_takes_one_job_at_a_time(
    make_bench: Callable[..., Bench],
) -> None:
    bench = make_bench(REFRESH_WORKER="True", PENNYREEL_CONCURRENCY="2")
    assert bench.settings.hold == 1
    assert bench.run(request())["refresh_worker"] is True
    assert bench.run(request({"1": node("FakeError")}))["refresh_worker"] is True


def test_progress_rises_and_ends_before_the_result(bench: Bench) -> None:
    bench.post_s = 0.05
    bench.good(request({"1": node("FakeSleep", seconds=1.2), **SAVE}), "job-p")
    percents = bench.percents("job-p")
    assert len(percents) >= 3
    assert percents == sorted(percents)
    assert percents[0] == 0
    assert any(5 < percent < 95 for percent in percents), "how far its graph is"
    assert "artifacts" in bench.posts[-1][1]


def test_a_result_waits_for_the_progress_that_is_under_way(bench: Bench) -> None:
    """What comes after the result would leave the job in progress for ever."""

    async def story() -> None:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def held(_job: dict[str, Any], _progress: dict[str, Any]) -> None:
            begun.set()
            await go_on.wait()

        bench.worker._post = held
        graph = {"1": node("FakeSleep", seconds=0.3), **SAVE}
        job = asyncio.ensure_future(bench.job(request(graph)))
        await begun.wait()
        await becomes(lambda: not bench.worker._live)
        await asyncio.sleep(0.05)  # time for what should not come
        assert not job.done()
        go_on.set()
        assert "artifacts" in await job

    play(story())


def test_many_jobs_at_once_never_post_progress_after_their_result(bench: Bench) -> None:
    bench.post_s = 0.02

    async def many() -> None:
        await asyncio.gather(*(bench.job(request(), f"many-{n}") for n in range(24)))
        await asyncio.sleep(0.1)  # time for what should not come

    play(many())
    for n in range(24):
        posts = [body for job, body in bench.posts if job == f"many-{n}"]
        assert "artifacts" in posts[-1]
        assert sum("artifacts" in body for body in posts) == 1


def test_a_node_that_reads_paths_is_refused_unless_the_operator_allows_it(
    bench: Bench, make_bench: Callable[..., Bench]
) -> None:
    graph = {"1": node("FakeOutput", filename="/etc/passwd", written=False)}
    before = len(bench.prompts())
    problem = bench.bad(request(graph))
    assert (problem.code, problem.retryable) == ("node_refused", False)
    assert "node 1 (FakeOutput).filename" in problem.message
    assert bench.bad(request({"1": node("VHS_LoadVideoPath", video="x")})).code == "node_refused"
    assert len(bench.prompts()) == before
    allowing = make_bench(PENNYREEL_ALLOW_NODES="FakeOutput")
    assert allowing.bad(request(graph)).code == "output_missing"


def test_all_that_is_wrong_is_told_at_once_before_comfyui_is_asked(bench: Bench) -> None:
    graph = {
        "1": node("SaveImge"),
        "2": node("LoadImage", image="no.png"),
        "3": node("KSampler", a=["9", 0]),
    }
    before = len(bench.prompts())
    problem = bench.bad(request(graph))
    assert problem.code == "unknown_node"
    assert "SaveImage" in problem.message  # what was meant
    told = [*problem.detail["findings"], *problem.detail["warnings"]]  # type: ignore[misc,union-attr]
    places = {(f["node"], f["input"]) for f in told}  # type: ignore[call-overload,index]
    assert {("1", None), ("2", "image"), ("3", "a")} <= places
    assert len(bench.prompts()) == before
