"""What a worker says of itself: to a client that asks, and in its log when it is ready."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from pennyreel_comfy.waiting import Deadline
from pennyreel_contract import CONTRACT, CONTRACT_MIN, Gpu, Info, parse_info
from pennyreel_worker.comfy import Comfy
from pennyreel_worker.info import describe, features_of, limits_of
from pennyreel_worker.log import JsonFormat, TextFormat, log
from pennyreel_worker.startup import Startup, announce, process_age_s
from worker.support import SECRET, Bench, settings_of

FACTS = Info(
    versions={"pennyreel": "9.9", "comfyui": "0.3.75", "torch": "2.13.0", "runpod": ""},
    gpu=Gpu(name="NVIDIA L4", type="cuda", vram_bytes=24_152_899_584),
    models={"checkpoints": ("a", "b"), "loras": ("c",)},
    nodes=("A", "B", "C"),
    templates=("hello-video",),
    storage="s3",
    packs={"pack-a": "d8d163cd90b1111f6227495e3467633676fbb346", "pack-b": "1.2"},
)


def test_an_info_says_who_it_is_what_it_has_and_what_it_can_do(comfy: Comfy) -> None:
    settings = settings_of(
        RUNPOD_POD_ID="pod-7", PENNYREEL_INPUT_MAX_BYTES="1000", PENNYREEL_PREVIEWS="1"
    )
    info = describe(comfy, settings, packs={"pack": "1"}, features=["models_by_url"], uptime_s=3.14)
    assert parse_info(json.loads(json.dumps(info.wire()))) == info
    assert (info.contract_min, info.contract_max) == (CONTRACT_MIN, CONTRACT)
    assert (info.worker_id, info.uptime_s, info.packs) == ("pod-7", 3.1, {"pack": "1"})
    assert info.versions["comfyui"] == "0.0-fake"
    assert info.versions["runpod"]
    assert info.models == {"checkpoints": ("fake.safetensors",)}
    assert "SaveImage" in info.nodes
    assert info.limits["input_max_bytes"] == 1000
    assert {"preview", "models_by_url", "progress"} <= set(info.features)
    assert info.gpu == comfy.gpu()


def test_an_info_names_the_packs_in_use_and_no_folder_that_holds_no_models(
    bench: Bench,
) -> None:
    info = parse_info(bench.run({"contract": 1, "op": "info"}))
    assert info.packs == {"fake": ""}  # by its classes; the fake has no files of it
    assert "checkpoints" in info.models
    assert not {"configs", "custom_nodes"} & set(info.models)


def test_nodes_that_are_known_are_not_asked_for_again(comfy: Comfy) -> None:
    session = comfy.ready(Deadline(60))
    info = describe(comfy, settings_of(), session=session, nodes={"B", "A"})
    assert info.nodes == ("A", "B")


def test_each_feature_is_explained_where_the_wire_is(bench: Bench) -> None:
    page = (Path(__file__).parents[2] / "docs" / "contract.md").read_text("utf-8")
    settings = settings_of(
        PENNYREEL_GPU_USD_PER_S="0.0002",
        PENNYREEL_PREVIEWS="1",
        COMFY_ORG_API_KEY="canary-key",
        BUCKET_ENDPOINT_URL="https://s3.example.org/b",
        BUCKET_ACCESS_KEY_ID="AKIA",
        BUCKET_SECRET_ACCESS_KEY=SECRET,
    )
    told = bench.run({"contract": 1, "op": "info"})["features"]
    found = features_of(settings, Gpu(name="x", type="cuda"), told)
    assert [name for name in found if f"`{name}`" not in page] == []


def test_features_follow_the_settings() -> None:
    bare = set(features_of(settings_of(), None))
    assert not bare & {"s3", "preview", "cost", "peak_vram", "api_nodes"}
    settings = settings_of(
        PENNYREEL_GPU_USD_PER_S="0.0002",
        COMFY_ORG_API_KEY="canary-key",
        BUCKET_ENDPOINT_URL="https://s3.example.org/b",
        BUCKET_ACCESS_KEY_ID="AKIA",
        BUCKET_SECRET_ACCESS_KEY=SECRET,
    )
    found = features_of(settings, Gpu(name="x", type="cuda"))
    assert {"s3", "cost", "peak_vram", "api_nodes"} <= set(found)
    assert SECRET not in str(found) + str(limits_of(settings))
    assert "canary-key" not in str(found)


def test_stages_are_counted_from_the_process_start_and_the_first_time_counts() -> None:
    startup = Startup(age_s=2.0)
    startup.mark("imports")
    first = startup.stages["imports"]
    startup.mark("ready")
    startup._began -= 60  # a minute later
    startup.mark("imports")
    assert 2000 <= first < 3000
    assert startup.stages["imports"] == first
    assert list(startup.stages) == ["imports", "ready"]
    assert startup.uptime_s() >= 62.0


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc here")
def test_the_age_of_a_process_is_the_systems() -> None:
    age = time.time() - psutil.Process(os.getpid()).create_time()
    assert process_age_s() == pytest.approx(age, abs=1.5)


def test_the_age_of_a_process_without_proc_is_its_recorders(tmp_path: Path) -> None:
    assert process_age_s(tmp_path / "none") == 0.0
    odd = tmp_path / "stat"
    odd.write_text("1 (a) b) " + " ".join("0" for _ in range(30)))
    assert process_age_s(odd, now=lambda: 5.0) == 5.0  # began with the machine


@pytest.fixture
def records() -> list[logging.LogRecord]:
    kept: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record)

    handler, level = Keep(), log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    startup = Startup(age_s=1.0)
    startup.mark("imports")
    startup.mark("comfyui")
    announce(FACTS, startup)
    log.removeHandler(handler)
    log.setLevel(level)
    return kept


def test_the_start_is_one_line_for_a_person(records: list[logging.LogRecord]) -> None:
    (record,) = records
    line = TextFormat("%(message)s").format(record)
    assert "\n" not in line
    for part in (
        "pennyreel 9.9", "contract 1", "comfyui 0.3.75", "torch 2.13.0", "NVIDIA L4 24.2 GB",
        "3 nodes", "packs: pack-a d8d163cd, pack-b 1.2;", "2 checkpoints, 1 loras",
        "1 templates", "storage s3", "imports 10",
    ):  # fmt: skip
        assert part in line
    assert "runpod" not in line  # unknown


def test_the_start_is_one_object_for_a_machine(records: list[logging.LogRecord]) -> None:
    (record,) = records
    body = json.loads(JsonFormat("pod-1").format(record))
    assert body["event"] == "ready"
    assert body["versions"]["comfyui"] == "0.3.75"
    assert body["models"] == {"checkpoints": 2, "loras": 1}
    assert (body["nodes"], body["templates"], body["storage"]) == (3, 1, "s3")
    assert body["gpu"]["vram_bytes"] == 24_152_899_584
    assert list(body["startup_ms"]) == ["imports", "comfyui"]


HEAVY = ("torch", "numpy", "PIL")
IMPORT_ALL = """
import importlib, pkgutil, sys
import pennyreel_worker
for module in pkgutil.walk_packages(pennyreel_worker.__path__, "pennyreel_worker."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
import runpod
print([name for name in ("torch", "numpy", "PIL") if name in sys.modules])
"""


def test_the_workers_process_imports_nothing_heavy(tmp_path: Path) -> None:
    """Where they are installed: so each is, and an import in a `try` would be seen, too."""
    for name in HEAVY:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    shown = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.stdout.splitlines()[-1:] == ["[]"], shown.stderr
