"""`pennyreel setup`: it says what is missing, asks once, does it, and can be gone on with."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from client.commands import Cli
from client.provision.conftest import DATA, MODEL, workflow
from client.routing.conftest import ended, started
from comfy.models.library import Library, safetensors, sha256
from fakes.comfyui import FakeComfy
from fakes.waits import eventually
from pennyreel import localcomfy
from pennyreel_comfy.models import Entry
from pennyreel_comfy.models.manifest import written
from pennyreel_comfy.process import free_port


def model(root: Path) -> Path:
    return root / "comfy" / "models" / "checkpoints" / MODEL


def test_without_an_argument_it_is_for_what_generate_uses(cli: Cli) -> None:
    ran = cli("setup", "--dry-run", "--device", "cpu")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0].split() == ["to", "install", "download", "licence", "from"]
    assert lines[1].startswith("ComfyUI ")
    for told in ("Apache-2.0", "CreativeML OpenRAIL-M", "2.13 GB", "d8d163cd90", "huggingface.co"):
        assert told in ran.out
    assert " to download, " in ran.out
    assert " free in " in ran.out
    assert "minutes, assuming a line of 100 Mbit/s" in ran.out
    assert lines[-2] == "then ComfyUI is started"
    assert "it wants a GPU, and none is used here" in lines[-1]
    assert "wants a GPU" not in cli("setup", "hello-video", "--dry-run").out


def test_where_nobody_can_be_asked_it_wants_the_flag_and_changes_nothing(
    cli: Cli, home: Path
) -> None:
    ran = cli("setup", "sd15-image")
    assert ran.code == 2
    assert "error[consent_required]" in ran.err
    assert "pennyreel setup sd15-image --yes" in ran.err
    assert not (home / "comfyui").exists()


def test_the_plan_is_told_to_programs(cli: Cli, home: Path) -> None:
    body = cli("setup", "--json").json
    assert body["for"] == "animatediff-v3"
    assert body["done"] is None
    assert not body["complete"]
    assert {m["licence"] for m in body["models"]} == {"Apache-2.0", "CreativeML OpenRAIL-M"}
    packs = sum(p["download_bytes"] for p in body["node_packs"])
    models = sum(m["download_bytes"] for m in body["models"])
    own = body["comfyui"]["download_mb"] * 1_000_000
    assert body["download_bytes"] == own + packs + models
    assert not (home / "comfyui").exists()


def test_a_missing_model_comes_and_comfyui_starts_and_the_job_runs(
    cli: Cli, root: Path, file: Path, entry: Entry, library: Library
) -> None:
    ran = cli("setup", file, "--yes", "--allow-host", library.host)
    assert ran.code == 0, ran.err
    assert model(root).read_bytes() == DATA
    server = localcomfy.running(root)
    assert server is not None
    assert f"ComfyUI runs at {server.url}" in ran.out
    assert ran.err.splitlines()[-1] == f"next: pennyreel run {file}"
    again = cli("setup", file)
    assert (again.code, again.out) == (0, f"everything that {file} needs is here\n")
    made = cli("run", file)
    assert made.code == 0, made.err
    assert len(made.out.splitlines()) == 1


def test_it_is_done_and_told_to_programs(
    cli: Cli, root: Path, file: Path, entry: Entry, library: Library
) -> None:
    ran = cli("setup", file, "--yes", "--json", "--no-start", "--allow-host", library.host)
    assert ran.code == 0, ran.err
    body = ran.json
    assert body["complete"]
    assert [m["how"] for m in body["done"]["models"]] == ["downloaded"]
    assert body["done"]["url"] is None
    assert localcomfy.running(root) is None
    assert cli("setup", file, "--json", "--no-start").json["complete"]


def test_a_model_that_comes_needs_no_new_start(
    cli: Cli, root: Path, file: Path, entry: Entry, library: Library
) -> None:
    assert cli("comfyui", "start", "--port", str(free_port())).code == 0
    before = localcomfy.running(root)
    ran = cli("setup", file, "--yes", "--allow-host", library.host)
    assert ran.code == 0, ran.err
    assert localcomfy.running(root) == before


def test_a_model_that_does_not_come_says_why_and_how_to_go_on(
    cli: Cli, root: Path, file: Path, entry: Entry, library: Library
) -> None:
    ran = cli("setup", file, "--yes")
    assert ran.code == 2
    assert "warning: " in ran.err
    assert f"Go on with: pennyreel setup {file}" in ran.err
    library.files["/tiny"].status = 401
    ran = cli("setup", file, "--yes", "--allow-host", library.host)
    assert ran.code == 3
    assert "answers 401" in ran.err
    assert localcomfy.running(root) is None


def test_what_only_the_user_can_get_is_told_after_all_else_was_done(
    cli: Cli, root: Path, tmp_path: Path, entry: Entry, library: Library
) -> None:
    path = tmp_path / "odd.json"
    graph = workflow()
    graph["4"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "mine.sft"}}
    path.write_text(json.dumps(graph))
    ran = cli("setup", path, "--yes", "--allow-host", library.host)
    assert ran.code == 4
    assert model(root).exists()
    assert "only you can get" in ran.err
    assert "models add URL --folder checkpoints --name mine.sft" in ran.err
    body = cli("setup", path, "--yes", "--json")
    assert body.code == 4
    assert not body.json["complete"]
    assert body.json["by_hand"]["models"][0]["name"] == "mine.sft"


def test_somebody_elses_comfyui_is_left_alone(
    cli: Cli, comfy: FakeComfy, file: Path, entry: Entry, home: Path
) -> None:
    ran = cli("setup", file, "--yes")
    assert ran.code == 4
    assert f"the ComfyUI at {comfy.url} is not pennyreel's own" in ran.err
    assert f"put {MODEL} into its models/checkpoints from " in ran.err
    assert not (home / "comfyui").exists()
    comfy.models["checkpoints"].append(MODEL)
    ran = cli("setup", file)
    assert ran.code == 0
    assert "has all that" in ran.out
    assert cli("setup", file, "--json").json["complete"]


@pytest.mark.parametrize("args", [["nothing"], ["missing.json"]])
def test_what_does_not_exist_is_refused(args: list[str], cli: Cli) -> None:
    assert cli("setup", *args).code == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_says_how_to_go_on_and_goes_on_from_there(
    number: signal.Signals,
    cli: Cli,
    root: Path,
    home: Path,
    file: Path,
    entry: Entry,
    library: Library,
) -> None:
    data = safetensors(6_000_000, seed=b"large")
    library.put("/tiny", data, hold_at=4_000_000)
    larger = entry.model_copy(update={"sha256": sha256(data), "bytes": len(data)})
    (home / "models.toml").write_text(written(larger))
    arguments = ("setup", str(file), "--yes", "--no-start", "--allow-host", library.host)
    process = started(*arguments)
    parts = root / "comfy" / "models" / ".pennyreel" / "parts"
    try:
        eventually(lambda: any(p.stat().st_size > 2_000_000 for p in parts.glob("*.part")))
    finally:
        process.send_signal(number)
        ran = ended(process)
    assert ran.code == 130, ran.err
    assert f"Go on with: pennyreel setup {file}" in ran.err
    assert "Traceback" not in ran.err
    assert not model(root).exists()
    library.go_on.set()
    left = cli("setup", file, "--json", "--no-start").json["download_bytes"]
    assert 0 < left < 4_000_000
    again = cli(*arguments)
    assert again.code == 0, again.err
    assert model(root).read_bytes() == data
    assert library.asked[-1].start > 2_000_000, "it was resumed"


def test_its_help_is_short(cli: Cli) -> None:
    ran = cli("setup", "--help")
    assert ran.code == 0
    assert "asks once" in ran.out
